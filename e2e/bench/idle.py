"""The idle rows of `make bench-rollout`: what objects with nothing to do cost the operator, beside Argo Rollouts.

Both controllers run as processes of this machine against the same local cluster, one at a time, with the same steps:

1. The controller is started with no objects; when it is quiet, its resident memory is watched for a while.
2. The objects are made (replicas 0, all in one namespace) and become healthy. The controller is quiet again.
3. It is started anew. It has settled when it has looked at each object and its CPU time has stopped to grow: QUIET seconds
   in which it takes less than BUSY of a core. The time counts from its start to the first of these seconds.
4. Its memory is watched again, and the writes that the API server answered meanwhile are counted.

Resident memory is the highest VmRSS of a watch. Writes are all that the API server answered of any client, but to Leases and
nodes, which kubelet and controllers renew, and reviews and tokens, which are stored nowhere.
"""

import contextlib
import json
import os
import pathlib
import re
import subprocess
import sys
import time

import harness
from harness import HERE, OUT, RELEASE

NAMESPACE = "bench-idle"
# Inside the cluster's network; the second one is for Argo Rollouts' health.
METRICS, HEALTH = 18481, 18482
# Settled: so many seconds with less than this share of a core.
QUIET, BUSY = 10, 0.05
# In seconds, without objects; with them it is up to the side.
WATCH_EMPTY = 40
# In seconds: the longest that anything may take before a run is given up.
PATIENCE = 900
# Objects in one call of kubectl, and calls at a time.
CHUNK, PARALLEL = 125, 4
TICK = os.sysconf("SC_CLK_TCK")
# Not counted as writes: see above.
NO_WRITES = re.compile(r'group="(coordination|authentication|authorization)\.k8s\.io"|resource="nodes"|subresource="token"')
WRITE = re.compile(r'^apiserver_request_total\{(?=[^}]*verb="(?:APPLY|DELETE|DELETECOLLECTION|PATCH|POST|PUT)")([^}]*)\} (\S+)$', re.MULTILINE)


def say(text):
    print(f"idle: {text}", file=sys.stderr, flush=True)


def run(within, *command, given=None):
    """The output of a command inside the cluster's network."""
    text = None if given is None else json.dumps(given)
    done = subprocess.run(list(map(str, [*within, *command])), check=True, stdout=subprocess.PIPE, input=text, text=True)
    return done.stdout


def kubectl(within, *arguments, given=None):
    return run(within, "kubectl", *arguments, given=given)


class Ours:
    """ModelDeployments and the operator."""

    name, kind = "ours", "modeldeployments.stoker.dev"
    # Within five minutes it looks at each object again: that is in it.
    watch = 330

    def __init__(self, within):
        self.within = within
        # The images of the installed one, so that routers start.
        path = "jsonpath={.spec.template.spec.containers[0].env}"
        found = kubectl(within, "--namespace", "stoker-system", "get", "deployment", "stoker", "--output", path)
        self.environment = {each["name"]: each["value"] for each in json.loads(found) if "value" in each}

    @contextlib.contextmanager
    def installed(self):
        """While the installed operator does not run."""
        scale = ["--namespace", "stoker-system", "scale", "deployment", "stoker"]
        kubectl(self.within, *scale, "--replicas=0")
        gone = ["wait", "--for=delete", "pod", "--selector=stoker.dev/part=operator", "--timeout=60s"]
        kubectl(self.within, "--namespace", "stoker-system", *gone)
        try:
            yield
        finally:
            kubectl(self.within, *scale, "--replicas=1")

    def command(self):
        own = ["--namespace=stoker-system", "--pod-name=bench", f"--metrics-listen=127.0.0.1:{METRICS}"]
        return [RELEASE / "stoker", "run", *own]

    def looked_at(self, page):
        """How many objects were looked at since the start, with a good outcome."""
        found = re.findall(r'^stoker_operator_reconciles_total\{kind="ModelDeployment",outcome="ok"\} (\S+)$', page, re.MULTILINE)
        return int(sum(map(float, found)))

    def object(self, name):
        model = {"uri": "configmap://idle/model.onnx", "digest": "sha256:" + "0" * 64}
        spec = {"replicas": 0, "model": model}
        return {"apiVersion": "stoker.dev/v1alpha1", "kind": "ModelDeployment", "metadata": {"name": name}, "spec": spec}


