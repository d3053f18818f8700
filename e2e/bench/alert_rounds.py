"""alert_rounds.py ROUNDS FOLDER: the rounds of `make bench-operating`, inside the network of a local cluster. Prints them as JSON.

FOLDER is that of the cluster's Prometheus, see e2e/monitoring/up.
"""

import contextlib
import http.client
import json
import pathlib
import subprocess
import sys
import threading
import time
from datetime import datetime

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
MODELS = ROOT / "e2e/models/fixtures"
NAMESPACE, NAME, ALERT = "bench-operating", "digits", "BenchAlert"
PROMETHEUS = "10.88.0.1:19090"
RATE = 50
PATIENCE_SECONDS = 120

SPEC = {
    "replicas": 1,
    "model": {"uri": "configmap://digits/digits-v1.onnx"},
    "runtime": {"resources": {"requests": {"cpu": "10m", "memory": "32Mi"}}},
    "slo": {"latency": {"target": "5s"}},
    "rollout": {"steps": [{"weight": 20, "duration": "1h"}], "progressDeadline": "60s"},
    "rollback": {"keepWarm": "5s", "alerts": [{"alert": ALERT}]},
}


def kubectl(*arguments, given=None):
    command = ["kubectl", "--namespace", NAMESPACE, *arguments]
    text = None if given is None else json.dumps(given)
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, input=text, text=True).stdout


def status():
    return json.loads(kubectl("get", "md", NAME, "--output", "json")).get("status", {})


def wait(what, is_there, every=0.1):
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end:
        if found := is_there():
            return found
        time.sleep(every)
    sys.exit(f"{what}: not within {PATIENCE_SECONDS} s; status says: {status().get('message')}")


def prometheus(method, path):
    connection = http.client.HTTPConnection(PROMETHEUS, timeout=10)
    with contextlib.closing(connection):
        connection.request(method, path)
        response = connection.getresponse()
        body = response.read()
        if response.status != 200:
            sys.exit(f"Prometheus answers {response.status} to {path}: {body[:300]}")
        return body


class Clients(threading.Thread):
    """One client at a steady rate: when the candidate answered last, and how many requests failed."""

    def __init__(self, address):
        super().__init__(daemon=True)
        self.address = address
        images = json.loads((MODELS / "digits-test.json").read_text())["images"]
        self.body = json.dumps({"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 64], "data": images[0]}]})
        self.last = {}
        self.failed = 0
        self.ended = False

    def run(self):
        due = time.monotonic()
        connection = http.client.HTTPConnection(self.address, timeout=10)
        while not self.ended:
            due += 1 / RATE
            time.sleep(max(0.0, due - time.monotonic()))
            try:
                connection.request("POST", f"/v2/models/{NAME}/infer", self.body)
                response = connection.getresponse()
                response.read()
                self.failed += response.status != 200
                self.last[response.headers.get("stoker-revision")] = time.time()
            except (OSError, http.client.HTTPException):
                self.failed += 1
                connection.close()


def fire(folder, on):
    rules = folder / "rules" / f"{NAMESPACE}.yaml"
    labels = {"namespace": NAMESPACE, "model_deployment": NAME}
    if on:
        rule = {"alert": ALERT, "expr": "vector(1)", "labels": labels}
        rules.write_text(json.dumps({"groups": [{"name": NAMESPACE, "rules": [rule]}]}))
    else:
        rules.unlink(missing_ok=True)
    prometheus("POST", "/-/reload")


def active_at():
    """When the alert became active, by Prometheus; none while it is not."""
    alerts = json.loads(prometheus("GET", "/api/v1/alerts"))["data"]["alerts"]
    for alert in alerts:
        if alert["labels"]["alertname"] == ALERT and alert["state"] == "firing":
            # Of nanoseconds, the six digits that Python reads.
            whole, _, part = alert["activeAt"].rstrip("Z").partition(".")
            return datetime.fromisoformat(f"{whole}.{part[:6]:0<6}+00:00").timestamp()
    return None


def main():
    rounds, folder = int(sys.argv[1]), pathlib.Path(sys.argv[2])
    fire(folder, on=False)
    subprocess.run(["kubectl", "create", "namespace", NAMESPACE], check=True, stdout=subprocess.DEVNULL)
    try:
        files = [f"--from-file={MODELS / f'digits-v{number}.onnx'}" for number in (1, 2)]
        kubectl("create", "configmap", "digits", *files)
        kubectl("apply", "--filename", "-", given={"apiVersion": "stoker.dev/v1alpha1", "kind": "ModelDeployment", "metadata": {"name": NAME}, "spec": SPEC})
        wait("it serves", lambda: status().get("phase") == "Healthy")
        address = kubectl("get", "service", NAME, "--output", "jsonpath={.spec.clusterIP}")
        clients = Clients(address)
        clients.start()
        kubectl("patch", "md", NAME, "--type", "merge", "--patch", json.dumps({"spec": {"model": {"uri": "configmap://digits/digits-v2.onnx"}}}))
        seen = []
        for number in range(rounds):
            if number:
                user = json.loads(kubectl("auth", "whoami", "--output", "json"))["status"]["userInfo"]["username"]
                kubectl("annotate", "md", NAME, "--overwrite", f"stoker.dev/request=retry {number}", f"stoker.dev/requested-by={user}")
            running = wait("it is tried", lambda: (now := status()).get("run", {}).get("step") == 1 and now)
            candidate, begun = running["candidate"], time.time()
            wait("it answers", lambda: clients.last.get(candidate, 0) > begun)
            fire(folder, on=True)
            since = wait("the alert fires", active_at, every=0.02)
            wait("it is taken back", lambda: "run" not in status(), every=0.02)
            told = time.time()
            # Answers that were under way have come by then.
            time.sleep(1)
            seen.append({"last_answer_s": clients.last[candidate] - since, "told_s": told - since})
            print(f"  {seen[-1]['last_answer_s']:.2f} s", file=sys.stderr, flush=True)
            fire(folder, on=False)
            wait("the alert is over", lambda: active_at() is None)
        clients.ended = True
        print(json.dumps({"rounds": seen, "failed": clients.failed}))
    finally:
        fire(folder, on=False)
        # Waited for, so that the next run finds none.
        subprocess.run(["kubectl", "delete", "namespace", NAMESPACE, "--timeout=120s"], check=False, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
