#!/usr/bin/env bash
# Builds the controller for amd64 or arm64, on a Debian of either: build.sh ARCHITECTURE FOLDER
# It cross-compiles for the other architecture, because emulating a compiler takes ten times as long. The
# Dockerfile and check.sh run it. Crypto in C (aws-lc) needs a C compiler, and neither CMake nor clang.
set -euo pipefail

arch=${1:?usage: build.sh amd64|arm64 FOLDER}
out=${2:?usage: build.sh amd64|arm64 FOLDER}
case $arch in
  amd64) target=x86_64-unknown-linux-gnu gnu=x86_64-linux-gnu ;;
  arm64) target=aarch64-unknown-linux-gnu gnu=aarch64-linux-gnu ;;
  *)
    echo "build.sh: $arch is neither amd64 nor arm64" >&2
    exit 2
    ;;
esac

if [[ $(dpkg --print-architecture) != "$arch" ]]; then
  if ! command -v "$gnu-gcc" >/dev/null; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends \
      "gcc-${gnu//_/-}" "libc6-dev-$arch-cross"
    rm -rf /var/lib/apt/lists/*
  fi
  rustup target add "$target"
fi

variable=${target//-/_}
export "CARGO_TARGET_${variable^^}_LINKER=$gnu-gcc" "CC_$variable=$gnu-gcc" "AR_$variable=$gnu-ar"
cargo build --locked --release --package vault-secrets-reloader --target "$target"
install -D "${CARGO_TARGET_DIR:-target}/$target/release/vault-secrets-reloader" "$out/vault-secrets-reloader"