class Argo:
    """Rollouts and Argo Rollouts' controller."""

    name, kind = "peer", "rollouts.argoproj.io"
    watch = 60
    environment = {}
    module, folder = "github.com/argoproj/argo-rollouts", HERE / "argo-rollouts"
    # Its own, for its Lease.
    namespace = "argo-rollouts"
    program = OUT / "rollouts-controller"

    def __init__(self, within):
        self.within = within

    def build(self):
        say("builds Argo Rollouts' controller (minutes, the first time)")
        go = ["go", "build", "-trimpath", "-ldflags", "-s -w", "-o", self.program, f"{self.module}/cmd/rollouts-controller"]
        subprocess.run(list(map(str, go)), cwd=self.folder, check=True)

    @contextlib.contextmanager
    def installed(self):
        """With its custom resources."""
        listed = ["go", "list", "-m", "-f", "{{.Dir}}", self.module]
        module = subprocess.run(listed, cwd=self.folder, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
        resources = pathlib.Path(module) / "manifests" / "crds"
        kubectl(self.within, "apply", "--server-side", "--kustomize", resources)
        kubectl(self.within, "create", "namespace", self.namespace)
        try:
            kubectl(self.within, "wait", "--for=condition=Established", "--timeout=60s", "crd", self.kind)
            yield
        finally:
            kubectl(self.within, "delete", "namespace", self.namespace, "--timeout=120s")
            kubectl(self.within, "delete", "--kustomize", resources, "--timeout=120s")

    def command(self):
        return [self.program, f"--metricsPort={METRICS}", f"--healthzPort={HEALTH}"]

    def looked_at(self, page):
        found = re.findall(r'^rollout_reconcile_count\{[^}]*\} ([1-9]\S*)$', page, re.MULTILINE)
        return len(found)

    def object(self, name):
        labels = {"app": name}
        container = {"name": "server", "image": "localhost/stoker-server:dev"}
        spec = {
            "replicas": 0,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
            "strategy": {"canary": {"steps": [{"setWeight": 10}, {"pause": {"duration": "10m"}}]}},
        }
        return {"apiVersion": "argoproj.io/v1alpha1", "kind": "Rollout", "metadata": {"name": name}, "spec": spec}


class Controller:
    """A controller's process."""

    def __init__(self, side, process, started):
        self.side, self.process, self.started = side, process, started

    def page(self):
        """What it tells Prometheus; nothing while it is not there."""
        asked = [*self.side.within, "curl", "--silent", "--max-time", "10", f"http://127.0.0.1:{METRICS}/metrics"]
        return subprocess.run(list(map(str, asked)), stdout=subprocess.PIPE, text=True).stdout

    def cpu(self):
        """CPU time so far, in seconds."""
        words = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / TICK

    def resident(self):
        """In KiB."""
        return harness.resident_kib(self.process.pid)

    def settle(self, objects):
        """Seconds from the start until it has looked at all `objects` and is quiet, and the CPU time that it took."""
        looked, quiet = None, None
        began = then = time.monotonic()
        before = self.cpu()
        while True:
            time.sleep(1)
            now, cpu = time.monotonic(), self.cpu()
            if (cpu - before) / (now - then) >= BUSY:
                quiet = None
            elif quiet is None:
                quiet = then
            before, then = cpu, now
            # No longer than needed: the answer costs it time as well.
            if looked is None and self.side.looked_at(self.page()) >= objects:
                looked = now
            if looked is not None and quiet is not None and now - quiet >= QUIET:
                return {"seconds": round(max(looked, quiet) - self.started, 1), "cpu_seconds": round(cpu, 2)}
            if now - began > PATIENCE:
                seen = self.side.looked_at(self.page())
                sys.exit(f"{self.side.name} did not settle within {PATIENCE} s: {seen} of {objects} looked at; see {OUT}")

    def watch(self, seconds):
        """What it uses while nothing happens."""
        resident, cpu, began = [self.resident()], self.cpu(), time.monotonic()
        written = writes(self.side.within)
        while time.monotonic() - began < seconds:
            time.sleep(2)
            resident.append(self.resident())
        took = time.monotonic() - began
        after = writes(self.side.within)
        more = {what: count - written.get(what, 0) for what, count in after.items() if count > written.get(what, 0)}
        return {
            "seconds": round(took),
            "resident_kib": max(resident),
            "resident_last_kib": resident[-1],
            "cpu_seconds": round(self.cpu() - cpu, 2),
            "writes": more,
            "writes_per_minute": sum(more.values()) / took * 60,
        }


def writes(within):
    """Writes that the API server answered so far, by what was written."""
    counts = {}
    for labels, count in WRITE.findall(kubectl(within, "get", "--raw", "/metrics")):
        if NO_WRITES.search(labels):
            continue
        label = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        what = " ".join(filter(None, (label["verb"], label["resource"], label["subresource"])))
        counts[what] = counts.get(what, 0) + int(float(count))
    return counts


@contextlib.contextmanager
def started(side, number):
    """The controller, when it answers. It may use all cores, as in a pod without a limit."""
    began = time.monotonic()

    def is_ready():
        return bool(Controller(side, None, began).page())

    cores = ",".join(map(str, sorted(os.sched_getaffinity(0))))
    command = [*side.within, *side.command()]
    with harness.running(f"rollout.idle-{side.name}-{number}", command, cores, is_ready, side.environment) as process:
        yield Controller(side, process, began)


def make(side, objects):
    """Makes the objects, several calls at a time."""
    names = [f"idle-{number:05}" for number in range(objects)]
    files, calls = [], []
    for first in range(0, objects, CHUNK):
        path = OUT / f"rollout.idle-{first}.json"
        items = [side.object(name) for name in names[first : first + CHUNK]]
        path.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
        files.append(path)
    try:
        for path in files:
            while sum(call.poll() is None for call in calls) >= PARALLEL:
                time.sleep(0.05)
            create = [*side.within, "kubectl", "--namespace", NAMESPACE, "create", "--validate=false", "--filename", path]
            calls.append(subprocess.Popen(list(map(str, create)), stdout=subprocess.DEVNULL))
        if any([call.wait() for call in calls]):
            sys.exit(f"not all {side.kind} could be made; see above")
    finally:
        for call in calls:
            if call.poll() is None:
                call.terminate()
                call.wait()
        for path in files:
            path.unlink()


def healthy(side, objects):
    """Waits until all objects say so."""
    path = "jsonpath={range .items[*]}{.status.phase}{'\\n'}{end}"
    began, said = time.monotonic(), 0.0
    while True:
        found = kubectl(side.within, "--namespace", NAMESPACE, "get", side.kind, "--output", path).split()
        count = found.count("Healthy")
        if count == objects:
            return
        if time.monotonic() - began > PATIENCE:
            sys.exit(f"{count} of {objects} {side.kind} are healthy after {PATIENCE} s; see {OUT}/rollout.idle-{side.name}-0.log")
        if time.monotonic() - said > 30:
            said = time.monotonic()
            say(f"{side.name}: {count} of {objects} are healthy")
        # To list many takes a part of the machine as well.
        time.sleep(2 + objects / 200)


def side_of(side, objects, watch):
    """The figures of one controller."""
    # What an earlier run left goes first.
    kubectl(side.within, "delete", "namespace", NAMESPACE, "--ignore-not-found", f"--timeout={PATIENCE}s")
    kubectl(side.within, "create", "namespace", NAMESPACE)
    try:
        with side.installed():
            say(f"{side.name}: no objects")
            with started(side, 0) as controller:
                controller.settle(0)
                empty = controller.watch(WATCH_EMPTY)
                say(f"{side.name}: {empty['resident_kib']} KiB resident; {objects} objects are made")
                began = time.monotonic()
                make(side, objects)
                healthy(side, objects)
                made = round(time.monotonic() - began, 1)
                after = controller.settle(objects)
                filled = {"healthy_after_s": made, "resident_kib": controller.resident(), "cpu_seconds": after["cpu_seconds"]}
            say(f"{side.name}: all healthy after {made} s, {filled['resident_kib']} KiB resident; it is started anew")
            with started(side, 1) as controller:
                settled = controller.settle(objects)
                say(f"{side.name}: settled after {settled['seconds']} s; watched for {watch or side.watch} s")
                full = controller.watch(watch or side.watch)
                say(f"{side.name}: {full['resident_kib']} KiB resident, {full['writes_per_minute']:.1f} writes a minute")
    finally:
        # It takes minutes for thousands: whoever comes next waits for it.
        kubectl(side.within, "delete", "namespace", NAMESPACE, "--wait=false")
    per_object = (full["resident_kib"] - empty["resident_kib"]) / objects
    return {"objects": objects, "kib_per_object": per_object, "empty": empty, "filled": filled, "settled": settled, "full": full}


def measure(within, objects, peer_objects, watch):
    """Rows, and how they came about. `within` enters the cluster; no rows of the peer where it gets no objects. `watch`: how
    long full controllers are watched, in seconds; none for what each needs."""
    seen = {}
    if peer_objects:
        peer = Argo(within)
        peer.build()
        seen["peer"] = side_of(peer, peer_objects, watch)
    seen["ours"] = side_of(Ours(within), objects, watch)

    def row(what, unit, figure, digits):
        sides = {side: figure(figures) for side, figures in seen.items()}
        return harness.row(f"idle/{what}", unit, sides["ours"], sides.get("peer"), digits)

    rows = [
        row("kib-per-object", "KiB", lambda side: side["kib_per_object"], 1),
        row("resident-at-0-mib", "MiB", lambda side: side["empty"]["resident_kib"] / 1024, 1),
        row("writes-per-minute", "writes", lambda side: side["full"]["writes_per_minute"], 1),
        row("settle-s", "s", lambda side: side["settled"]["seconds"], 1),
    ]
    counted = "all that the API server answered, of any client, but to Leases and nodes, reviews and tokens"
    return rows, {**seen, "writes": counted}
