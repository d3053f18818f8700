"""`stoker-server serve` on ports of its own, for as long as a block lasts."""

import contextlib
import re
import socket
import subprocess
import time
import urllib.error
import urllib.request

# Seconds that the model may take to be ready.
START = 60


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


class Server:
    def __init__(self, data_port, metrics_port):
        self.address = f"127.0.0.1:{data_port}"
        self.metrics_address = f"127.0.0.1:{metrics_port}"

    def metric(self, name):
        """The sum of a metric over its labels."""
        with urllib.request.urlopen(f"http://{self.metrics_address}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        values = re.findall(rf"^stoker_server_{name}(?:\{{.*\}})? (\S+)$", text, re.MULTILINE)
        if not values:
            raise KeyError(f"there is no metric {name}")
        return sum(map(float, values))


@contextlib.contextmanager
def serving(binary, model, name, log, arguments=()):
    """A server of the model, ready. It must end by itself when it is told to."""
    server = Server(free_port(), free_port())
    command = [binary, "serve", "--model-name", name, "--model-uri", f"file://{model}", "--listen", server.address]
    command += ["--metrics-listen", server.metrics_address, "--drain-delay", "0s", *arguments]
    with open(log, "a") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
    try:
        until = time.monotonic() + START
        while not ready(server):
            if process.poll() is not None:
                raise RuntimeError(f"the server ended with {process.returncode}; see {log}")
            if time.monotonic() > until:
                raise RuntimeError(f"the server was not ready within {START} s; see {log}")
            time.sleep(0.02)
        yield server
        process.terminate()
        status = process.wait(timeout=60)
        if status != 0:
            raise RuntimeError(f"the server ended with {status}; see {log}")
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def ready(server):
    try:
        with urllib.request.urlopen(f"http://{server.address}/v2/health/ready", timeout=5) as answer:
            return answer.status == 200
    except (urllib.error.URLError, ConnectionError):
        return False
