"""What is printed, without what differs from run to run: ages, times, names of pods, counts of requests, measured latencies.

Zeros stay zeros where failed requests are counted, and so do weights, steps, counts of pods and revisions' names: those are what the page
promises.
"""

import difflib
import re

# Letters that Kubernetes makes names of.
RANDOM = "[bcdfghjklmnpqrstvwxz2456789]"
# What does not fit in a line of a screen goes on below its text: eleven columns in, or as far as a table's column is.
CONTINUED = re.compile(r"^(?: {5}| {11}| {20,})(?! |kubectl |the plans differ|REQUESTS)")
WORDS = (
    (re.compile(r"^(LAST DEPLOYED:) .*"), r"\1 <time>"),
    (re.compile(r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?Z"), "<time>"),
    (re.compile(rf"(?<=-){RANDOM}{{6,10}}-{RANDOM}{{5}}\b"), "<pod>"),
    (re.compile(r"\b\d+\.\d+\.\d+\.\d+\b"), "<address>"),
    # Of a duration that somebody chose, as in `12s of 2m` and `weight 10 %, for 2m`, nothing is left out.
    (re.compile(r"\bkept for (\d+[dhms])+"), "kept for <time>"),
    (re.compile(r"\bfor (\d+[dhms])+ more"), "for <time> more"),
    (re.compile(r"(?<!\bof )(?<!\bfor )\b(?:\d+[dhms])+\b"), "<time>"),
    (re.compile(r"\b\d+ s (to go|more)\b"), r"<time> \1"),
    (re.compile(r"\b10\^-?[\d.]+"), "10^<number>"),
    # Who of those that look for harm found it first, and how many of them had seen any.
    (re.compile(r" with \d+ others?\b"), ""),
    (re.compile(r" at this router\b| \(cut by router [^)]*\)"), ""),
    # Counts of what failed: nothing, or something.
    (re.compile(r"\b(failed|stable) 0 of \d+"), r"\1 none of <number>"),
    (re.compile(r"\b(failed|stable) \d+ of \d+"), r"\1 <number> of <number>"),
    (re.compile(r"(slower than \d+ ms): \d+ and \d+"), r"\1: <number> and <number>"),
    (re.compile(r"\bp99 [\d.]+ ms and [\d.]+ ms"), "p99 <number> and <number>"),
)
# How long a pod of a version that was taken back is still listed, running or ended, is a matter of luck.
GOING = re.compile(r"pod/\S+ +0/\d +(Completed|Error|Terminating) |pod/\S+ +\d/\d +Terminating ")
NUMBER = re.compile(r"\d{1,3}( \d{3})*")


def comparable(lines):
    """Lines of which two that tell the same are equal."""
    whole = []
    for line in (line for line in lines if not GOING.match(line)):
        if whole and CONTINUED.match(line):
            whole[-1] += f" {line.strip()}"
        else:
            whole.append(line)
    # Whether a prompt is on a line of its own before Ctrl-C is a matter of luck.
    while whole and not whole[0].strip():
        whole.pop(0)
    # What `explain` tells of a router's cut, where a router was the first to see harm: a matter of luck as well.
    told = (line for line in whole if not line.startswith("Cut "))
    return [figures(re.sub(r"(?<=\S) {2,}", "  ", words(line))) for line in told]


def words(line):
    for pattern, instead in WORDS:
        line = pattern.sub(instead, line)
    return line


def figures(line):
    """A row of a table of requests: a revision, how many it got, how many failed, and how slow they were."""
    name, *cells = line.split("  ") if not line.startswith("  ") else line[2:].split("  ")
    if len(cells) not in (3, 4) or not all(NUMBER.fullmatch(cell) for cell in cells[:-1]) or not re.fullmatch(r"-|[\d.]+ ms", cells[-1]):
        return line
    failed = "0" if cells[1] == "0" else "<number>"
    return "  ".join([name, "<number>", failed, *["<number>"] * (len(cells) - 3), "<latency>"])


def difference(page, seen):
    """A diff of what the page has and what was printed, as it is compared; empty where both tell the same."""
    return list(difflib.unified_diff(comparable(page), comparable(seen), "the page", "printed", lineterm="", n=2))
