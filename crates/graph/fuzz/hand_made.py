"""Writes the hand-made files of `tests/findings/load`: each asks for more than a file of its size may have.

    python hand_made.py

Needs the package `onnx`. The names say what a file asks for; those of files that the fuzzer found are not among them.
"""

import pathlib

import numpy as np
from onnx import TensorProto, helper, numpy_helper

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "tests" / "findings" / "load"
FLOAT, INT32, INT64, BOOL, STRING = (
    TensorProto.FLOAT, TensorProto.INT32, TensorProto.INT64, TensorProto.BOOL, TensorProto.STRING,
)
ONNX, ML, OWN = "", "ai.onnx.ml", "own"


def model(nodes, stored=(), outputs=(("y", FLOAT),), opset=21, functions=(), inputs=()):
    """A file without inputs, as a rule: all that it needs is in it."""
    declared = [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs]
    given = [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in inputs]
    graph = helper.make_graph(nodes, "hostile", given, declared, list(stored))
    imports = [helper.make_opsetid(ONNX, opset), helper.make_opsetid(ML, 5), helper.make_opsetid(OWN, 1)]
    return helper.make_model(graph, opset_imports=imports, functions=list(functions), ir_version=10)


def array(name, values, dtype=np.int64):
    return numpy_helper.from_array(np.array(values, dtype), name)


def text(name, strings):
    return helper.make_tensor(name, STRING, [len(strings)], [string.encode() for string in strings])


def filled(name, shape, value=0.0, dtype=np.float32):
    """Nodes and a stored shape that make a tensor of one element again and again, which takes no memory as such."""
    one = numpy_helper.from_array(np.array([value], dtype))
    return (
        helper.make_node("ConstantOfShape", [f"{name}_shape"], [name], value=one),
        array(f"{name}_shape", shape),
    )


def with_filled(node, *tensors, **rest):
    """A model of one node that reads such tensors."""
    makers, shapes = zip(*tensors)
    return model([*makers, node], [*shapes, *rest.pop("stored", ())], **rest)


def text_padded():
    node = helper.make_node("Pad", ["x", "pads", "with"], ["y"])
    stored = [text("x", ["x"]), array("pads", [0, 1_200_000]), text("with", ["y" * 8000])]
    stored[2].ClearField("dims")
    return model([node], stored, [("y", STRING)])


def text_resized():
    node = helper.make_node("Resize", ["x", "", "", "sizes"], ["y"])
    return model([node], [text("x", ["x" * 8000]), array("sizes", [1_200_000])], [("y", STRING)])


def long_labels():
    node = helper.make_node(
        "LinearClassifier", ["x"], ["label", "y"], domain=ML, coefficients=[1.0, 1.0], intercepts=[0.0, 0.0],
        classlabels_strings=["a" * 8000, "b" * 8000],
    )
    return with_filled(node, filled("x", [1_200_000, 1]), outputs=[("label", STRING), ("y", FLOAT)])


def stacks_of_whole_numbers():
    node = helper.make_node("MatMul", ["a", "b"], ["y"])
    a = filled("a", [8192, 1, 1, 16384], 1, np.int32)
    b = filled("b", [1, 8192, 16384, 1], 1, np.int32)
    return with_filled(node, a, b, outputs=[("y", INT32)])


def sums_of_many():
    node = helper.make_node("Einsum", ["x"] * 200, ["y"], equation=",".join(["ij"] * 200) + "->ij")
    return with_filled(node, filled("x", [8192, 16384]))


def window_as_long_as_the_signal():
    node = helper.make_node("Conv", ["x", "w"], ["y"])
    return with_filled(node, filled("x", [1, 1, 1 << 23]), filled("w", [1, 1, 1 << 22]))


def windows_spread_over_each_other():
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"])
    return with_filled(node, filled("x", [1, 1, 1 << 22]), filled("w", [1, 1, 1 << 22]))


def looks_back_far():
    node = helper.make_node("CausalConvWithState", ["x", "w"], ["y", "state"])
    return with_filled(node, filled("x", [1, 1, 1 << 20]), filled("w", [1, 1, 1 << 20]), opset=27)


