"""The command lines of the programs in this folder. Each returns the exit status."""

import argparse
import signal
import sys
from pathlib import Path
from typing import Callable, Sequence

from . import build as building
from . import existing, lifecycle
from .layout import ClusterError


_ENDING = (signal.SIGINT, signal.SIGTERM)


def _unwind(number: int, _frame: object) -> None:
    """Ends the program so that what is half made is removed. Once: that work is not interrupted again."""
    for each in _ENDING:
        signal.signal(each, lambda *_: None)
    sys.exit(128 + number)


def _reported(work: Callable[[], None]) -> int:
    for number in _ENDING:
        # Who started this may have it ignore one.
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _unwind)
    try:
        work()
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def build(arguments: Sequence[str]) -> int:
    """build"""
    parser = argparse.ArgumentParser(prog="build", description="Installs what is missing and builds what changed.")
    parser.parse_args(arguments)
    return _reported(building.build)


def up(arguments: Sequence[str]) -> int:
    """up [--on-node] [NAME]"""
    parser = argparse.ArgumentParser(prog="up", description="Makes a local cluster, or repairs it, or says that it is well.")
    parser.add_argument("name", nargs="?", default="dev")
    parser.add_argument(
        "--on-node", action="store_true", help="with CLUSTER=existing: refuse a machine that is not one of its nodes"
    )
    given = parser.parse_args(arguments)

    def work() -> None:
        if not existing.wanted():
            lifecycle.up(given.name)
            return
        existing.confirm()
        if given.on_node:
            existing.check_on_node()

    return _reported(work)


def down(arguments: Sequence[str]) -> int:
    """down [NAME | --all]"""
    parser = argparse.ArgumentParser(prog="down", description="Removes a local cluster; its logs are kept.")
    parser.add_argument("name", nargs="?", default="dev")
    parser.add_argument("--all", action="store_true", help="every cluster that this checkout made, whoever uses it; asks first")
    parser.add_argument("--yes", action="store_true", help="with --all: do not ask")
    given = parser.parse_args(arguments)

    def work() -> None:
        if existing.wanted():
            print("CLUSTER=existing: that cluster is not ours, nothing is removed")
            return
        names = lifecycle.known() if given.all else [given.name]
        if given.all and names and not given.yes:
            # Others who share the checkout may be using one of them.
            if not sys.stdin.isatty():
                raise ClusterError(f"this would remove {', '.join(names)}: add --yes if all of them are to go")
            if not existing.agreed(f"remove {', '.join(names)}?"):
                raise ClusterError("nothing was removed")
        for name in names:
            lifecycle.down(name)

    return _reported(work)


def load_image(arguments: Sequence[str]) -> int:
    """load-image NAME FILE..."""
    parser = argparse.ArgumentParser(prog="load-image", description="Imports OCI archives into a local cluster.")
    parser.add_argument("name")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    given = parser.parse_args(arguments)

    def work() -> None:
        if existing.wanted():
            print(
                "CLUSTER=existing: images cannot be imported there. Push them to a registry that the cluster can pull "
                "from, and name it in IMAGE_PREFIX (for example IMAGE_PREFIX=registry.example/stoker)"
            )
            return
        lifecycle.load_images(given.name, given.files)

    return _reported(work)


def logs(arguments: Sequence[str]) -> int:
    """logs [NAME]"""
    parser = argparse.ArgumentParser(prog="logs", description="Says where a local cluster's logs are, also after it went.")
    parser.add_argument("name", nargs="?", default="dev")
    given = parser.parse_args(arguments)

    def work() -> None:
        if existing.wanted():
            print("CLUSTER=existing: see kubectl logs")
            return
        for what, folder in lifecycle.log_folders(given.name):
            print(f"{what}: {folder}")

    return _reported(work)


def api(arguments: Sequence[str]) -> int:
    """api NAME stop|start"""
    parser = argparse.ArgumentParser(prog="api", description="Stops or starts the API server of a local cluster.")
    parser.add_argument("name")
    parser.add_argument("what", choices=("stop", "start"))
    given = parser.parse_args(arguments)

    def work() -> None:
        if existing.wanted():
            raise ClusterError("CLUSTER=existing: the API server of that cluster is left alone")
        lifecycle.api(given.name, given.what)

    return _reported(work)
