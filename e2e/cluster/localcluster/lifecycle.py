"""Makes, repairs and removes clusters."""

import fcntl
import re
import shutil
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, Sequence

from . import build, cgroups, components, machine, pki, processes
from .layout import IMAGES, ROOT, SOURCE, ClusterError, Layout

API_SECONDS = 180
READY_SECONDS = 90
REPAIR_SECONDS = 30


def up(name: str) -> None:
    """Makes the cluster `name`; does nothing when it is up and well; repairs or replaces it when it is not."""
    layout = Layout(name)
    machine.check_root()
    build.build()
    with _locked(layout):
        node = _own_node(layout)
        if node:
            if layout.made_from.exists() and layout.made_from.read_text() != build.fingerprint():
                _say(f"cluster {name} was made of an older build; to replace it: e2e/cluster/down {name}, then up")
            if _repair(layout, node):
                return
            _say(f"cluster {name} does not get well: it is replaced")
        _remove(layout)
        began = time.monotonic()
        machine.check()
        try:
            _create(layout)
        except BaseException as error:
            try:
                # Told first: removing may fail too, and then only that would be known.
                if isinstance(error, Exception):
                    print(f"error: {error}", file=sys.stderr, flush=True)
            finally:
                _remove(layout)
            logs = f"the logs are in {layout.kept_logs}"
            if isinstance(error, ClusterError):
                raise ClusterError(f"cluster {name} could not be made, see above; {logs}") from error
            _say(logs)
            raise
        _say(f"cluster {name} is up after {time.monotonic() - began:.1f} s; try: e2e/cluster/exec {name} kubectl get pods -A")


def down(name: str) -> None:
    """Removes the cluster `name` and keeps its logs."""
    layout = Layout(name)
    machine.check_root()
    with _locked(layout):
        was_there = _own_node(layout) is not None or layout.state.exists()
        _remove(layout)
    _say(f"cluster {name} is down; its logs are in {layout.kept_logs}" if was_there else f"there is no cluster {name}")


def known() -> list:
    """The names of this checkout's clusters, up or half-made."""
    names = {path.parent.name for path in ROOT.glob("*/log")}
    for path in Path("/run").glob("stoker-*.pid"):
        name = path.name[len("stoker-") : -len(".pid")]
        node = processes.find_node(Layout(name))
        if node is None or node.state == Layout(name).state:
            names.add(name)
    return sorted(name for name in names if not name.endswith(".logs"))


def api(name: str, what: str) -> None:
    """Stops the cluster's API server, or starts it again with the same arguments and waits until it answers."""
    layout = Layout(name)
    machine.check_root()
    with _locked(layout):
        node = _need_node(layout)
        if what == "stop":
            stopped = processes.stop(node, "kube-apiserver")
            _say(f"the API server of {name} {'is stopped' if stopped else 'was stopped already'}")
            return
        _start_missing(layout, node, ["kube-apiserver"])
        _wait_for_api(layout, node)
        _say(f"the API server of {name} answers")


def load_images(name: str, files: Sequence[Path]) -> None:
    """Imports image archives, so that pods can use them by their names."""
    layout = Layout(name)
    machine.check_root()
    node = _need_node(layout)
    for file in files:
        began = time.monotonic()
        images = _import(node, file)
        _say(f"loaded {', '.join(images)} into {name} in {time.monotonic() - began:.1f} s")


def log_folders(name: str) -> list:
    """Where the logs are: (what, folder), of the cluster that runs, else of the one that ran last."""
    layout = Layout(name)
    if layout.log.exists():
        return [("programs", layout.log), ("pods", layout.state / "var-log" / "pods")]
    if layout.kept_logs.exists():
        return [("programs", layout.kept_logs / "log"), ("pods", layout.kept_logs / "pods")]
    raise ClusterError(f"there is no cluster {name} and there are no logs of one")


def _create(layout: Layout) -> None:
    for folder in (layout.log, layout.etc, layout.state / "var-lib", layout.state / "var-log"):
        folder.mkdir(parents=True)
    layout.made_from.write_text(build.fingerprint())
    pki.create(layout.state / "pki")
    for user in pki.KUBECONFIGS:
        path = layout.kubeconfig if user == "admin" else layout.etc / f"{user}.kubeconfig"
        path.touch(mode=0o600)
        path.write_text(pki.kubeconfig(layout.state / "pki", user, layout.name))
    components.write_configuration(layout, machine.cni_folder())
    cgroups.create(layout.cgroup)
    node = processes.start_node(layout)
    _say(f"cluster {layout.name}: namespaces, keys and settings are made")
    _start_missing(layout, node, components.BEFORE_API)
    _wait_for_containerd(layout, node)
    for file in ("pause.tar", "coredns.tar"):
        _import(node, IMAGES / file)
    _say("containerd answers, the node's images are in")
    _wait_for_api(layout, node)
    _say("the API server answers")
    _start_missing(layout, node, list(components.COMMANDS))
    applied = processes.kubectl(layout, node, "apply", "-f", str(SOURCE / "coredns.yaml"), capture_output=True, text=True)
    if applied.returncode:
        raise ClusterError(f"coredns.yaml could not be applied: {applied.stderr.strip()}")
    _wait_until_ready(layout, node, READY_SECONDS)


