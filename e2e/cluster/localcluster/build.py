"""Builds what a cluster runs: the Go programs, the pause program, kubectl and two images."""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, Sequence

from oci_image import File, write_image

from . import machine
from .layout import BIN, COREDNS_IMAGE, IMAGES, PAUSE_IMAGE, REPOSITORY, ROOT, SOURCE, ClusterError

sys.path.append(str(REPOSITORY / "e2e" / "programs"))

import go_programs  # noqa: E402

PROGRAMS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy")
KUBECTL_MINIMUM = (1, 33)


def build() -> None:
    """Builds all that is not there or whose source changed since. Several at once wait for each other."""
    for folder in (BIN, IMAGES):
        folder.mkdir(parents=True, exist_ok=True)
    with open(ROOT / ".build.lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        missing = machine.missing_packages(for_build=True)
        if missing:
            machine.install(missing)
        try:
            go_programs.build("./kubernetes", BIN / "kubernetes", _version_flags())
            go_programs.build("./coredns", BIN / "coredns")
        except go_programs.BuildError as error:
            raise ClusterError(str(error)) from error
        for program in PROGRAMS:
            _link(BIN / program, "kubernetes")
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
    version = go_programs.version_of("k8s.io/kubernetes")
    major, minor, _ = version.removeprefix("v").split(".")
    values = {"gitVersion": version, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    return [f"-X {package}.{key}={value}" for package in packages for key, value in values.items()]


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
