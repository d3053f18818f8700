"""Small models for the tests of the command `stoker-graph`."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FOLDER = "command"
# Types of each kind: what NumPy has, what it lacks, text, and a list.
TYPES = ("BOOL", "UINT8", "INT64", "FLOAT16", "BFLOAT16", "FLOAT", "DOUBLE", "INT4", "FLOAT8E5M2", "STRING")


def write(folder):
    """Writes all of them below a folder."""
    folder = folder / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for name, model in (("types", types()), ("lists", lists()), ("unsupported", unsupported())):
        onnx.save(model, folder / f"{name}.onnx")
    # What an earlier run left would be written behind.
    (folder / "parts.weights").unlink(missing_ok=True)
    onnx.save(
        parts(), folder / "parts.onnx", save_as_external_data=True, location="parts.weights", size_threshold=0
    )


def model(graph, functions=(), opsets=(("", 21),)):
    imports = [helper.make_opsetid(*opset) for opset in opsets]
    made = helper.make_model(graph, opset_imports=imports, functions=functions, producer_name="command_models")
    made.producer_version = "1"
    # A version of the format that old readers know too.
    made.ir_version = 10
    return made


def types():
    """Gives back what it gets: one input and output for each type."""
    nodes, inputs, outputs = [], [], []
    for name in TYPES:
        source, target = name.lower(), f"same_{name.lower()}"
        number = TensorProto.DataType.Value(name)
        nodes.append(helper.make_node("Identity", [source], [target], target))
        inputs.append(helper.make_tensor_value_info(source, number, ["rows", 2]))
        outputs.append(helper.make_tensor_value_info(target, number, ["rows", 2]))
    return model(helper.make_graph(nodes, "types", inputs, outputs))


def lists():
    """A list of one tensor out of an optional one."""
    tensor = helper.make_tensor_type_proto(TensorProto.FLOAT, [2])
    optional = helper.make_value_info("maybe", helper.make_optional_type_proto(tensor))
    given = helper.make_tensor_sequence_value_info("list", TensorProto.FLOAT, [2])
    same = helper.make_tensor_sequence_value_info("same_list", TensorProto.FLOAT, [2])
    same_optional = helper.make_value_info("same_maybe", helper.make_optional_type_proto(tensor))
    nodes = [
        helper.make_node("Identity", ["list"], ["same_list"], "list"),
        helper.make_node("Identity", ["maybe"], ["same_maybe"], "maybe"),
    ]
    return model(helper.make_graph(nodes, "lists", [given, optional], [same, same_optional]))


def unsupported():
    """A node that runs between two that nobody knows."""
    nodes = [
        helper.make_node("Mystery", ["x"], ["a"], "first", domain="example.org"),
        helper.make_node("Relu", ["a"], ["b"], "middle"),
        helper.make_node("Enigma", ["b"], ["y"], "last"),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in ("x", "y"))
    return model(helper.make_graph(nodes, "unsupported", [x], [y]), opsets=(("", 21), ("example.org", 3)))


def parts():
    """A function, a graph inside of a node, and weights in another file: y = twice(x + w), or x where the sum of w is not
    above zero."""
    twice = helper.make_function(
        "example.org", "Twice", ["v"], ["w"], [helper.make_node("Add", ["v", "v"], ["w"])], [helper.make_opsetid("", 21)]
    )
    y = helper.make_tensor_value_info("branch", TensorProto.FLOAT, ["n", 3])
    yes = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["sum"]), helper.make_node("Twice", ["sum"], ["branch"], domain="example.org")],
        "yes",
        [],
        [y],
    )
    no = helper.make_graph([helper.make_node("Identity", ["x"], ["branch"])], "no", [], [y])
    nodes = [
        helper.make_node("ReduceSum", ["w"], ["total"], "total", keepdims=0),
        helper.make_node("Greater", ["total", "zero"], ["above"], "above"),
        helper.make_node("If", ["above"], ["y"], "choice", then_branch=yes, else_branch=no),
    ]
    weights = [
        numpy_helper.from_array(np.array([1, 2, 3], np.float32), "w"),
        numpy_helper.from_array(np.array(0, np.float32), "zero"),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3]) for name in ("x", "y"))
    graph = helper.make_graph(nodes, "parts", [x], [y], weights)
    return model(graph, [twice], (("", 21), ("example.org", 1)))
