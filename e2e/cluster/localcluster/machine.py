"""What the machine must have: packages, rights and kernel features, checked before anything is made."""

import os
import shutil
import subprocess
from pathlib import Path

from . import cgroups
from .layout import ROOT, ClusterError

# Debian's containerd and CNI plugins, and where other distributions put the latter.
CNI_FOLDERS = (Path("/usr/lib/cni"), Path("/opt/cni/bin"), Path("/usr/libexec/cni"))
CNI_PLUGINS = ("ptp", "host-local", "portmap", "loopback")

# program -> the Debian package that holds it
RUN_PROGRAMS = {
    "containerd": "containerd",
    "ctr": "containerd",
    "containerd-shim-runc-v2": "containerd",
    "runc": "runc",
    "iptables": "iptables",
    "ip": "iproute2",
    "mount": "mount",
    "nsenter": "util-linux",
    "unshare": "util-linux",
    "prlimit": "util-linux",
    "openssl": "openssl",
    # For the test of a clock that jumps.
    "faketime": "faketime",
}
BUILD_PROGRAMS = {"cc": "gcc"}
# Another program may be installing something just now.
_APT_GET = ("apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300")
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def cni_folder() -> Path:
    """The folder that holds all the CNI plugins that a node needs."""
    for folder in CNI_FOLDERS:
        if all((folder / plugin).exists() for plugin in CNI_PLUGINS):
            return folder
    raise ClusterError(
        f"no folder of {', '.join(map(str, CNI_FOLDERS))} holds the CNI plugins {', '.join(CNI_PLUGINS)}: "
        "install the package containernetworking-plugins (e2e/cluster/build does, as root on Debian)"
    )


def missing_packages(for_build: bool) -> dict:
    """Debian package -> what of it is missing."""
    programs = {**RUN_PROGRAMS, **(BUILD_PROGRAMS if for_build else {})}
    missing: dict = {}
    for program, package in programs.items():
        if not shutil.which(program, path=f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}"):
            missing.setdefault(package, []).append(program)
    try:
        cni_folder()
    except ClusterError:
        missing["containernetworking-plugins"] = list(CNI_PLUGINS)
    # gcc only recommends the C library's headers, and what is recommended is not installed.
    if for_build and ("gcc" in missing or not _has_static_libc()):
        missing["libc6-dev"] = ["libc.a"]
    return missing


def install(packages: dict) -> None:
    """Installs Debian packages without starting the daemons that they bring."""
    wanted = sorted(packages)
    listed = "; ".join(f"{package} (for {', '.join(packages[package])})" for package in wanted)
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise ClusterError(f"missing: {listed}. Install these, on Debian with: sudo apt-get install {' '.join(wanted)}")
    print(f"installing with apt-get: {listed}", flush=True)
    masked = "containerd" in packages and Path("/run/systemd/system").is_dir()
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        if masked:
            subprocess.run(["systemctl", "mask", "--runtime", "containerd.service"], check=True)
        subprocess.run([*_APT_GET, "update"], check=True, env=environment)
        subprocess.run(
            [*_APT_GET, "install", "-y", "--no-install-recommends", *wanted],
            check=True,
            env=environment,
            stdout=subprocess.DEVNULL,
        )
    except subprocess.CalledProcessError as error:
        raise ClusterError(f"`{' '.join(error.cmd)}` ended with {error.returncode}: see above") from error
    finally:
        if masked:
            subprocess.run(["systemctl", "unmask", "--runtime", "containerd.service"], check=False)
            subprocess.run(["systemctl", "disable", "containerd.service"], check=False)


def check_root() -> None:
    """Raises an error when this is not root."""
    if os.geteuid() != 0:
        raise ClusterError("a cluster needs root, for namespaces and cgroups: run this as root (sudo -E)")


def check() -> None:
    """Raises an error that names everything this machine lacks to run a cluster."""
    missing = missing_packages(for_build=False)
    if missing:
        raise ClusterError(f"missing packages: {', '.join(sorted(missing))}: run e2e/cluster/build")
    problems = [f"cgroup controller {name} is not there (mount it, or enable it at boot)" for name in cgroups.missing()]
    problems += [problem for problem in map(_try, _PROBES) if problem]
    if problems:
        raise ClusterError("this machine cannot run a cluster:\n  - " + "\n  - ".join(problems))


# What must work, and what it takes; each runs in namespaces of its own, which go with it.
_PROBES = (
    ("true", "network, mount and PID namespaces (kernel options NET_NS, PID_NS; in a container: --privileged)"),
    (
        # Without `|| true`, a mount that failed would end the trap before its folder is removed.
        'd=$(mktemp -d -p "$0" .overlay.XXXXXX); trap \'umount -n "$d/m" 2>/dev/null || true; rm -rf "$d"\' EXIT; '
        'mkdir "$d/l" "$d/u" "$d/w" "$d/m"; '
        'mount -n -t overlay o -o "lowerdir=$d/l,upperdir=$d/u,workdir=$d/w" "$d/m"',
        f"overlayfs on the file system of {ROOT} (kernel option OVERLAY_FS, `modprobe overlay`; "
        "a folder that is itself on an overlay does not do)",
    ),
    ("ip link add name probe-a type veth peer name probe-b", "veth links (kernel option VETH, `modprobe veth`)"),
    (
        "iptables -t nat -N T && iptables -t nat -A OUTPUT -m comment --comment c -m addrtype --dst-type LOCAL -j T && "
        "iptables -t nat -A T -m statistic --mode random --probability 0.5 -m tcp -p tcp -j DNAT --to-destination 10.0.0.1:80 && "
        "iptables -t nat -A T -m mark ! --mark 0x4000/0x4000 -j RETURN && iptables -t nat -A T -j MARK --or-mark 0x4000 && "
        "iptables -t nat -A POSTROUTING -j MASQUERADE && "
        "iptables -A FORWARD -m conntrack --ctstate INVALID -m recent --name r --rcheck --seconds 10 -j DROP",
        "iptables with what kube-proxy uses (kernel options NF_TABLES and NFT_COMPAT, or IP_NF_IPTABLES; NF_NAT, "
        "NETFILTER_XT_MATCH_COMMENT, _ADDRTYPE, _STATISTIC, _CONNTRACK, _MARK, _RECENT)",
    ),
)


def _try(probe: tuple) -> str:
    command, need = probe
    ROOT.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["unshare", "--net", "--mount", "--pid", "--fork", "sh", "-ec", command, str(ROOT)],
        capture_output=True,
        text=True,
        env={"PATH": SYSTEM_PATH},
        check=False,
    )
    said = " ".join(done.stderr.split())
    return f"it needs {need}; the attempt said: {said}" if done.returncode else ""


def _has_static_libc() -> bool:
    found = subprocess.run(["cc", "-print-file-name=libc.a"], capture_output=True, text=True, check=False)
    return Path(found.stdout.strip()).is_absolute()
