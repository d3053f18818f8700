"""`make onnx-networks`: whole networks, as PyTorch exports them, by ours and by ONNX Runtime on the CPU.

    target/conformance-venv/bin/python e2e/conformance/networks.py --graph target/release/stoker-graph [PATTERN]

Four networks are written to target/conformance/networks/, each with a free batch axis and with weights from a seed: an
encoder of six layers, ResNet-18, MobileNetV2, and an LSTM of two layers. The weights are of a size that keeps activations in
range, and that is all: the answers mean nothing, and are as sensitive to a wrong operator as those of trained weights.

Both runtimes get the same file and inputs, once for each batch, each time as a process of its own. An element may differ by
1e-4 of its size, or by 1e-4 where it is smaller than 1. Peak memory is that of the whole process: with ONNX Runtime, Python
and NumPy are in it. The last line but one says what those take without a network.

The exit status is 1 when an answer differs, or when there is none. Writes target/conformance/networks.json, unless a pattern
chose some of the networks.
"""

import argparse
import json
import pathlib
import re
import subprocess
import sys
import tempfile

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
OUT = ROOT / "target" / "conformance"
BATCHES = (1, 4)
TOLERANCE = 1e-4
# What PyTorch writes for operators of this version has LayerNormalization and Gelu in parts.
OPSET, IR_VERSION = 16, 8
MB = 1e6

# Starts a process and prints how it ended and its peak of resident memory, in KiB. A process begins with the peak of the one
# that it was forked from, so that it is started from one that is smaller than all that is measured.
LAUNCH = """
import os, sys
process = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
_, status, usage = os.wait4(process, 0)
print("\\n%d %d" % (os.waitstatus_to_exitcode(status), usage.ru_maxrss))
"""

# ONNX Runtime as we are called: a file, inputs as .npy in the order of the graph, a folder for the outputs. Without
# arguments it does nothing, which costs memory too.
PEER = """
import sys
import numpy, onnxruntime
if len(sys.argv) > 1:
    model, out, *inputs = sys.argv[1:]
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    names = [info.name for info in session.get_inputs()]
    for at, value in enumerate(session.run(None, dict(zip(names, map(numpy.load, inputs))))):
        numpy.save(f"{out}/output_{at}.npy", value)
"""


