"""CLUSTER=existing: a cluster that someone else runs, reached by kubectl's current context."""

import os
import shutil
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
    kubectl = shutil.which("kubectl") or str(BIN / "kubectl")
    try:
        done = subprocess.run([kubectl, "config", "current-context"], capture_output=True, text=True, check=False)
    except OSError as error:
        raise ClusterError("CLUSTER=existing needs kubectl in PATH") from error
    if done.returncode:
        raise ClusterError(f"CLUSTER=existing: kubectl has no current context ({done.stderr.strip()})")
    context = done.stdout.strip()
    if os.environ.get("CLUSTER_YES") == "1":
        print(f"using the existing cluster of context {context} (CLUSTER_YES=1)")
        return
    if not sys.stdin.isatty():
        raise ClusterError(f"the current context is {context}: set CLUSTER_YES=1 to use it where nobody can be asked")
    if not agreed(f"the current context is {context}; use it?"):
        raise ClusterError("not used")


def agreed(question: str) -> bool:
    """Asks on the terminal. Anything but a yes is a no."""
    try:
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False
