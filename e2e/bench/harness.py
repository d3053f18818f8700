"""What the benchmarks share: pinned processes, runs of the load generator, and the result files.

Runs of the two sides alternate and their medians are reported; ratio is ours / peer. A run from which the host of a virtual
machine stole time is repeated.
"""

import argparse
import contextlib
import datetime
import json
import os
import pathlib
import platform
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
OUT = ROOT / "target" / "bench"
FIXTURES = HERE.parent / "models" / "fixtures"
RELEASE = ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / "release"
# Servers are on this machine: a proxy of the environment would only be in the way.
open_url = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
# A run in which the host took more of the machine's time than this share is repeated, so many times at most.
MOST_STOLEN = 0.001
TRIES = 4


def arguments(text, seconds=None, runs=5, more=None):
    """The options that every benchmark has. `text` is its documentation, of which the first line is the help. `seconds` is
    None where a run takes as long as it takes. `more` adds options to the parser."""
    parser = argparse.ArgumentParser(description=text.split("\n")[0])
    parser.add_argument("--runs", type=int, default=runs, help="runs of each side and kind")
    if seconds is not None:
        parser.add_argument("--seconds", type=int, default=seconds, help="time that counts, of each run")
    parser.add_argument("--server-core", type=int, help="default: the first that this process may use")
    parser.add_argument("--load-core", type=int, help="default: the next")
    if more is not None:
        more(parser)
    asked = parser.parse_args()
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:
        sys.exit(f"this process may use core {usable[0]} alone; server and load generator want one each")
    if asked.server_core is None:
        asked.server_core = next(core for core in usable if core != asked.load_core)
    if asked.load_core is None:
        asked.load_core = next(core for core in usable if core != asked.server_core)
    for core in (asked.server_core, asked.load_core):
        if core not in usable:
            parser.error(f"core {core} cannot be used by this process; {', '.join(map(str, usable))} can")
    if asked.server_core == asked.load_core:
        parser.error("server and load generator want a core each")
    return asked


def end_on_sigterm():
    """Leaves through the `finally` of each server. Once: that is not interrupted again."""

    def end(number, _frame):
        signal.signal(number, lambda *_: None)
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, end)


def build():
    # All of the workspace, as everywhere: a selection has features of its own, and would be built a second time.
    command = ["cargo", "build", "--locked", "--release", "--quiet", "--workspace", "--bins"]
    subprocess.run(command, cwd=ROOT, check=True)


def answers(port):
    """Whether somebody listens there, on loopback."""
    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def is_ready(port):
    """Whether a server of the Open Inference Protocol on loopback says that it is ready."""
    with contextlib.suppress(urllib.error.URLError, ConnectionError):
        open_url(f"http://127.0.0.1:{port}/v2/health/ready", timeout=5).close()
        return True
    return False


def resident_kib(pid):
    """Memory of a process that is resident. What taskset starts has taskset's id."""
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    sys.exit(f"/proc/{pid}/status has no VmRSS")


def refuse_taken_ports(ports):
    """Whoever answers there would be measured in place of ours."""
    for port in ports:
        if answers(port):
            sys.exit(f"somebody answers at 127.0.0.1:{port} already, maybe a server of an earlier run: end it first")


def nowhere(folder):
    """Writes a kubeconfig with an address where nobody listens into a folder, and returns its path: for a router that starts
    from its disk."""
    config = {"apiVersion": "v1", "kind": "Config", "current-context": "nowhere"}
    config["clusters"] = [{"name": "nowhere", "cluster": {"server": "https://127.0.0.1:1"}}]
    config["contexts"] = [{"name": "nowhere", "context": {"cluster": "nowhere", "user": "nobody"}}]
    config["users"] = [{"name": "nobody", "user": {}}]
    path = folder / "kubeconfig"
    path.write_text(json.dumps(config))
    return path


def packages(folder):
    """A virtual environment with the packages that a folder beside this file pins, made again when the pins change."""
    pins = HERE / folder / "requirements.txt"
    venv = OUT / f"venv-{folder}"
    marker = venv / "pins.txt"
    if not (marker.exists() and marker.read_text() == pins.read_text()):
        subprocess.run([sys.executable, "-m", "venv", "--clear", venv], check=True)
        pip = [venv / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "-r", pins], check=True)
        marker.write_text(pins.read_text())
    return venv / "bin"


def write_bodies(name):
    """One request of one row for each test image, with numbers as Python writes an FP32 array."""
    images = json.loads((FIXTURES / "digits-test.json").read_text())["images"]
    path = OUT / f"{name}.bodies"
    with path.open("w") as file:
        for image in images:
            tensor = {"name": "input", "shape": [1, 64], "datatype": "FP32", "data": [float(pixel) for pixel in image]}
            file.write(json.dumps({"inputs": [tensor]}) + "\n")
    return path


