"""Where things are, what they are called, and the one exception that ends a program with a message."""

import re
from pathlib import Path

SOURCE = Path(__file__).resolve().parent.parent
REPOSITORY = SOURCE.parent.parent
ROOT = REPOSITORY / "target" / "cluster"
BIN = ROOT / "bin"
IMAGES = ROOT / "images"

PAUSE_IMAGE = "localhost/pause:1"
COREDNS_IMAGE = "localhost/coredns:1"

NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?")
RESERVED = {BIN.name, IMAGES.name}


class ClusterError(Exception):
    """What was wrong, where, and what to do: shown as it is, without a traceback."""


class Layout:
    """The paths and names that belong to one cluster."""

    def __init__(self, name: str):
        if not NAME.fullmatch(name) or name in RESERVED:
            raise ClusterError(
                f"cluster name {name!r}: want 1 to 12 of a-z, 0-9 and '-', with no '-' at either end, "
                f"and none of {', '.join(sorted(RESERVED))}"
            )
        self.name = name
        self.state = ROOT / name
        self.log = self.state / "log"
        self.etc = self.state / "etc"
        self.node_pid = self.state / "node.pid"
        self.kubeconfig = self.state / "admin.kubeconfig"
        self.made_from = self.state / "made-from"
        self.kept_logs = ROOT / f"{name}.logs"
        # The only files outside of target/. A name is a cluster's on the whole machine, whatever checkout it is of.
        self.lock = Path(f"/run/lock/stoker-{name}.lock")
        self.pid_file = Path(f"/run/stoker-{name}.pid")
        self.cgroup = f"stoker-{name}"
