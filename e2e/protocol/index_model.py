"""A model that carries each row's index through, and as much work that batches of requests form."""

import numpy as np
import onnx
from onnx import TensorProto, helper

# Numbers beside the index, in each row.
WIDTH = 8
# How often the model repeats each of them, and takes the mean: a power of two, so that the result is exact.
COPIES = 64
# Numbers are smaller than this, so that no sum in the model is rounded.
MODULUS = 97


def payload(index):
    """The numbers of the rows of these indices."""
    return (index[:, None] * np.arange(1, WIDTH + 1) % MODULUS).astype(np.float32)


def total(index):
    """What the model must give for them: the sum of the row's numbers, and the index."""
    return payload(index).sum(axis=1) + index.astype(np.float32)


def write(path):
    """Writes the model: `index` (INT64 [-1]) and `numbers` (FP32 [-1, WIDTH]) to `same` and `total`."""
    copied = np.repeat(np.eye(WIDTH, dtype=np.float32), COPIES, axis=1)
    mean = copied.T / COPIES
    constants = {"copied": copied, "mean": mean, "ones": np.ones((WIDTH, 1), np.float32), "last": np.array([1])}
    nodes = [
        helper.make_node("Identity", ["index"], ["same"]),
        helper.make_node("MatMul", ["numbers", "copied"], ["copies"]),
        helper.make_node("Relu", ["copies"], ["positive"]),
        helper.make_node("MatMul", ["positive", "mean"], ["again"]),
        helper.make_node("MatMul", ["again", "ones"], ["column"]),
        helper.make_node("Squeeze", ["column", "last"], ["sum"]),
        helper.make_node("Cast", ["index"], ["number"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["sum", "number"], ["total"]),
    ]
    graph = helper.make_graph(
        nodes,
        "index",
        [
            helper.make_tensor_value_info("index", TensorProto.INT64, ["rows"]),
            helper.make_tensor_value_info("numbers", TensorProto.FLOAT, ["rows", WIDTH]),
        ],
        [
            helper.make_tensor_value_info("same", TensorProto.INT64, ["rows"]),
            helper.make_tensor_value_info("total", TensorProto.FLOAT, ["rows"]),
        ],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
