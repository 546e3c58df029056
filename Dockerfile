# Base images are named by tag. Where builds must be reproducible to the byte, pin them by digest:
#   docker build --build-arg BUILDER=rust@sha256:... --build-arg BASE=gcr.io/distroless/cc-debian13@sha256:... .
ARG BUILDER=rust:1.95-trixie
# glibc, libgcc and CA certificates, no shell; the same Debian as the builder's, so that glibc fits.
ARG BASE=gcr.io/distroless/cc-debian13:nonroot

FROM ${BUILDER} AS build
WORKDIR /src
# Without rust-toolchain.toml: the image's own toolchain builds, and rustfmt and clippy are not fetched.
COPY Cargo.toml Cargo.lock ./
COPY src src
# Only named by the workspace; they are not built.
COPY e2e/Cargo.toml e2e/
COPY e2e/src e2e/src
COPY fuzz/Cargo.toml fuzz/
COPY fuzz/src fuzz/src
# aws-lc, the crypto library, is compiled by the image's C compiler; it needs no CMake on Linux.
# The target folder is a cache that is gone after the step, so the binary is copied out of it.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target,id=vault-secrets-reloader-target,sharing=locked \
    cargo build --locked --release --package vault-secrets-reloader \
    && install -D target/release/vault-secrets-reloader /out/vault-secrets-reloader

FROM ${BASE}
COPY --from=build /out/vault-secrets-reloader /usr/local/bin/vault-secrets-reloader
# By number, so that Kubernetes can see that it is not root.
USER 65532:65532
EXPOSE 8080
ENTRYPOINT ["/usr/local/bin/vault-secrets-reloader"]
