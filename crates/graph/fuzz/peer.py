"""ONNX Runtime for the fuzz target `differential`, which starts this and asks it over pipes.

A frame is four bytes of length (little-endian, as all numbers here) and the rest. A question holds: the path to keep the case
at (empty: nowhere), the model, the number of inputs, and for each of them a name and a tensor. An answer holds a byte: 0 and
the number of outputs with the tensors, or 1 and the reason why there are none. Paths, models and names are preceded by their
lengths; a tensor is ONNX's number of its type, its rank (a byte each), its dimensions, the length of its elements, and these.

ONNX Runtime may crash, or go on for ever: then this process ends, and the one who asked starts another.
"""

import base64
import io
import json
import os
import signal
import struct
import sys

import numpy as np
import onnxruntime

# What a question and its answer may take; the graphs are small.
LONGEST = 1 << 20
SECONDS = 30

# ONNX's numbers of element types, with the names of the Open Inference Protocol.
TYPES = {
    1: (np.float32, "FP32"), 2: (np.uint8, "UINT8"), 3: (np.int8, "INT8"), 4: (np.uint16, "UINT16"), 5: (np.int16, "INT16"),
    6: (np.int32, "INT32"), 7: (np.int64, "INT64"), 9: (np.bool_, "BOOL"), 10: (np.float16, "FP16"), 11: (np.float64, "FP64"),
    12: (np.uint32, "UINT32"), 13: (np.uint64, "UINT64"),
}
NUMBERS = {np.dtype(dtype): number for number, (dtype, _) in TYPES.items()}


def main():
    onnxruntime.set_default_logger_severity(4)
    questions = sys.stdin.buffer
    # Libraries print where they like: the answers have a channel of their own.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    while head := questions.read(4):
        (length,) = struct.unpack("<I", head)
        if length > LONGEST:
            sys.exit(f"peer.py: a question of {length} bytes is longer than {LONGEST}")
        answer = respond(io.BytesIO(questions.read(length)))
        answers.write(struct.pack("<I", len(answer)) + answer)
        answers.flush()


def respond(question):
    path, model = part(question), part(question)
    names, values = [], []
    for _ in range(number(question)):
        names.append(part(question).decode())
        values.append(read_tensor(question))
    signal.alarm(SECONDS)
    try:
        outputs = run(model, dict(zip(names, values)))
        answer = b"\0" + struct.pack("<I", len(outputs)) + b"".join(map(write_tensor, (value for _, value in outputs)))
    except Exception as error:  # Whatever it is, there is no answer.
        return b"\1" + " ".join(str(error).split())[:1000].encode()
    finally:
        signal.alarm(0)
    if path:
        keep(path.decode(), model, list(zip(names, values)), outputs)
    return answer


def run(model, feeds):
    """Names and values of the outputs. The kernels are compared as they are: what is optimised away is not."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [info.name for info in session.get_outputs()]
    return list(zip(names, session.run(names, feeds)))


def keep(path, model, inputs, outputs):
    """Writes a case as the crate's test `findings` reads it."""
    case = {
        "model": base64.b64encode(model).decode(),
        "inputs": [written(name, value) for name, value in inputs],
        "outputs": [written(name, value) for name, value in outputs],
    }
    with open(path, "w") as file:
        json.dump(case, file)
        file.write("\n")


def written(name, value):
    value = np.asarray(value)
    data = [item if is_plain(item) else str(item) for item in value.ravel().tolist()]
    return {"name": name, "dtype": TYPES[NUMBERS[value.dtype]][1], "shape": list(value.shape), "data": data}


def is_plain(item):
    """Whether JSON has such a number."""
    return not isinstance(item, float) or np.isfinite(item)


def read_tensor(question):
    kind, rank = question.read(2)
    shape = [number(question) for _ in range(rank)]
    return np.frombuffer(part(question), TYPES[kind][0]).reshape(shape)


def write_tensor(value):
    value = np.ascontiguousarray(value).reshape(np.shape(value))
    shape = b"".join(struct.pack("<I", length) for length in value.shape)
    raw = value.tobytes()
    return bytes([NUMBERS[value.dtype], value.ndim]) + shape + struct.pack("<I", len(raw)) + raw


def part(question):
    return question.read(number(question))


def number(question):
    return struct.unpack("<I", question.read(4))[0]


if __name__ == "__main__":
    main()
