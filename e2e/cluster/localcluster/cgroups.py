"""The cluster's own cgroup, in every hierarchy of the machine (cgroup v1, v2 or both)."""

import errno
import time
from pathlib import Path
from typing import Iterator

from .layout import ClusterError

# The kubelet refuses a cgroup root that lacks one of these.
WANTED = ("cpu", "cpuset", "memory", "pids")


def _hierarchies() -> Iterator[tuple]:
    """Each mounted hierarchy once, as (mount point, "cgroup" or "cgroup2", its options)."""
    seen = set()
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        kind = fields[fields.index("-") + 1]
        if kind in ("cgroup", "cgroup2") and fields[2] not in seen:
            seen.add(fields[2])
            yield Path(fields[4].encode().decode("unicode_escape")), kind, fields[-1].split(",")


def missing() -> list:
    """The controllers that pods need and that this machine does not offer."""
    offered = set()
    for mount, kind, options in _hierarchies():
        offered.update((mount / "cgroup.controllers").read_text().split() if kind == "cgroup2" else options)
    return [name for name in WANTED if name not in offered]


def create(name: str) -> None:
    """Makes the cgroup `name` below the root of every hierarchy."""
    for mount, kind, _ in _hierarchies():
        if kind == "cgroup2":
            offered = (mount / "cgroup.controllers").read_text().split()
            passed_on = (mount / "cgroup.subtree_control").read_text().split()
            for controller in (c for c in WANTED if c in offered and c not in passed_on):
                try:
                    (mount / "cgroup.subtree_control").write_text(f"+{controller}")
                except OSError as error:
                    why = "processes are in it" if error.errno == errno.EBUSY else error.strerror
                    raise ClusterError(
                        f"cgroup controller {controller} cannot be passed on from {mount}: {why}. In a container, "
                        "move its processes into a cgroup below that one first, or run on the machine itself"
                    ) from error
        folder = mount / name
        folder.mkdir(exist_ok=True)
        for setting in ("cpuset.cpus", "cpuset.mems"):
            # cgroup v1 starts with no CPU and no memory node, and then takes no process.
            if kind == "cgroup" and (folder / setting).exists():
                (folder / setting).write_text((mount / setting).read_text())


def remove(name: str, timeout: float = 5.0) -> None:
    """Removes the cgroup `name` and all below it. The processes in it must have been ended."""
    deadline = time.monotonic() + timeout
    for mount, _, _ in _hierarchies():
        while True:
            try:
                _remove_tree(mount / name)
                break
            except OSError as error:
                # A process that was just killed leaves its cgroup a moment later.
                if error.errno != errno.EBUSY or time.monotonic() > deadline:
                    raise ClusterError(f"cgroup {error.filename}: {error.strerror}; is a process still in it?") from error
                time.sleep(0.05)


def exists(name: str) -> bool:
    """Whether any hierarchy still has the cgroup `name`."""
    return any((mount / name).exists() for mount, _, _ in _hierarchies())


def _remove_tree(folder: Path) -> None:
    if not folder.is_dir():
        return
    for child in folder.iterdir():
        if child.is_dir():
            _remove_tree(child)
    folder.rmdir()
