"""A model that is slow whatever the rows, and a little slower with each: what batching is for.

What a run takes is `a + b * rows` by construction. The fixed part multiplies two matrices again and again; it hangs on the
shape of the input alone, so that nobody can compute it before, and adds nothing to any row. The part of each row is a chain
of functions of many numbers. Run by the Python of the environment `mlserver`, which has onnx.
"""

import pathlib
import sys

import numpy
import onnx
from onnx import TensorProto, helper, numpy_helper

PIXELS, CLASSES = 64, 10
# The matrices of the fixed part, and the numbers of a row in its own part.
SIDE, WIDTH = 64, 2048


def write(path, products, functions):
    """Writes [rows, 64] to [rows, 10]: `products` of the fixed part, and `functions` of each row's."""
    dice = numpy.random.default_rng(0)

    def random(name, *shape):
        # What comes out is neither nothing nor infinite, however long the chain.
        return numpy_helper.from_array((dice.standard_normal(shape, numpy.float32) / shape[0] ** 0.5).astype(numpy.float32), name)

    weights = [
        random("mixing", SIDE, SIDE),
        random("widening", PIXELS, WIDTH),
        random("narrowing", WIDTH, CLASSES),
        numpy_helper.from_array(numpy.array([1], numpy.int64), "columns"),
        numpy_helper.from_array(numpy.array(0, numpy.float32), "nothing"),
    ]
    # The number of columns, which is 64 in every request: a matrix of ones, as far as anybody can tell before a run.
    nodes = [
        helper.make_node("Shape", ["input"], ["shape"]),
        helper.make_node("Gather", ["shape", "columns"], ["length"]),
        helper.make_node("Cast", ["length"], ["number"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["mixing", "number"], ["fixed_0"]),
    ]
    for number in range(products):
        nodes.append(helper.make_node("MatMul", [f"fixed_{number}", "mixing"], [f"product_{number}"]))
        # Keeps the numbers in their bounds.
        nodes.append(helper.make_node("Tanh", [f"product_{number}"], [f"fixed_{number + 1}"]))
    nodes.append(helper.make_node("ReduceMax", [f"fixed_{products}"], ["most"], keepdims=0))
    nodes.append(helper.make_node("Mul", ["most", "nothing"], ["added"]))
    nodes.append(helper.make_node("MatMul", ["input", "widening"], ["wide_0"]))
    for number in range(functions):
        nodes.append(helper.make_node("Tanh", [f"wide_{number}"], [f"wide_{number + 1}"]))
    nodes.append(helper.make_node("MatMul", [f"wide_{functions}", "narrowing"], ["own"]))
    nodes.append(helper.make_node("Add", ["own", "added"], ["scores"]))
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