def _repair(layout: Layout, node: processes.Node) -> bool:
    """Starts what does not run. False when the cluster is not well after that."""
    started = _start_missing(layout, node, list(components.COMMANDS))
    if started:
        _say(f"cluster {layout.name}: {', '.join(started)} did not run and was started")
    try:
        _wait_for_api(layout, node)
        _wait_until_ready(layout, node, REPAIR_SECONDS)
    except ClusterError as error:
        _say(str(error))
        return False
    _say(f"cluster {layout.name} is {'up again' if started else 'already up'}")
    return True


def _remove(layout: Layout) -> None:
    node = processes.find_node(layout)
    ended = processes.stop_all(node) if node else []
    cgroups.remove(layout.cgroup)
    if layout.log.exists():
        shutil.rmtree(layout.kept_logs, ignore_errors=True)
        layout.kept_logs.mkdir(parents=True)
        layout.log.rename(layout.kept_logs / "log")
        if (layout.state / "var-log" / "pods").exists():
            (layout.state / "var-log" / "pods").rename(layout.kept_logs / "pods")
    if layout.state.exists():
        shutil.rmtree(layout.state)
    layout.pid_file.unlink(missing_ok=True)
    # Told last: nobody may be listening any more, and then telling fails.
    for command in ended:
        _say(f"ended in the network of {layout.name}: {command}")


def _own_node(layout: Layout):
    node = processes.find_node(layout)
    if node and node.state != layout.state:
        raise ClusterError(
            f"a cluster {layout.name} of another checkout runs, in {node.state}: take another name, or remove it there with "
            f"e2e/cluster/down {layout.name} (when that checkout is gone: kill {node.pid}, and remove what is left of the folder)"
        )
    return node


def _need_node(layout: Layout) -> processes.Node:
    node = _own_node(layout)
    if not node:
        raise ClusterError(f"cluster {layout.name} is not up: run e2e/cluster/up {layout.name}")
    return node


def _start_missing(layout: Layout, node: processes.Node, programs: Sequence[str]) -> list:
    there = processes.running(node)
    missing = [program for program in programs if program not in there]
    for program in missing:
        processes.start(layout, node, program)
    return missing


def _import(node: processes.Node, file: Path) -> list:
    try:
        with open(file, "rb") as archive:
            # Through a pipe, since some of the machine's folders are others inside.
            done = processes.enter(
                node, ["ctr", "--namespace", "k8s.io", "images", "import", "-"],
                stdin=archive, capture_output=True, text=True,
            )  # fmt: skip
    except OSError as error:
        raise ClusterError(f"{file}: {error.strerror}") from error
    if done.returncode:
        raise ClusterError(f"{file} could not be imported: {done.stderr.strip()}")
    return re.findall(r"unpacking (\S+)", done.stdout) or [str(file)]


def _wait_for_containerd(layout: Layout, node: processes.Node) -> None:
    def answers() -> str:
        done = processes.enter(node, ["ctr", "--connect-timeout", "1s", "version"], capture_output=True, text=True)
        return done.stderr.strip() if done.returncode else ""

    _wait("containerd", answers, layout, node, ["containerd"], 30)


def _wait_for_api(layout: Layout, node: processes.Node) -> None:
    def answers() -> str:
        done = processes.kubectl(
            layout, node, "get", "--raw", "/readyz", "--request-timeout=2s", capture_output=True, text=True
        )
        return done.stderr.strip() if done.returncode else ""

    _wait("the API server", answers, layout, node, ["etcd", "kube-apiserver"], API_SECONDS)


def _wait(what: str, problem, layout: Layout, node: processes.Node, needed: Sequence[str], seconds: float) -> None:
    """Asks `problem` until it returns "" or one of the programs `needed` has ended or the time is up."""
    deadline = time.monotonic() + seconds
    while said := problem():
        there = processes.running(node)
        ended = [program for program in needed if program not in there]
        if ended:
            raise ClusterError(f"{ended[0]} ended; the end of its log:\n{_tail(layout, ended[0])}")
        if time.monotonic() > deadline:
            raise ClusterError(f"{what} did not answer in {seconds:.0f} s: {said}\n{_tail(layout, needed[-1])}")
        time.sleep(0.1)


def _wait_until_ready(layout: Layout, node: processes.Node, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    for what, program, arguments in (
        ("the node", "kubelet", ["wait", "--for=create", f"node/{components.NODE}"]),
        ("the node", "kubelet", ["wait", "--for=condition=Ready", f"node/{components.NODE}"]),
        ("CoreDNS", "kubelet", ["rollout", "status", "deployment/coredns", "--namespace=kube-system"]),
    ):
        left = max(1.0, deadline - time.monotonic())
        done = processes.kubectl(layout, node, *arguments, f"--timeout={left:.0f}s", capture_output=True, text=True)
        if done.returncode:
            raise ClusterError(f"{what} is not ready: {done.stderr.strip()}; the end of a log:\n{_tail(layout, program)}")
    there = processes.running(node)
    ended = [program for program in components.COMMANDS if program not in there]
    if ended:
        raise ClusterError(f"{ended[0]} ended; the end of its log:\n{_tail(layout, ended[0])}")


def _tail(layout: Layout, program: str, lines: int = 8) -> str:
    try:
        return "\n".join((layout.log / f"{program}.log").read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""


@contextmanager
def _locked(layout: Layout) -> Iterator[None]:
    layout.lock.parent.mkdir(parents=True, exist_ok=True)
    with open(layout.lock, "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _say(line: str) -> None:
    print(line, flush=True)
