# Both images are pinned by the digests of their indexes, which hold amd64 and arm64. The dependency bot
# (.github/dependabot.yml) updates them. To build from a mirror, name it for the image:
#   docker build --build-context gcr.io/distroless/cc-debian13:nonroot=docker-image://mirror.example.com/cc .
# The Rust version is that of rust-toolchain.toml: change both together.
FROM --platform=$BUILDPLATFORM rust:1.95-trixie@sha256:f49565f188ee00bc2a18dd418183f2c5f23ef7d6e691890517ed341a598f67c3 AS build
ARG TARGETARCH
WORKDIR /src
# Without rust-toolchain.toml: the image's own toolchain builds, and rustfmt and clippy are not fetched.
COPY Cargo.toml Cargo.lock ./
COPY deploy/image/build.sh deploy/image/
COPY src src
# Only named by the workspace; they are not built.
COPY e2e/Cargo.toml e2e/
COPY e2e/src e2e/src
COPY fuzz/Cargo.toml fuzz/
COPY fuzz/src fuzz/src
# Cross-compiled on the builder's own architecture. The target folder is a cache that is gone after the
# step, so the binary is copied out of it.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target,id=vault-secrets-reloader-target,sharing=locked \
    deploy/image/build.sh "$TARGETARCH" /out

# glibc, libgcc and CA certificates, no shell; the same Debian as the builder's, so that glibc fits.
FROM gcr.io/distroless/cc-debian13:nonroot@sha256:e792ab3d241a468a4fd7519ddbbebe66b49b5f365771716ea688ad40b6c6f1c2
COPY --from=build /out/vault-secrets-reloader /usr/local/bin/vault-secrets-reloader
# By number, so that Kubernetes can see that it is not root.
USER 65532:65532
EXPOSE 8080
ENTRYPOINT ["/usr/local/bin/vault-secrets-reloader"]
