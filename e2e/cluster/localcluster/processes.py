"""The processes of one cluster, as the machine sees them: found, started, ended.

A cluster's processes are those in its PID namespace; nothing depends on a list that was written
down. The first of them is called `stoker-node` and carries the cluster's name and folder."""

import os
import resource
import signal
import subprocess
import time
from pathlib import Path
from typing import Iterator, NamedTuple, Optional, Sequence

from . import components, machine
from .layout import BIN, ClusterError, Layout


class Node(NamedTuple):
    """The first process of a cluster that runs: its number, and the folder that the cluster was made in."""

    pid: int
    state: Path


def find_node(layout: Layout) -> Optional[Node]:
    """The first process of the cluster, or None when it does not run."""
    try:
        found = _as_node(int(layout.pid_file.read_text()), layout.name)
    except (OSError, ValueError):
        found = None
    return found or next((node for pid in _all() if (node := _as_node(pid, layout.name))), None)


def start_node(layout: Layout) -> Node:
    """Makes the cluster's namespaces and what is in them, and returns when `node` has finished its work."""
    layout.node_pid.unlink(missing_ok=True)
    with open(layout.log / "node.log", "ab") as log:
        unshare = subprocess.Popen(
            ["unshare", "--net", "--mount", "--pid", "--fork", "--propagation", "private", "--",
             str(Path(__file__).resolve().parent.parent / "node"), layout.name, str(layout.state), str(BIN)],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, env=_environment(), cwd="/",
        )  # fmt: skip
    try:
        while unshare.poll() is None:
            try:
                node = _as_node(int(layout.node_pid.read_text()), layout.name)
            except (OSError, ValueError):
                node = None
            if node:
                layout.pid_file.write_text(f"{node.pid}\n")
                return node
            time.sleep(0.02)
    except BaseException:
        _abandon(unshare)
        raise
    raise ClusterError(f"the cluster's namespaces could not be made: {(layout.log / 'node.log').read_text().strip()}")


def _abandon(unshare: subprocess.Popen) -> None:
    """Ends a node whose first process has no name yet, so that nobody would find it later."""
    # Stopped, it makes no child after its children were listed.
    unshare.send_signal(signal.SIGSTOP)
    for pid in _all():
        if _parent(pid) == unshare.pid:
            os.kill(pid, signal.SIGKILL)
    unshare.kill()
    unshare.wait()


def running(node: Node) -> dict:
    """program -> process number, of the node's programs that run."""
    found = {}
    for pid in _in_namespace(node, "pid"):
        program = os.path.basename((_command_line(pid) or [""])[0])
        if program in components.COMMANDS:
            found[program] = pid
    return found


def start(layout: Layout, node: Node, program: str) -> None:
    """Starts one of the node's programs; its output is added to its log."""
    # A server needs many open files; pods inherit this from containerd.
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with open(layout.log / f"{program}.log", "ab") as log:
        enter(
            node,
            # Two forks, so that the cluster's first process becomes the parent and nothing waits out here.
            ["prlimit", f"--nofile={most}:{most}", "setsid", "--fork", program, *components.COMMANDS[program]],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip


def stop(node: Node, program: str, patience: float = 5.0) -> bool:
    """Ends one of the node's programs and waits until it is gone. False when it did not run."""
    pid = running(node).get(program)
    if pid is None:
        return False
    _end([pid], patience)
    return True


def stop_all(node: Node) -> list:
    """Ends every process of the cluster, and those that `exec` started in its network, whose command lines it returns."""
    if os.stat("/proc/self/ns/net").st_ino == _namespace(node.pid, "net"):
        raise ClusterError("this was started by e2e/cluster/exec inside the cluster: run it outside")
    inside = set(_in_namespace(node, "pid"))
    parent = _parent(node.pid)
    guests = [pid for pid in _in_namespace(node, "net") if pid not in inside and pid != parent]
    said = [" ".join(_command_line(pid)) for pid in guests]
    _end(guests, 2.0)
    # The kernel ends the rest of a PID namespace with its first process, and holds that one until all are gone.
    _end([node.pid], 0.0)
    if parent is not None and _command_line(parent)[:1] == ["unshare"]:
        _end([parent], 5.0)
    return said


def enter(node: Node, command: Sequence[str], **options) -> subprocess.CompletedProcess:
    """Runs a command in the cluster's namespaces; `options` are those of subprocess.run."""
    return subprocess.run(
        ["nsenter", "--target", str(node.pid), "--net", "--mount", "--pid", "--", *command],
        env=_environment(), check=False, **options,
    )  # fmt: skip


def kubectl(layout: Layout, node: Node, *arguments: str, **options) -> subprocess.CompletedProcess:
    """Runs kubectl against the cluster, from its network."""
    return subprocess.run(
        ["nsenter", "--target", str(node.pid), "--net", "--", str(BIN / "kubectl"), *arguments],
        env={**_environment(), "KUBECONFIG": str(layout.kubeconfig)}, check=False, **options,
    )  # fmt: skip


def _environment() -> dict:
    """Nothing of the caller's: a proxy setting, for one, would reach into the cluster."""
    return {"PATH": f"/run/stoker-bin:{machine.SYSTEM_PATH}", "HOME": "/root", "LANG": "C.UTF-8"}


def _all() -> Iterator[int]:
    return (int(entry) for entry in os.listdir("/proc") if entry.isdigit())


def _command_line(pid: int) -> list:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")
    except OSError:
        return []


def _as_node(pid: int, name: str) -> Optional[Node]:
    words = _command_line(pid)
    return Node(pid, Path(words[2])) if len(words) == 3 and words[:2] == ["stoker-node", name] else None


def _parent(pid: int) -> Optional[int]:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None


def _namespace(pid: int, kind: str) -> int:
    try:
        return os.stat(f"/proc/{pid}/ns/{kind}").st_ino
    except OSError:
        return 0


def _in_namespace(node: Node, kind: str) -> list:
    wanted = _namespace(node.pid, kind)
    return [pid for pid in _all() if wanted and _namespace(pid, kind) == wanted]


def _gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def _end(pids: Sequence[int], patience: float) -> None:
    """Asks the processes to end, and kills what is still there after `patience` seconds."""
    for sent, wait in ((signal.SIGTERM, patience), (signal.SIGKILL, 10.0)):
        left = [pid for pid in pids if not _gone(pid)]
        if wait:
            for pid in left:
                try:
                    os.kill(pid, sent)
                except ProcessLookupError:
                    pass
        deadline = time.monotonic() + wait
        while any(not _gone(pid) for pid in left) and time.monotonic() < deadline:
            time.sleep(0.02)
    left = [pid for pid in pids if not _gone(pid)]
    if left:
        raise ClusterError(f"processes {', '.join(map(str, left))} do not end, not even by SIGKILL")
