"""`docs/operators.md`: the operators that run, each with its conformance cases."""

import collections
import json
import subprocess

import onnx.defs

HEAD = """# Operators

Written by `make onnx-conformance` with `--write-docs`; a test compares the rows with what the code runs.

Each row is an operator that `crates/graph` runs, from the given opset of its domain on: attributes that became inputs,
and defaults that changed, are followed. `types` are those of the main input. `cases passed` counts the conformance
cases of ONNX {version} in which the operator occurs.
"""


def page(binary, cases, results, report):
    """The text of the page."""
    listed = json.loads(subprocess.run([binary, "operators", "--json"], check=True, capture_output=True).stdout)
    total, passed = collections.Counter(), collections.Counter()
    for case, ((ours, _), _) in zip(cases, results):
        for domain, name in case["operators"]:
            total[domain, name] += 1
            passed[domain, name] += ours == "passed"
    text = HEAD.format(version=onnx.__version__) + "\n" + suites(report)
    domains = sorted({row["domain"] for row in listed})
    for domain in domains:
        rows = [row for row in listed if row["domain"] == domain]
        text += f"\n## {domain}\n| operator | from opset | types | cases passed |\n|---|---|---|---|\n"
        for row in rows:
            key = (domain, row["name"])
            count = f"{passed[key]} of {total[key]}" if total[key] else "none"
            text += f"| {row['name']} | {row['since']} | {row['types']} | {count} |\n"
    return text + missing({(row["domain"], row["name"]) for row in listed})


def suites(report):
    text = "| suite | cases | passed | not supported | failed |\n|---|---|---|---|---|\n"
    for suite, counts in report.items():
        results = [counts[result] for result in ("passed", "unsupported", "failed")]
        text += f"| {suite} | {sum(results)} | {' | '.join(map(str, results))} |\n"
    return text


def missing(listed):
    """What ONNX has and is not run."""
    absent = collections.defaultdict(set)
    for schema in onnx.defs.get_all_schemas():
        domain = schema.domain or "ai.onnx"
        if not schema.deprecated and (domain, schema.name) not in listed:
            absent[domain].add(schema.name)
    if not absent:
        return ""
    text = "\n## Not run\nA file that needs one of these is refused when it is loaded, with the name of the node.\n\n"
    return text + "".join(f"- {domain}: {', '.join(sorted(names))}\n" for domain, names in sorted(absent.items()))
