"""Builds what a cluster runs: the Go programs, the pause program, kubectl and two images."""

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, Sequence

from oci_image import File, write_image

from . import machine
from .layout import BIN, COREDNS_IMAGE, IMAGES, PAUSE_IMAGE, ROOT, SOURCE, ClusterError

PROGRAMS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy")
KUBECTL_MINIMUM = (1, 33)
GO_FOLDER = "/usr/local/go/bin"


def build() -> None:
    """Builds all that is not there or whose source changed since. Several at once wait for each other."""
    for folder in (BIN, IMAGES):
        folder.mkdir(parents=True, exist_ok=True)
    with open(ROOT / ".build.lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        missing = machine.missing_packages(for_build=True)
        if missing:
            machine.install(missing)
        _build_go("kubernetes", _version_flags())
        for program in PROGRAMS:
            _link(BIN / program, "kubernetes")
        _build_go("coredns", [])
        _build_pause()
        _choose_kubectl()
        _build_image("pause.tar", PAUSE_IMAGE, "pause", "65535:65535")
        _build_image("coredns.tar", COREDNS_IMAGE, "coredns", "65532:65532")


def fingerprint() -> str:
    """Changes when a cluster made now would be made of something else than one made before."""
    parts = [stamp.read_text() for stamp in sorted(BIN.glob(".*.stamp"))]
    parts += [path.read_text() for path in sorted((SOURCE / "localcluster").glob("*.py"))]
    parts += [(SOURCE / name).read_text() for name in ("node", "coredns.yaml")]
    return _hash([part.encode() for part in parts])


def is_built() -> bool:
    """Whether everything that a cluster runs is there."""
    files = [BIN / name for name in (*PROGRAMS, "kubectl", "pause")]
    return all(path.exists() for path in (*files, IMAGES / "pause.tar", IMAGES / "coredns.tar"))


def _version_flags() -> list:
    """What `kubectl version` and the node's status say; the modules alone do not know their version."""
    found = re.search(r"^\tk8s.io/kubernetes (v(\d+)\.(\d+)\.\d+)$", (SOURCE / "kubernetes/go.mod").read_text(), re.MULTILINE)
    if not found:
        raise ClusterError(f"{SOURCE}/kubernetes/go.mod does not require k8s.io/kubernetes at a release")
    version, major, minor = found.groups()
    values = {"gitVersion": version, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    return [f"-X {package}.{key}={value}" for package in packages for key, value in values.items()]


def _build_go(name: str, linker_flags: Sequence[str]) -> None:
    folder = SOURCE / name
    environment = {**os.environ, "CGO_ENABLED": "0", "PATH": f"{os.environ.get('PATH', '')}:{GO_FOLDER}"}
    go = shutil.which("go", path=environment["PATH"])
    wanted = re.search(r"^go (\S+)$", (folder / "go.mod").read_text(), re.MULTILINE)
    if not go:
        raise ClusterError(f"no Go compiler: install Go {wanted[1] if wanted else ''} or later in PATH or in {GO_FOLDER}")
    asked = subprocess.run([go, "env", "GOVERSION"], capture_output=True, text=True, check=False, cwd=folder, env=environment)
    if asked.returncode:
        # An older Go that may not fetch the one that go.mod asks for refuses every command.
        raise ClusterError(f"{go} cannot be used in {folder}: {asked.stderr.strip()}")
    version = asked.stdout
    command = [go, "build", "-trimpath", "-ldflags", " ".join(["-s -w", *linker_flags]), "-o", str(BIN / f"{name}.new"), "."]
    sources = [folder / file for file in ("main.go", "go.mod", "go.sum")]
    with _unless_stamped(name, [version, *command[1:5]], sources, BIN / name) as changed:
        if changed:
            print(f"building {name} with {version.strip()} (the first time this takes some minutes)", flush=True)
            began = time.monotonic()
            if subprocess.run(command, cwd=folder, env=environment, check=False).returncode:
                raise ClusterError(f"go build failed in {folder}: see above")
            # Programs that run keep the file that they were started from.
            os.replace(BIN / f"{name}.new", BIN / name)
            print(f"built {name} in {time.monotonic() - began:.0f} s", flush=True)


def _build_pause() -> None:
    source = SOURCE / "pause.c"
    command = ["cc", "-static", "-O2", "-s", "-Wall", "-Wextra", "-Werror", "-o", str(BIN / "pause.new"), str(source)]
    with _unless_stamped("pause", command[1:7], [source], BIN / "pause") as changed:
        if changed:
            if subprocess.run(command, check=False).returncode:
                raise ClusterError(f"{source} does not compile: see above")
            os.replace(BIN / "pause.new", BIN / "pause")
            print("built pause", flush=True)


def _build_image(file: str, image: str, program: str, user: str) -> None:
    sources = [BIN / program, SOURCE / "oci_image.py"]
    with _unless_stamped(file, [image, user], sources, IMAGES / file) as changed:
        if changed:
            # Not compressed: it is imported on this machine, at every start of a cluster.
            layers = [[File(BIN / program, f"/{program}")]]
            write_image(IMAGES / file, image, layers, entrypoint=[f"/{program}"], user=user, compress=False)
            print(f"made image {image}", flush=True)


def _choose_kubectl() -> None:
    """Links the installed kubectl when it is new enough, else the one that was built with the rest."""
    installed = shutil.which("kubectl")
    if installed and Path(installed).parent != BIN:
        said = subprocess.run([installed, "version", "--client", "-o", "json"], capture_output=True, text=True, check=False)
        try:
            version = json.loads(said.stdout)["clientVersion"]
            found = (int(version["major"]), int(version["minor"].rstrip("+")))
        except (ValueError, KeyError):
            found = (0, 0)
        if found >= KUBECTL_MINIMUM:
            _link(BIN / "kubectl", installed)
            return
    _link(BIN / "kubectl", "kubernetes")


def _link(path: Path, to: str) -> None:
    if not path.is_symlink() or os.readlink(path) != to:
        path.unlink(missing_ok=True)
        path.symlink_to(to)


@contextmanager
def _unless_stamped(name: str, words: Sequence[str], sources: Sequence[Path], result: Path) -> Iterator[bool]:
    """Yields whether `result` must be made anew, and afterwards notes what it was made from."""
    stamp = BIN / f".{name}.stamp"
    now = _hash([*(word.encode() for word in words), *(source.read_bytes() for source in sources)])
    changed = not result.exists() or not stamp.exists() or stamp.read_text() != now
    yield changed
    if changed:
        stamp.write_text(now)


def _hash(parts: Sequence[bytes]) -> str:
    whole = hashlib.sha256()
    for part in parts:
        whole.update(hashlib.sha256(part).digest())
    return whole.hexdigest()
