"""Stands in for the three parts of Stoker towards a real Prometheus: each shows every metric of its reference, with values that grow.

What a query gets from them shows that its names and labels fit together, scrape configuration included; `panels` shows it on a cluster.
"""

import contextlib
import http.server
import itertools
import re
import threading

import references

# Values of labels, where a query asks for one of them; the others are called like their label.
VALUES = {
    "namespace": ["team"],
    "model_deployment": ["digits"],
    "route": ["digits"],
    "model": ["digits"],
    "revision": ["digits-a"],
    "code": ["2xx", "5xx"],
    "arm": ["candidate", "stable"],
    "phase": ["Healthy", "compute"],
    "percentile": ["p99"],
    "reason": ["NoEndpoint", "RolledBack", "deadline"],
    "le": ["0.1", "1.0", "+Inf"],
}
# Pods: the namespace that it runs in, and its labels.
PODS = {
    "operator": ("stoker-system", {}),
    "router": ("team", {}),
    "server": ("team", {"stoker_dev_model_deployment": "digits", "stoker_dev_revision": "digits-a"}),
}


def text(part, growth):
    """What a part answers: `growth` is added to all values."""
    lines = []
    for row in (references.FOLDER / f"{part}.md").read_text().splitlines():
        if found := re.match(r"\| `(\w+)` \| (\w+) \|", row):
            name, kind = found[1], found[2]
            family = name.removesuffix("_total") if kind == "counter" else name
            lines.append(f"# TYPE {family} {kind}")
            labels = references.documented()
            for suffix in ("_bucket", "_sum", "_count") if kind == "histogram" else ("",):
                names = sorted(labels[name + suffix])
                for number, values in enumerate(itertools.product(*(VALUES.get(label, [label]) for label in names))):
                    pairs = ",".join(f'{label}="{value}"' for label, value in zip(names, values))
                    lines.append(f"{name}{suffix}{{{pairs}}} {growth * (number + 1)}")
    return "\n".join([*lines, "# EOF", ""])


@contextlib.contextmanager
def parts():
    """Three listening parts; as targets with the labels that discovery in Kubernetes gives."""
    servers, targets = [], []
    for part, (namespace, labels) in PODS.items():
        count = itertools.count(1)

        class Answer(http.server.BaseHTTPRequestHandler):
            def do_GET(self, part=part, count=count):
                self.send_response(200)
                self.send_header("content-type", "application/openmetrics-text; version=1.0.0; charset=utf-8")
                self.end_headers()
                self.wfile.write(text(part, next(count)).encode())

            def log_message(self, *_):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        seen = {"namespace": namespace, "pod_name": f"{part}-1", "pod_container_port_name": "metrics", "pod_label_stoker_dev_part": part}
        seen |= {f"pod_label_{key}": value for key, value in labels.items()}
        meta = {f"__meta_kubernetes_{key}": value for key, value in seen.items()}
        targets.append({"targets": [f"127.0.0.1:{server.server_port}"], "labels": meta})
    try:
        yield targets
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()