def whole_images_as_regions():
    node = helper.make_node("MaxRoiPool", ["x", "all"], ["y"], pooled_shape=[1, 1])
    nodes = [
        filled("x", [1, 1, 4096, 4096])[0],
        helper.make_node("Expand", ["region", "count"], ["all"]),
        node,
    ]
    region = array("region", [[0, 0, 0, 4095, 4095]], np.float32)
    return model(nodes, [filled("x", [1, 1, 4096, 4096])[1], region, array("count", [1 << 18, 5])])


def regions_without_channels():
    node = helper.make_node("RoiAlign", ["x", "rois", "of"], ["y"], sampling_ratio=60_000)
    tensors = filled("x", [1, 0, 8, 8]), filled("rois", [1 << 20, 4]), filled("of", [1 << 20], 0, np.int64)
    return with_filled(node, *tensors)


def words_far_apart():
    node = helper.make_node(
        "TfIdfVectorizer", ["x"], ["y"], mode="TF", min_gram_length=2, max_gram_length=2, max_skip_count=1 << 40,
        ngram_counts=[0, 0], ngram_indexes=[0], pool_int64s=[0, 0],
    )
    return with_filled(node, filled("x", [1 << 20], 0, np.int64))


def tree_of_which_there_are_thousands():
    node = helper.make_node(
        "TreeEnsemble", ["x"], ["y"], domain=ML, n_targets=1, nodes_featureids=[0], nodes_truenodeids=[0],
        nodes_falsenodeids=[0], nodes_trueleafs=[1], nodes_falseleafs=[1], leaf_targetids=[0], tree_roots=[0] * 6000,
        nodes_modes=array("", [0], np.uint8), nodes_splits=array("", [0.5], np.float32),
        leaf_weights=array("", [1.0], np.float32),
    )
    return with_filled(node, filled("x", [1 << 25, 1]))


def classes_in_pairs():
    classes = 30
    pairs = classes * (classes - 1) // 2
    node = helper.make_node(
        "SVMClassifier", ["x"], ["label", "y"], domain=ML, classlabels_ints=list(range(classes)),
        vectors_per_class=[1] * classes, support_vectors=[1.0] * classes, coefficients=[1.0] * (classes * (classes - 1)),
        rho=[0.0] * pairs, prob_a=[1.0] * pairs, prob_b=[0.0] * pairs, kernel_type="LINEAR",
    )
    return with_filled(node, filled("x", [1 << 22, 1]), outputs=[("label", INT64), ("y", FLOAT)])


def bent_in_twenty_dimensions():
    node = helper.make_node("DeformConv", ["x", "w", "offset"], ["y"])
    tensors = filled("x", [1, 1] + [2] * 20), filled("w", [1, 1] + [1] * 20), filled("offset", [1, 20] + [2] * 20, 0.5)
    return with_filled(node, *tensors)


def empty_images_sampled():
    node = helper.make_node("GridSample", ["x", "grid"], ["y"], padding_mode="border", mode="nearest")
    return with_filled(node, filled("x", [1, 0, 0, 2]), filled("grid", [1, 2, 2, 2]))


def long_list_in_an_error():
    node = helper.make_node("ReverseSequence", ["x", "lengths"], ["y"])
    return with_filled(node, filled("x", [2, 2]), filled("lengths", [1 << 22], 1, np.int64))


def views_as_outputs():
    names = [f"y{at}" for at in range(100)]
    nodes = [helper.make_node("Expand", ["x", "shape"], [name]) for name in names]
    stored = [array("x", [1.0], np.float32), array("shape", [1 << 27])]
    return model(nodes, stored, [(name, FLOAT) for name in names])


def many_attributes():
    node = helper.make_node("Relu", ["x"], ["y"], **{f"a{at}": 1 for at in range(1100)})
    return model([node], [array("x", [1.0], np.float32)])


def function_of_many_inputs():
    """Three levels of 18 calls each, and the last function has two thousand inputs."""
    names = [f"a{at}" for at in range(2000)]
    imports = [helper.make_opsetid(ONNX, 21), helper.make_opsetid(OWN, 1)]
    functions = [
        helper.make_function(OWN, "f3", names, ["b"], [helper.make_node("Relu", ["a0"], ["b"])], imports),
    ]
    for level in range(3):
        calls = [helper.make_node(f"f{level + 1}", ["a"], [f"b{at}"], domain=OWN) for at in range(18)]
        functions.append(helper.make_function(OWN, f"f{level}", ["a"], ["b0"], calls, imports))
    call = helper.make_node("f0", ["x"], ["y"], domain=OWN)
    return model([call], functions=functions, inputs=[("x", FLOAT, [1])])


