"""CLUSTER=existing: a cluster that someone else runs, reached by kubectl's current context."""

import os
import shutil
import socket
import subprocess
import sys

from .layout import BIN, ClusterError


def wanted() -> bool:
    """Whether the environment asks for the existing cluster. Any other value of CLUSTER is a mistake."""
    value = os.environ.get("CLUSTER", "")
    if value not in ("", "existing"):
        raise ClusterError(f"CLUSTER={value}: the only value is 'existing'; a local cluster's name is an argument")
    return value == "existing"


def confirm() -> None:
    """Shows the current context and asks whether to use it; CLUSTER_YES=1 is a yes."""
    context = _kubectl("kubectl has no current context", "config", "current-context")
    if os.environ.get("CLUSTER_YES") == "1":
        print(f"using the existing cluster of context {context} (CLUSTER_YES=1)")
        return
    if not sys.stdin.isatty():
        raise ClusterError(f"the current context is {context}: set CLUSTER_YES=1 to use it where nobody can be asked")
    if not agreed(f"the current context is {context}; use it?"):
        raise ClusterError("not used")


def check_on_node() -> None:
    """Raises an error when this machine is none of the cluster's nodes."""
    path = 'jsonpath={.items[*].status.addresses[?(@.type=="InternalIP")].address}'
    addresses = _kubectl("the nodes cannot be listed", "get", "nodes", "--request-timeout=20s", "-o", path).split()
    if not any(map(_is_own, addresses)):
        raise ClusterError(
            "CLUSTER=existing: the demo and the tests reach Services by their addresses, and pods reach the tests at a "
            f"node's: run this on a node of the cluster (the nodes have {', '.join(addresses) or 'no address'})"
        )


def _is_own(address: str) -> bool:
    try:
        # Only an address that the machine has can be bound.
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
        return True
    except OSError:
        return False


def _kubectl(problem: str, *arguments: str) -> str:
    kubectl = shutil.which("kubectl") or str(BIN / "kubectl")
    try:
        done = subprocess.run([kubectl, *arguments], capture_output=True, text=True, check=False)
    except OSError as error:
        raise ClusterError("CLUSTER=existing needs kubectl in PATH (e2e/cluster/build makes one)") from error
    if done.returncode:
        raise ClusterError(f"CLUSTER=existing: {problem} ({done.stderr.strip()})")
    return done.stdout.strip()


def agreed(question: str) -> bool:
    """Asks on the terminal. Anything but a yes is a no."""
    try:
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False
