"""The names of metrics that there are, from docs/metrics, and those that a PromQL expression asks for."""

import pathlib
import re

FOLDER = pathlib.Path(__file__).resolve().parent.parent.parent / "docs" / "metrics"
# From Prometheus itself.
OWN = {"up"}
# Names that an expression holds and that are no metrics.
WORDS = {
    "absent", "and", "avg", "bool", "by", "count", "group_left", "group_right", "histogram_quantile", "ignoring", "increase", "label_replace",
    "max", "max_over_time", "min", "on", "or", "rate", "sort_desc", "sum", "time", "topk", "unless", "without",
}  # fmt: skip


def documented():
    """Name -> its labels, of all series that the references list."""
    found = {}
    for page in sorted(FOLDER.glob("*.md")):
        for line in page.read_text().splitlines():
            row = re.match(r"\| `(\w+)` \| (\w+) \| ([^|]*) \|", line)
            if row:
                name, kind, labels = row[1], row[2], set(re.findall(r"`(\w+)`", row[3]))
                for suffix in ("_bucket", "_sum", "_count") if kind == "histogram" else ("",):
                    extra = {"le"} if suffix == "_bucket" else set()
                    found[name + suffix] = labels | extra
    return found


def asked(expr):
    """Names of metrics in an expression, and of those that a selector names by `__name__`."""
    named = set()
    for names in re.findall(r'__name__=~?"([^"]*)"', expr):
        named.update(names.split("|"))
    bare = re.sub(r'"[^"]*"', "", expr)
    bare = re.sub(r"\{[^}]*\}", "", bare)
    bare = re.sub(r"\b(by|on|without|ignoring|group_left|group_right)\s*\([^)]*\)", "", bare)
    bare = re.sub(r"\[[^\]]*\]", "", bare)
    words = set(re.findall(r"[a-zA-Z_:][\w:]*", bare)) - WORDS
    return named | words


def selectors(expr):
    """(metric, labels that its selector names), for each metric with one."""
    for name, inside in re.findall(r"([a-zA-Z_:][\w:]*)\{([^}]*)\}", expr):
        yield name, set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", re.sub(r'"[^"]*"', '""', inside)))