def endless_loop():
    body = helper.make_graph(
        [], "body",
        [helper.make_tensor_value_info("i", INT64, []), helper.make_tensor_value_info("go", BOOL, [])],
        [helper.make_tensor_value_info("go", BOOL, []), helper.make_tensor_value_info("i", INT64, [])],
    )
    loop = helper.make_node("Loop", ["rounds", ""], ["y"], body=body)
    return model([loop], [array("rounds", 1 << 60)], [("y", INT64)])


def loops_in_loops():
    """Each of eight loops runs the next one as often as it can."""
    inner = [helper.make_node("Identity", ["x"], ["v8"])]
    for depth in range(8, 0, -1):
        body = helper.make_graph(
            inner, "body",
            [helper.make_tensor_value_info(f"i{depth}", INT64, []), helper.make_tensor_value_info(f"go{depth}", BOOL, [])],
            [helper.make_tensor_value_info(f"go{depth}", BOOL, []), helper.make_tensor_value_info(f"v{depth}", FLOAT, [1])],
        )
        inner = [helper.make_node("Loop", ["rounds", ""], [f"v{depth - 1}"], body=body)]
    return model(inner, [array("rounds", 1 << 60)], [("v0", FLOAT)], inputs=[("x", FLOAT, [1])])


def circle():
    nodes = [helper.make_node("Add", ["x", "b"], ["a"]), helper.make_node("Relu", ["a"], ["b"])]
    return model(nodes, outputs=[("b", FLOAT)], inputs=[("x", FLOAT, [1])])


def contradicting_types():
    nodes = [helper.make_node("Shape", ["x"], ["s"]), helper.make_node("Add", ["x", "s"], ["y"])]
    return model(nodes, outputs=[("y", STRING)], inputs=[("x", FLOAT, [2])])


def shape_of_huge_dimensions():
    node = helper.make_node("ConstantOfShape", ["shape"], ["y"])
    return model([node], [array("shape", [1 << 40, 0, 1 << 40])])


def stored_with_huge_dimensions():
    stored = array("x", [1.0], np.float32)
    stored.dims[:] = [1 << 40, 1 << 40]
    return model([helper.make_node("Relu", ["x"], ["y"])], [stored])


def weights_outside():
    stored = array("x", [1.0], np.float32)
    stored.ClearField("raw_data")
    stored.data_location = TensorProto.EXTERNAL
    stored.external_data.add(key="location", value="../../../../../../etc/passwd")
    return model([helper.make_node("Relu", ["x"], ["y"])], [stored])


def types_inside_of_types():
    """A type in fifteen hundred lists, as bytes: the package does not write it."""
    inner = b""
    for _ in range(1500):
        inner = field(4, field(1, inner))
    info = field(1, b"x") + field(2, inner)
    graph = field(2, b"g") + field(11, info) + field(12, info)
    return field(7, graph)


def cut_short():
    whole = contradicting_types().SerializeToString()
    return whole[: len(whole) * 2 // 3]


def field(number, payload):
    """A field of a message, by its number."""
    return bytes([number << 3 | 2]) + varint(len(payload)) + payload


def varint(number):
    digits = []
    while number >= 0x80:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*digits, number])


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    made = [
        text_padded, text_resized, long_labels, stacks_of_whole_numbers, sums_of_many, window_as_long_as_the_signal,
        windows_spread_over_each_other, looks_back_far, whole_images_as_regions, regions_without_channels, words_far_apart,
        tree_of_which_there_are_thousands, classes_in_pairs, bent_in_twenty_dimensions, empty_images_sampled,
        long_list_in_an_error, views_as_outputs, many_attributes, function_of_many_inputs, endless_loop, loops_in_loops,
        circle, contradicting_types, shape_of_huge_dimensions, stored_with_huge_dimensions, weights_outside,
        types_inside_of_types, cut_short,
    ]
    for make in made:
        file = make()
        content = file if isinstance(file, bytes) else file.SerializeToString()
        (FOLDER / f"{make.__name__.replace('_', '-')}.onnx").write_bytes(content)
        print(f"{len(content):>8} {make.__name__}")


if __name__ == "__main__":
    main()
