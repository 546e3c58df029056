#!/usr/bin/env bash
# Shows without a container engine that the image would run:
#   check.sh            build the binary in a Debian 13 root as the Dockerfile does, then check it
#   check.sh BINARY     check this binary
# The check makes a root of nothing but the files that the base image has (gcr.io/distroless/cc-debian13),
# adds the binary, and runs it there as the image's user. Needs root and debootstrap. The Debian root is
# made once, in a minute, into the cache. A build takes the machine's Rust toolchain and downloads.
set -euo pipefail
cd "$(dirname "$0")/../.."

suite=trixie
cache=${VSR_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/vault-secrets-reloader}
arch=$(dpkg --print-architecture)
debian=$cache/tools/debian-$suite-$arch
# What the base image takes from these packages; it has no package manager, and runs no scripts of theirs.
packages=(base-files ca-certificates gcc-14-base libc6 libgcc-s1 libgomp1 libstdc++6 media-types netbase tzdata)
program=/usr/local/bin/vault-secrets-reloader

[[ $(id -u) == 0 ]] || {
  echo "image: run this as root: it makes roots and changes into them" >&2
  exit 1
}
command -v debootstrap >/dev/null || {
  echo "image: install debootstrap first" >&2
  exit 1
}

if [[ ! -d $debian ]]; then
  echo "image: making a root of Debian 13, once"
  mkdir -p "$cache/tools"
  making=$(mktemp -d "$cache/tools/making-debian.XXXXXX")
  trap 'rm -rf -- "$making"' EXIT
  include=$(IFS=, && echo "gcc,libc6-dev,${packages[*]}")
  debootstrap --variant=minbase --include="$include" "$suite" "$making" http://deb.debian.org/debian >"$making.log" 2>&1 || {
    tail "$making.log" >&2
    exit 1
  }
  mv "$making.log" "$making/debootstrap.log"
  mv "$making" "$debian"
fi

work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT
chmod 755 "$work"

if [[ -n ${1:-} ]]; then
  binary=$1
else
  # Everything that is mounted is gone with the namespace.
  binary=$work/built/vault-secrets-reloader
  mkdir -p "$work/built" "$debian/src" "$debian/rust" "$debian/cargo" "$debian/out"
  cargo fetch --locked
  # shellcheck disable=SC2016 # The variables are those of the inner shell.
  toolchain=$(rustc --print sysroot) home=${CARGO_HOME:-$HOME/.cargo} \
    debian=$debian built=$work/built unshare --mount bash -euc '
      mount --bind . "$debian/src" && mount -o remount,bind,ro "$debian/src"
      mount --bind "$toolchain" "$debian/rust" && mount -o remount,bind,ro "$debian/rust"
      mount --bind "$home" "$debian/cargo"
      mount --bind "$built" "$debian/out"
      mount -t proc proc "$debian/proc"
      mount --bind /dev "$debian/dev"
      exec chroot "$debian" env -i PATH=/rust/bin:/usr/bin:/bin CARGO_HOME=/cargo CARGO_NET_OFFLINE=true \
        CARGO_TARGET_DIR=/out/target bash -euc "cd /src && deploy/image/build.sh \"\$(dpkg --print-architecture)\" /out"
    '
  echo "image: built in Debian $(cat "$debian/etc/debian_version")"
fi

# The image: the files of the packages without documentation, and what the base image generates.
image=$work/image
mkdir "$image"
chroot "$debian" dpkg-query --listfiles "${packages[@]}" | grep '^/' | sort -u |
  grep -vE '^/(usr/share/(doc|man|info|lintian|bug|locale)|etc/(dpkg|update-motd.d)|usr/s?bin)/' >"$work/files"
# Folders come from the list too, so without what else is in them.
tar --create --directory "$debian" --no-recursion --verbatim-files-from --files-from <(sed 's|^/|./|' "$work/files") |
  tar --extract --directory "$image"
install -D -m 644 "$debian/etc/ssl/certs/ca-certificates.crt" "$image/etc/ssl/certs/ca-certificates.crt"
install -d -m 1777 "$image/tmp"
printf 'root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin\n' >"$image/etc/passwd"
printf 'root:x:0:\nnonroot:x:65532:\n' >"$image/etc/group"
install -D -m 755 "$binary" "$image$program"
chmod 755 "$image"

fail() {
  echo "image: $*" >&2
  exit 1
}

# in_image ARGUMENT...: runs the program as the image does: as its user, and without our variables.
in_image() {
  env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin chroot --userspec=65532:65532 "$image" "$program" "$@"
}

echo "image: $(du -sm "$image" | cut -f 1) MB, of which the program has $(du -sm "$image$program" | cut -f 1)"
for shell in bin/sh bin/bash usr/bin/apt usr/bin/dpkg; do
  [[ ! -e $image/$shell ]] || fail "$shell is there; the base image has none"
done

# ldd is a shell script, and there is no shell: the loader itself lists what it finds.
loader=$(find "$image/usr/lib64" "$image/usr/lib" -name 'ld-linux-*.so.*' -print -quit)
libraries=$(chroot "$image" "${loader#"$image"}" --list "$program") || fail "the loader cannot load the program"
printf '%s\n' "$libraries"
! grep -q 'not found' <<<"$libraries" || fail "a library is missing"
if command -v objdump >/dev/null; then
  echo "image: needs $(objdump -T "$binary" | grep -o 'GLIBC_[0-9.]*' | sort -V | tail -n 1) or newer"
fi

version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
said=$(in_image --version)
[[ $said == *" $version"* ]] || fail "--version says '$said', not $version"
echo "image: --version says '$said'"

# shellcheck disable=SC2016 # The reference is no variable of this script.
reference='${vault:secret/data/mysql#USER}'
in_image explain "$reference" | grep -q 'secret/data/mysql' || fail "explain does not know a reference"
echo "image: explain reads a reference"

in_image check - <deploy/examples/workloads.yaml >"$work/checked" || fail "check does not read the example"
grep -q 'secret/data/' "$work/checked" || fail "check shows no secret of the example"
echo "image: check reads deploy/examples/workloads.yaml, $(wc -l <"$work/checked") lines"

# The controller starts, and tries to reach a cluster that is not there. For that, its clients must have
# found the CA certificates: without them it ends at once.
cat >"$image/tmp/kubeconfig" <<'KUBECONFIG'
apiVersion: v1
kind: Config
clusters: [{name: nowhere, cluster: {server: "https://127.0.0.1:1"}}]
users: [{name: nobody, user: {token: none}}]
contexts: [{name: nowhere, context: {cluster: nowhere, user: nobody, namespace: default}}]
current-context: nowhere
KUBECONFIG
env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin KUBECONFIG=/tmp/kubeconfig LISTEN_ADDRESS=127.0.0.1:0 \
  VAULT_ADDR=https://127.0.0.1:1 VAULT_ROLE=reloader chroot --userspec=65532:65532 "$image" \
  "$program" --status-address 127.0.0.1:0 >"$work/log" 2>&1 &
controller=$!
for ((tenths = 0; tenths < 300; tenths++)); do
  grep -q 'Cannot watch' "$work/log" && break
  kill -0 "$controller" 2>/dev/null || break
  sleep 0.1
done
kill "$controller" 2>/dev/null || true
code=0
wait "$controller" || code=$?
if [[ $code != 0 ]] || ! grep -q 'Cannot watch' "$work/log"; then
  fail "the controller ends with $code: $(cat "$work/log")"
fi
echo "image: the controller starts, finds the CA certificates, and ends on SIGTERM"
echo "image: all checks passed"