class Network:
    """A graph that grows node by node. Each method gives the name of what it added."""

    def __init__(self, seed):
        self.random = np.random.default_rng(seed)
        self.nodes = []
        self.weights = []
        self.names = 0

    def node(self, op, *inputs, outputs=1, **attributes):
        self.names += 1
        given = [f"/{op}_{self.names}_output_{at}" for at in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, given, name=f"/{op}_{self.names}", **attributes))
        return given[0] if outputs == 1 else given

    def constant(self, values, dtype=np.int64):
        return self.node("Constant", value=numpy_helper.from_array(np.array(values, dtype)))

    def weight(self, shape, deviation, around=0.0):
        values = around + deviation * self.random.standard_normal(shape)
        return self.stored(values.astype(np.float32))

    def stored(self, values):
        self.names += 1
        name = f"weight_{self.names}"
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def linear(self, x, inputs, outputs):
        """A linear layer for more than two dimensions."""
        product = self.node("MatMul", x, self.weight((inputs, outputs), inputs**-0.5))
        return self.node("Add", self.weight((outputs,), 0.1), product)

    def head(self, x, inputs, outputs):
        """A linear layer for a matrix."""
        weight = self.weight((outputs, inputs), inputs**-0.5)
        return self.node("Gemm", x, weight, self.weight((outputs,), 0.1), alpha=1.0, beta=1.0, transB=1)

    def length(self, x, axis):
        """The length of an axis, as a shape of one element."""
        one = self.node("Gather", self.node("Shape", x), self.constant(axis), axis=0)
        return self.node("Unsqueeze", one, self.constant([0]))

    def convolution(self, x, inputs, outputs, kernel, stride=1, groups=1, gain=2.0, bias=False):
        weight = self.weight((outputs, inputs // groups, kernel, kernel), (gain / (inputs // groups * kernel**2)) ** 0.5)
        return self.node(
            "Conv",
            *([x, weight, self.weight((outputs,), 0.1)] if bias else [x, weight]),
            dilations=[1, 1],
            group=groups,
            kernel_shape=[kernel, kernel],
            pads=[kernel // 2] * 4,
            strides=[stride, stride],
        )

    def pooled(self, x, channels, classes):
        """The end of a network for images."""
        return self.head(self.node("Flatten", self.node("GlobalAveragePool", x), axis=1), channels, classes)

    def model(self, name, inputs, outputs):
        """The model. Inputs are a type and a shape by name; outputs have what they are called in the graph before that."""
        for node in self.nodes:
            for called, (inner, *_) in outputs.items():
                for names in (node.input, node.output):
                    names[:] = [called if name == inner else name for name in names]
        given = [helper.make_tensor_value_info(called, *of) for called, of in inputs.items()]
        asked = [helper.make_tensor_value_info(called, *of) for called, (_, *of) in outputs.items()]
        graph = helper.make_graph(self.nodes, name, given, asked, self.weights)
        opsets = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="stoker")
        onnx.checker.check_model(model, full_check=True)
        return model


TOKENS, VOCABULARY, WIDTH, HEADS, INNER, LAYERS = 128, 30522, 384, 6, 1536, 6


def encoder():
    """A transformer encoder of the size of MiniLM: six layers of 384, six heads, 128 tokens."""
    network = Network(1)
    words = network.node("Gather", network.weight((VOCABULARY, WIDTH), 1.0), "ids")
    positions = network.node("Gather", network.weight((512, WIDTH), 1.0), network.constant([range(TOKENS)]))
    x = normalised(network, network.node("Add", words, positions))
    for _ in range(LAYERS):
        x = normalised(network, network.node("Add", attention(network, x), x))
        inner = gelu(network, network.linear(x, WIDTH, INNER))
        x = normalised(network, network.node("Add", network.linear(inner, INNER, WIDTH), x))
    first = network.node("Gather", x, network.constant(0), axis=1)
    pooled = network.node("Tanh", network.head(first, WIDTH, WIDTH))
    outputs = {
        "last_hidden_state": (x, TensorProto.FLOAT, ["batch", TOKENS, WIDTH]),
        "pooled": (pooled, TensorProto.FLOAT, ["batch", WIDTH]),
    }
    return network.model("encoder", {"ids": (TensorProto.INT64, ["batch", TOKENS])}, outputs)


def normalised(network, x):
    """LayerNormalization in its parts."""
    centred = network.node("Sub", x, network.node("ReduceMean", x, axes=[-1]))
    square = network.node("Pow", centred, network.constant(2.0, np.float32))
    variance = network.node("ReduceMean", square, axes=[-1])
    deviation = network.node("Sqrt", network.node("Add", variance, network.constant(1e-5, np.float32)))
    scaled = network.node("Mul", network.node("Div", centred, deviation), network.weight((WIDTH,), 0.1, 1.0))
    return network.node("Add", scaled, network.weight((WIDTH,), 0.1))


def attention(network, x):
    def split(name, order):
        heads = [network.constant([HEADS]), network.constant([WIDTH // HEADS])]
        shape = network.node("Concat", network.length(name, 0), network.length(name, 1), *heads, axis=0)
        return network.node("Transpose", network.node("Reshape", name, shape), perm=order)

    query, key, value = (network.linear(x, WIDTH, WIDTH) for _ in range(3))
    scores = network.node("MatMul", split(query, [0, 2, 1, 3]), split(key, [0, 2, 3, 1]))
    scores = network.node("Div", scores, network.constant((WIDTH // HEADS) ** 0.5, np.float32))
    mixed = network.node("MatMul", network.node("Softmax", scores, axis=-1), split(value, [0, 2, 1, 3]))
    mixed = network.node("Transpose", mixed, perm=[0, 2, 1, 3])
    shape = network.node("Concat", network.length(mixed, 0), network.length(mixed, 1), network.constant([WIDTH]), axis=0)
    return network.linear(network.node("Reshape", mixed, shape), WIDTH, WIDTH)


def gelu(network, x):
    """Gelu in its parts."""
    error = network.node("Erf", network.node("Div", x, network.constant(2**0.5, np.float32)))
    product = network.node("Mul", x, network.node("Add", error, network.constant(1.0, np.float32)))
    return network.node("Mul", product, network.constant(0.5, np.float32))


def resnet():
    """ResNet-18, with normalisation that is not folded into the convolutions."""
    network = Network(2)

    def batch_normalised(x, channels, around):
        scale = network.weight((channels,), 0.1, around)
        shift, mean = (network.weight((channels,), 0.1) for _ in range(2))
        variance = network.stored(network.random.uniform(0.8, 1.25, channels).astype(np.float32))
        return network.node("BatchNormalization", x, scale, shift, mean, variance, epsilon=1e-5, momentum=0.9)

    x = network.node("Relu", batch_normalised(network.convolution("image", 3, 64, 7, stride=2), 64, 1.0))
    window = {"dilations": [1, 1], "kernel_shape": [3, 3], "pads": [1] * 4, "strides": [2, 2]}
    x, channels = network.node("MaxPool", x, ceil_mode=0, **window), 64
    for wide in (64, 128, 256, 512):
        for block in range(2):
            stride = 2 if block == 0 and wide > 64 else 1
            inner = batch_normalised(network.convolution(x, channels, wide, 3, stride), wide, 1.0)
            # The branch is less than what it is added to, or the sums grow with each block.
            inner = batch_normalised(network.convolution(network.node("Relu", inner), wide, wide, 3), wide, 0.4)
            if channels != wide:
                x = batch_normalised(network.convolution(x, channels, wide, 1, stride, gain=1.0), wide, 1.0)
            x, channels = network.node("Relu", network.node("Add", inner, x)), wide
    return images(network, "resnet18", network.pooled(x, channels, 1000))


def mobilenet():
    """MobileNetV2, with normalisation folded into the convolutions."""
    network = Network(3)

    def clipped(x, *shape, **more):
        x = network.convolution(x, *shape, bias=True, **more)
        return network.node("Clip", x, network.constant(0.0, np.float32), network.constant(6.0, np.float32))

    x, channels = clipped("image", 3, 32, 3, stride=2), 32
    # The table of the paper: how much wider a block is inside, channels, blocks, stride of the first.
    for wider, outputs, blocks, stride in (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ):
        for block in range(blocks):
            inner, inside = x, channels * wider
            if wider > 1:
                inner = clipped(inner, channels, inside, 1)
            inner = clipped(inner, inside, inside, 3, stride=stride if block == 0 else 1, groups=inside)
            repeated = block > 0
            inner = network.convolution(inner, inside, outputs, 1, gain=0.5 if repeated else 1.5, bias=True)
            x, channels = network.node("Add", x, inner) if repeated else inner, outputs
    return images(network, "mobilenetv2", network.pooled(clipped(x, channels, 1280, 1), 1280, 1000))


def images(network, name, logits):
    inputs = {"image": (TensorProto.FLOAT, ["batch", 3, 224, 224])}
    return network.model(name, inputs, {"logits": (logits, TensorProto.FLOAT, ["batch", 1000])})


STEPS, FEATURES, HIDDEN, TAGS = 64, 128, 256, 32


def lstm():
    """An LSTM of two layers over 64 steps that gives each a tag: the first layer reads in both directions, the second
    forward, which PyTorch writes in different ways. The batch is the first axis outside, the second one within."""
    network = Network(4)

    def layer(x, inputs, directions):
        shape = network.node(
            "Concat", network.constant([directions]), network.length(x, 1), network.constant([HIDDEN]), axis=0
        )
        zeros = network.node("Expand", network.constant([[[0.0]]], np.float32), shape)
        weights = [
            # Larger than at the start of a training: a trained layer's gates open and close.
            network.weight((directions, 4 * HIDDEN, inputs), 3 * inputs**-0.5),
            network.weight((directions, 4 * HIDDEN, HIDDEN), 2 * HIDDEN**-0.5),
            network.weight((directions, 8 * HIDDEN), 0.1),
        ]
        direction = {"direction": "bidirectional"} if directions == 2 else {}
        return network.node("LSTM", x, *weights, "", zeros, zeros, outputs=3, hidden_size=HIDDEN, **direction)

    steps = network.node("Transpose", "sequence", perm=[1, 0, 2])
    both, _, _ = layer(steps, FEATURES, 2)
    both = network.node("Transpose", both, perm=[0, 2, 1, 3])
    both = network.node("Reshape", both, network.constant([0, 0, -1]))
    forward, state, cell = layer(both, 2 * HIDDEN, 1)
    forward = network.node("Transpose", network.node("Squeeze", forward, network.constant([1])), perm=[1, 0, 2])
    outputs = {
        "tags": (network.linear(forward, HIDDEN, TAGS), TensorProto.FLOAT, ["batch", STEPS, TAGS]),
        "state": (state, TensorProto.FLOAT, [1, "batch", HIDDEN]),
        "cell": (cell, TensorProto.FLOAT, [1, "batch", HIDDEN]),
    }
    return network.model("lstm", {"sequence": (TensorProto.FLOAT, ["batch", STEPS, FEATURES])}, outputs)


NETWORKS = {"encoder": encoder, "resnet18": resnet, "mobilenetv2": mobilenet, "lstm": lstm}


def example(info, batch):
    """Inputs that the seed decides."""
    random = np.random.default_rng(batch)
    shape = [batch] + [dimension.dim_value for dimension in info.type.tensor_type.shape.dim[1:]]
    if info.type.tensor_type.elem_type == TensorProto.INT64:
        return random.integers(0, VOCABULARY, shape)
    return random.standard_normal(shape, np.float32)


def measured(command):
    """Runs a process. How it ended, its peak memory in MB, and what it had to say."""
    launch = [sys.executable, "-I", "-S", "-c", LAUNCH, *map(str, command)]
    done = subprocess.run(launch, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=True)
    status, peak = map(int, done.stdout.splitlines()[-1].split())
    return status, peak * 1024 / MB, " ".join(done.stderr.split())[:600]


def answers(command, out, count):
    """The outputs of a process, its peak memory, and the reason when it gives none."""
    status, peak, said = measured(command)
    if status:
        return None, peak, f"exit status {status}: {said}" if status > 0 else f"ended by signal {-status}: {said}"
    try:
        return [np.load(out / f"output_{at}.npy") for at in range(count)], peak, ""
    except (OSError, ValueError) as error:
        return None, peak, f"an output cannot be read: {error}"


def difference(actual, expected):
    """The largest difference of all outputs. What has another type or shape, or is no number, differs by infinity."""
    largest = 0.0
    for one, other in zip(actual, expected):
        if one.dtype != other.dtype or one.shape != other.shape or not np.isfinite(one).all():
            return float("inf")
        wide = other.astype(np.float64)
        largest = max(largest, float((np.abs(one - wide) / np.maximum(1, np.abs(wide))).max()))
    return largest


def compared(graph, name, model, path, batch):
    """The row of one network and batch."""
    outputs = model.graph.output
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        inputs, out = [], {side: folder / side for side in ("ours", "theirs")}
        for side in out.values():
            side.mkdir()
        for info in model.graph.input:
            inputs.append(folder / f"{info.name}.npy")
            np.save(inputs[-1], example(info, batch))
        command = [graph, "run", path, *inputs, "--out", out["ours"], "--format", "npy"]
        ours, our_peak, reason = answers(command, out["ours"], len(outputs))
        command = [sys.executable, "-c", PEER, path, out["theirs"], *inputs]
        theirs, their_peak, trouble = answers(command, out["theirs"], len(outputs))
    if theirs is None or not all(np.isfinite(value).all() for value in theirs):
        raise RuntimeError(f"{name}: ONNX Runtime has no answer to compare with: {trouble or 'not all of it is a number'}")
    row = {
        "network": name,
        "parameters_mb": sum(numpy_helper.to_array(weight).nbytes for weight in model.graph.initializer) / MB,
        "batch": batch,
        "largest_difference": None if ours is None else difference(ours, theirs),
        # How far the elements of each answer are spread: that they are not all the same.
        "deviation": [float(value.std()) for value in theirs],
        "peak_mb": our_peak,
        "onnxruntime_peak_mb": their_peak,
        "reason": reason,
    }
    row["differs"] = ours is None or row["largest_difference"] > TOLERANCE
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("pattern", nargs="?", type=re.compile, help="some networks alone, by name: nothing is written")
    parser.add_argument("--graph", type=pathlib.Path, default=ROOT / "target/release/stoker-graph", help="our command")
    asked = parser.parse_args()
    graph = asked.graph.resolve()
    if not graph.is_file():
        parser.error(f"there is no {asked.graph}; build it with: e2e/build stoker-graph")
    chosen = {name: build for name, build in NETWORKS.items() if not asked.pattern or asked.pattern.search(name)}
    if not chosen:
        parser.error("no network has the pattern in its name")
    (OUT / "networks").mkdir(parents=True, exist_ok=True)
    print(f"{'network':12}{'parameters':>13}{'batch':>7}{'difference':>12}{'peak of ours':>15}{'of ONNX Runtime':>18}")
    rows = []
    for name, build in chosen.items():
        model, path = build(), OUT / "networks" / f"{name}.onnx"
        onnx.save(model, path)
        for batch in BATCHES:
            row = compared(graph, name, model, path, batch)
            rows.append(row)
            largest = "none" if row["largest_difference"] is None else f"{row['largest_difference']:.1e}"
            print(f"{name:12}{row['parameters_mb']:>10.1f} MB{batch:>7}{largest:>12}{row['peak_mb']:>12.1f} MB", end="")
            print(f"{row['onnxruntime_peak_mb']:>15.1f} MB{'  differs' if row['differs'] else ''}", flush=True)
            if row["reason"]:
                print(f"  {row['reason']}")
    idle = measured([sys.executable, "-c", PEER])[1]
    if not asked.pattern:
        report = {
            "tolerance": TOLERANCE,
            "onnxruntime": onnxruntime.__version__,
            "onnxruntime_idle_mb": idle,
            "networks": rows,
        }
        (OUT / "networks.json").write_text(json.dumps(report, indent=1) + "\n")
    print(f"Python with ONNX Runtime and without a network: {idle:.1f} MB")
    differing = sum(row["differs"] for row in rows)
    print(f"networks: {len(rows)} compared, {differing} differ")
    sys.exit(bool(differing))


if __name__ == "__main__":
    main()
