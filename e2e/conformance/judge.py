"""Runs cases one after the other, by ours and by ONNX Runtime, and compares the answers: the process behind `onnx`.

    judge.py BINARY TIME_LIMIT

reads lines of JSON, `["ours", CASE]` or `["theirs", CASE]`, and answers each with a line. ONNX Runtime runs inside of this process: when
it crashes, this process is gone, and whoever started it starts another.
"""

import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

import numpy as np
import onnx
from onnx import OptionalProto, SequenceProto, TensorProto, numpy_helper

import peer

# The exit status of the command for a file that needs what is not supported.
UNSUPPORTED = 3


def main():
    binary, limit = sys.argv[1], float(sys.argv[2])
    # Libraries print where they like: the answers have a channel of their own.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    for line in sys.stdin:
        runtime, case = json.loads(line)
        graph = onnx.load(case["model"], load_external_data=False).graph
        result = ours(binary, limit, case, graph) if runtime == "ours" else theirs(case, graph)
        print(json.dumps(result), file=answers, flush=True)


def ours(binary, limit, case, graph):
    """The result of our command, and the reason where it is not `passed`."""
    for given in case["sets"]:
        with tempfile.TemporaryDirectory() as out:
            command = [binary, "run", case["model"], *given["inputs"], "--out", out]
            try:
                done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=limit)
            except subprocess.TimeoutExpired:
                return "failed", f"no answer within {limit:.0f} s"
            said = " ".join(done.stderr.decode(errors="replace").split())[:600]
            if done.returncode < 0:
                return "failed", f"ended by signal {-done.returncode}: {said}"
            if done.returncode:
                named = done.returncode == UNSUPPORTED or re.search(r"\bnot supported\b", said)
                return "unsupported" if named else "failed", said
            written = pathlib.Path(out)
            difference = compared(case, graph, given, lambda at, info: read(written / f"output_{at}.pb", info))
            if difference:
                return "wrong", difference
    return "passed", ""


def theirs(case, graph):
    """The result of ONNX Runtime, likewise."""
    weights = {tensor.name for tensor in graph.initializer}
    declared = [info for info in graph.input if info.name not in weights]
    for given in case["sets"]:
        try:
            outputs = peer.run(case["model"], [read(path, info) for path, info in zip(given["inputs"], declared)])
        except Exception as error:  # Whatever it is, the case has not passed.
            return "failed", " ".join(str(error).split())[:600]
        difference = compared(case, graph, given, lambda at, _: outputs[at])
        if difference:
            return "wrong", difference
    return "passed", ""


def compared(case, graph, given, output):
    """What differs between the outputs and those that the case has; None when nothing does."""
    for position, path in enumerate(given["outputs"]):
        info = graph.output[position]
        try:
            difference = differs(output(position, info), read(path, info), case)
        except Exception as error:
            difference = f"it cannot be read: {error}"
        if difference:
            return f"output {position}: {difference}"
    return None


def read(path, info):
    """The value in a file of one message of the declared kind."""
    bytes_ = pathlib.Path(path).read_bytes()
    if info.type.HasField("sequence_type"):
        return numpy_helper.to_list(SequenceProto.FromString(bytes_))
    if info.type.HasField("optional_type"):
        return numpy_helper.to_optional(OptionalProto.FromString(bytes_))
    return numpy_helper.to_array(TensorProto.FromString(bytes_))


def differs(actual, expected, case):
    """What is different, in words; None when the values are the same within the case's tolerance. What random operators
    give is compared by type and shape."""
    if actual is None or expected is None:
        return None if actual is expected else f"{actual} instead of {expected}"
    if isinstance(actual, list) or isinstance(expected, list):
        if not (isinstance(actual, list) and isinstance(expected, list)):
            return f"{type(actual).__name__} instead of {type(expected).__name__}"
        if len(actual) != len(expected):
            return f"{len(actual)} elements instead of {len(expected)}"
        differences = (differs(one, other, case) for one, other in zip(actual, expected))
        return next((f"element {at}: {found}" for at, found in enumerate(differences) if found), None)
    actual, expected = np.asarray(actual), np.asarray(expected)
    # NumPy has many types of text, ONNX has one.
    if actual.dtype != expected.dtype and not (is_text(actual) and is_text(expected)):
        return f"type {actual.dtype} instead of {expected.dtype}"
    if actual.shape != expected.shape:
        return f"shape {list(actual.shape)} instead of {list(expected.shape)}"
    if case["random"]:
        return None
    if is_text(expected):
        equal = np.array([one == other for one, other in zip(actual.flat, expected.flat)], bool)
    elif expected.dtype.kind in "biu":
        equal = (actual == expected).ravel()
    else:
        # Two units in the last place of bfloat16, as the project's own runner allows.
        rtol = max(case["rtol"], 2**-6) if expected.dtype.name == "bfloat16" else case["rtol"]
        # As doubles: NumPy cannot compare some of the small types with a tolerance.
        wide = (actual.astype(np.float64), expected.astype(np.float64))
        equal = np.isclose(*wide, rtol=rtol, atol=max(case["atol"], noise(wide[1], expected.dtype)), equal_nan=True).ravel()
    if equal.all():
        return None
    first = int(np.argmin(equal))
    one, other = actual.flat[first], expected.flat[first]
    return f"{int((~equal).sum())} of {equal.size} differ, first at {first}: {one} instead of {other}"


def noise(expected, dtype):
    """One unit in the last place of the largest element, for single precision. Stored answers carry that much noise: a
    Fourier transform in single precision gives 2e-7 where the exact answer is 0, next to elements of 90."""
    sizes = np.abs(expected[np.isfinite(expected)])
    return float(np.finfo(np.float32).eps) * sizes.max() if dtype == np.float32 and sizes.size else 0.0


def is_text(array):
    return array.dtype.kind in "OUST"


if __name__ == "__main__":
    main()
