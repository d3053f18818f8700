"""A model that is slow for one row and hardly slower for some: a network whose weights do not fit into the caches.

A run reads all of them from memory, whatever the rows: that is what batching is for. Run by the Python of the environment
`mlserver`, which has onnx.
"""

import pathlib
import sys

import numpy
import onnx
from onnx import TensorProto, helper, numpy_helper

PIXELS, CLASSES = 64, 10


def write(path, layers, width):
    """Writes [rows, 64] to [rows, 10] through `layers` square layers of `width` with ReLU."""
    dice = numpy.random.default_rng(0)
    widths = [PIXELS, *[width] * (layers + 1), CLASSES]
    nodes, weights, last = [], [], "input"
    for number, (rows, columns) in enumerate(zip(widths, widths[1:])):
        # He's initialisation: what comes out is neither nothing nor infinite.
        values = (dice.standard_normal((rows, columns), numpy.float32) * (2 / rows) ** 0.5).astype(numpy.float32)
        weights.append(numpy_helper.from_array(values, f"w_{number}"))
        ends = number == len(widths) - 2
        product = "scores" if ends else f"product_{number}"
        nodes.append(helper.make_node("MatMul", [last, f"w_{number}"], [product]))
        if not ends:
            last = f"layer_{number}"
            nodes.append(helper.make_node("Relu", [product], [last]))
    graph = helper.make_graph(
        nodes,
        "slow",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["rows", PIXELS])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["rows", CLASSES])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(model, path)


if __name__ == "__main__":
    write(pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
