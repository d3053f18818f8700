"""Prometheus' and Alertmanager's programs: from PATH, else from their Debian packages, unpacked into target/tools. Nothing is installed, so
no daemon is started."""

import fcntl
import os
import pathlib
import shutil
import subprocess

FOLDER = pathlib.Path(__file__).resolve().parent.parent.parent / "target" / "tools" / "prometheus"
PACKAGES = {
    "promtool": "prometheus",
    "prometheus": "prometheus",
    "amtool": "prometheus-alertmanager",
    "prometheus-alertmanager": "prometheus-alertmanager",
}


class ToolsError(Exception):
    """A program is missing and cannot be had."""


def find(*programs):
    """Paths of the programs, which are fetched when one is missing."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with open(FOLDER / ".lock", "w", encoding="utf-8") as lock:
        # Two checks at once: the second one waits for the first one's packages.
        fcntl.flock(lock, fcntl.LOCK_EX)
        missing = sorted({PACKAGES[program] for program in programs if not known(program)})
        if missing:
            fetch(missing)
    found = [known(program) for program in programs]
    if None in found:
        raise ToolsError(f"no {', '.join(programs)} in PATH, and the Debian packages {', '.join(missing)} do not hold them")
    return found


def known(program):
    unpacked = FOLDER / "usr" / "bin" / program
    return str(unpacked) if unpacked.exists() else shutil.which(program)


def fetch(packages):
    if not shutil.which("apt-get"):
        raise ToolsError(f"missing: {', '.join(packages)}. Put promtool, amtool and prometheus into PATH")
    print(f"downloading {', '.join(packages)} with apt-get, without installing them", flush=True)
    commands = [["apt-get", "download", "--quiet", *packages]]
    if os.geteuid() == 0:
        # On a fresh machine the lists of packages are not there yet.
        commands.insert(0, ["apt-get", "update", "--quiet"])
    for command in commands:
        done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ToolsError(f"`{' '.join(command)}` ended with {done.returncode}: {done.stderr.strip()}")
    for archive in FOLDER.glob("*.deb"):
        subprocess.run(["dpkg-deb", "--extract", archive, FOLDER], check=True)
        archive.unlink()


def with_share():
    """What a command begins with so that Debian's Alertmanager finds its templates, which it looks for below /usr/share although it was
    only unpacked: there, for this command alone, lies what was unpacked."""
    unpacked = FOLDER / "usr" / "share"
    if pathlib.Path("/usr/share/prometheus/alertmanager").exists() or not unpacked.exists():
        return []
    alone = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    return [*alone, "sh", "-c", 'mount --bind "$0" /usr/share && exec "$@"', str(unpacked)]