@contextlib.contextmanager
def running(name, command, core, is_ready, environment=None):
    """A server on one core, ready, and ended afterwards. Its output goes to target/bench/NAME.log."""
    log = (OUT / f"{name}.log").open("w")
    pinned = ["taskset", "--cpu-list", str(core), *map(str, command)]
    process = subprocess.Popen(pinned, stdout=log, stderr=log, env={**os.environ, **(environment or {})})

    def must_run():
        if process.poll() is not None:
            sys.exit(f"{name} ended with {process.returncode}; see {log.name}")

    try:
        for _ in range(600):
            must_run()
            if is_ready():
                break
            time.sleep(0.1)
        else:
            sys.exit(f"{name} was not ready within a minute; see {log.name}")
        # What answered is another's when ours could not take the port; and it may take a moment to find that out.
        must_run()
        yield process
        must_run()
    finally:
        process.terminate()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        log.close()


@contextlib.contextmanager
def cluster(name, monitored=False):
    """The command that enters a local cluster with an operator, and a Prometheus for it where that is wanted. One that was not up
    before is removed afterwards."""
    tools = ROOT / "e2e" / "cluster"
    within = [tools / "exec", name]
    was_up = subprocess.run([*within, "true"], stderr=subprocess.DEVNULL).returncode == 0
    try:
        subprocess.run([tools / "up", name], check=True)
        if monitored:
            subprocess.run([ROOT / "e2e" / "monitoring" / "up", name], check=True)
        subprocess.run([ROOT / "e2e" / "install", name], check=True)
        yield within
    finally:
        if not was_up:
            subprocess.run([tools / "down", name], check=True)


def stolen_time():
    """Ticks that the host of a virtual machine gave to others while we had work, and all ticks."""
    with contextlib.suppress(OSError, IndexError):
        ticks = [int(word) for word in pathlib.Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        return ticks[7], sum(ticks)
    return 0, 1


def load(core, url, bodies, seconds, *more):
    """One run. One from which the host stole time measures the neighbours, and is repeated, for both sides alike: the one
    with the least of it counts."""
    command = ["taskset", "--cpu-list", str(core), RELEASE / "stoker-load", "--url", url, "--bodies", bodies]
    command += ["--duration", f"{seconds}s", "--warm-up", "2s", *more]
    tries = []
    while len(tries) < TRIES and not (tries and tries[-1]["stolen"] <= MOST_STOLEN):
        before = stolen_time()
        done = subprocess.run(list(map(str, command)), check=True, stdout=subprocess.PIPE)
        stolen, passed = (after - was for was, after in zip(before, stolen_time()))
        tries.append(json.loads(done.stdout) | {"stolen": round(stolen / max(passed, 1), 5)})
    best = min(tries, key=lambda seen: seen["stolen"])
    return best | {"tries": len(tries)}


def alternate(sides, runs, run):
    """`run(side, number)` for each side in turn, `runs` times."""
    seen = {side: [] for side in sides}
    for number in range(runs):
        for side in sides:
            seen[side].append(run(side, number))
    return seen


def medians(seen, figure):
    """The median of a figure over the runs of each side."""
    return {side: statistics.median(figure(run) for run in runs) for side, runs in seen.items()}


def row(what, unit, ours, peer=None, digits=1):
    """`peer` is None where there is none, and then there is no ratio; nor is there one to nothing."""
    if peer is None:
        return {"what": what, "unit": unit, "ours": round(ours, digits), "peer": None, "ratio": None}
    ratio = round(ours / peer, 3) if peer else None
    return {"what": what, "unit": unit, "ours": round(ours, digits), "peer": round(peer, digits), "ratio": ratio}


def processor():
    with contextlib.suppress(OSError):
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()


def conditions(asked, load_before):
    """How a benchmark came about, as far as it is the same for all."""
    return {
        "command": f"e2e/bench/{pathlib.Path(sys.argv[0]).name} " + " ".join(sys.argv[1:]),
        "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "processor": processor(),
        "cores": {"server": asked.server_core, "load": asked.load_core, "machine": os.cpu_count()},
        "kernel": platform.release(),
        "load_average_before": load_before,
    }


def report(name, rows, how):
    """Writes target/bench/NAME.json (the rows) and NAME.conditions.json (how they came about), and prints the rows."""
    (OUT / f"{name}.json").write_text(json.dumps(rows, indent=1) + "\n")
    (OUT / f"{name}.conditions.json").write_text(json.dumps(how, indent=1) + "\n")
    print(f"{'what':34}{'unit':>12}{'ours':>12}{'peer':>12}{'ratio':>8}")
    for line in rows:
        peer, ratio = ("-" if line[name] is None else line[name] for name in ("peer", "ratio"))
        print(f"{line['what']:34}{line['unit']:>12}{line['ours']:>12}{peer:>12}{ratio:>8}")
