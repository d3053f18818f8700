"""Small ONNX models with the answers of ONNX Runtime, for the tests of crates/graph.

Each family is a file with one case per line: `name`, `model` (the ONNX file in base64), `tolerance`
(absolute and relative) and `runs`, which are requests with their answers. A request that ONNX Runtime
refuses has `"fails": true` in the place of the outputs. Numbers that are not finite are strings.
"""

import base64
import json
import pathlib
import shutil

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

import sklearn_cases

TYPES = {
    "float32": "FP32",
    "float64": "FP64",
    "int64": "INT64",
    "int32": "INT32",
    "int8": "INT8",
    "uint8": "UINT8",
    "bool": "BOOL",
    "object": "BYTES",
}
ELEMENTS = {
    "float32": TensorProto.FLOAT,
    "float64": TensorProto.DOUBLE,
    "int64": TensorProto.INT64,
    "int32": TensorProto.INT32,
    "int8": TensorProto.INT8,
    "uint8": TensorProto.UINT8,
    "bool": TensorProto.BOOL,
    "object": TensorProto.STRING,
}
TOLERANCE = 1e-5


def number(value):
    """A number as JSON can hold it; FP32 in its shortest form."""
    if isinstance(value, str):
        return value
    if isinstance(value, np.floating):
        return float(str(value)) if np.isfinite(value) else str(value)
    if isinstance(value, (np.bool_, bool)):
        return bool(value)
    return int(value)


def type_name(array):
    """NumPy's name of the element type; all strings are objects."""
    return "object" if array.dtype.kind in "UO" else array.dtype.name


def tensor(name, array):
    array = np.asarray(array)
    return {
        "name": name,
        "dtype": TYPES[type_name(array)],
        "shape": list(array.shape),
        "data": [number(value) for value in array.ravel()],
    }


def session(model):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    # What ONNX says, not what a fused kernel makes of it.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


class Writer:
    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        if self.folder.exists():
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True)
        self.names = set()
        self.families = {}

    def write(self, family, name, model, runs, tolerance=TOLERANCE, reference=None):
        """Runs the model (or the reference in its place) on each request and writes both files."""
        assert (family, name) not in self.names, (family, name)
        self.names.add((family, name))
        runtime = session(reference or model)
        written = []
        for position, request in enumerate(runs):
            inputs = {key: np.asarray(value) for key, value in request.items()}
            entry = {"inputs": [tensor(key, value) for key, value in inputs.items()]}
            try:
                answers = runtime.run(None, inputs)
            except Exception:  # onnxruntime has no narrower type for a request that fails
                # The first request is there to be answered; a failure would be a mistake made here.
                assert position > 0, (name, inputs)
                entry["fails"] = True
            else:
                names = [output.name for output in model.graph.output]
                entry["outputs"] = [tensor(key, value) for key, value in zip(names, answers)]
            written.append(entry)
        encoded = base64.b64encode(model.SerializeToString(deterministic=True)).decode()
        case = {"name": name, "tolerance": tolerance, "model": encoded, "runs": written}
        self.families.setdefault(family, []).append(json.dumps(case, separators=(",", ":")) + "\n")

    def finish(self):
        """Writes the files and gives their size."""
        for family, lines in self.families.items():
            (self.folder / f"{family}.jsonl").write_text("".join(lines))
        return sum(len(line) for lines in self.families.values() for line in lines)

    def op(
        self,
        name,
        operator,
        inputs,
        outputs=1,
        weights=None,
        opset=21,
        family=None,
        more=(),
        tolerance=TOLERANCE,
        domain="",
        order=None,
        **attributes,
    ):
        """One node. `inputs` are given per request, `weights` are stored in the file; `order` names all
        inputs of the node where some are left out. `more` are further requests."""
        weights = weights or {}
        order = order if order is not None else list(inputs) + list(weights)
        results = [f"y{index}" for index in range(outputs)] if outputs > 1 else ["y"]
        node = helper.make_node(operator, order, results, f"the_{operator}", domain=domain, **attributes)
        self.graph(
            name,
            [node],
            inputs,
            results,
            weights,
            opset=opset,
            family=family or operator.lower(),
            more=more,
            tolerance=tolerance,
            ml=3 if domain else None,
        )

    def graph(self, name, nodes, inputs, results, weights=None, opset=21, family="graph", more=(),
              tolerance=TOLERANCE, ml=None, keep=None):
        """Any graph. Dimensions are free; the types of outputs are those that ONNX Runtime gives."""
        infos = [
            helper.make_tensor_value_info(key, element(value), [None] * np.asarray(value).ndim)
            for key, value in inputs.items()
        ]
        stored = [numpy_helper.from_array(np.asarray(value), key) for key, value in (weights or {}).items()]
        untyped = [onnx.ValueInfoProto(name=result) for result in results]
        imports = [helper.make_opsetid("", opset)] + ([helper.make_opsetid("ai.onnx.ml", ml)] if ml else [])
        model = helper.make_model(
            helper.make_graph(nodes, name, infos, untyped, stored), opset_imports=imports, ir_version=8
        )
        runtime = session(model)
        types = {output.name: output.type for output in runtime.get_outputs()}
        answers = runtime.run(None, {key: np.asarray(value) for key, value in inputs.items()})
        ranks = {result: np.asarray(answer).ndim for result, answer in zip(results, answers)}
        declared = {
            "tensor(float)": TensorProto.FLOAT,
            "tensor(double)": TensorProto.DOUBLE,
            "tensor(int64)": TensorProto.INT64,
            "tensor(int32)": TensorProto.INT32,
            "tensor(int8)": TensorProto.INT8,
            "tensor(uint8)": TensorProto.UINT8,
            "tensor(bool)": TensorProto.BOOL,
            "tensor(string)": TensorProto.STRING,
        }
        del model.graph.output[:]
        for result in results:
            model.graph.output.append(
                helper.make_tensor_value_info(result, declared[types[result]], [None] * ranks[result])
            )
        self.write(family, name, model, [inputs, *more], tolerance)
        if keep:  # also as a file, for the crate's documentation
            (self.folder / keep).write_bytes(model.SerializeToString(deterministic=True))


def element(value):
    return ELEMENTS[type_name(np.asarray(value))]


def f32(*shape, seed=0, low=-3.0, high=3.0):
    """Numbers with few digits, so that the files stay small."""
    random = np.random.default_rng(seed)
    return np.round(random.uniform(low, high, shape), 2).astype(np.float32)


def i64(*values):
    return np.array(values, np.int64)


def write(folder):
    writer = Writer(folder)
    elementwise(writer)
    arithmetic(writer)
    comparisons(writer)
    shapes(writer)
    slices(writer)
    indices(writer)
    reductions(writer)
    matrices(writer)
    windows(writer)
    norms(writer)
    networks(writer)
    sklearn_cases.write(writer)
    size = writer.finish()
    print(f"{len(writer.names)} golden cases, {size} bytes")
    assert size < 1_500_000


SPECIAL = np.array([0.0, -0.0, 1.0, -1.0, 2.5, -2.5, 1e-3, 30.0, -30.0, 90.0, -90.0], np.float32)
UNARY = {
    "Relu": {}, "LeakyRelu": {"alpha": 0.1}, "Sigmoid": {}, "Tanh": {}, "Erf": {}, "Exp": {}, "Neg": {},
    "Abs": {}, "Floor": {}, "Ceil": {}, "Round": {}, "Sign": {}, "Elu": {"alpha": 1.5},
    "Selu": {}, "Celu": {"alpha": 1.5}, "HardSigmoid": {"alpha": 0.3, "beta": 0.4}, "HardSwish": {},
    "ThresholdedRelu": {"alpha": 0.5}, "Softplus": {}, "Softsign": {}, "Mish": {}, "Gelu": {}, "Sin": {},
    "Cos": {}, "Tan": {}, "Atan": {}, "Sinh": {}, "Cosh": {}, "Reciprocal": {}, "Sqrt": {}, "Log": {},
}


def elementwise(writer):
    for operator, attributes in UNARY.items():
        x = np.concatenate([SPECIAL, f32(13)])
        if operator in ("Sqrt", "Log"):
            x = np.abs(x)
        if operator in ("Sinh", "Cosh", "Tan", "Sin", "Cos"):
            x = f32(24)
        writer.op(operator.lower(), operator, {"x": x.reshape(-1, 2)[:12]}, family="elementwise", **attributes)
    writer.op("gelu_tanh", "Gelu", {"x": f32(8)}, family="elementwise", approximate="tanh")
    writer.op("asin", "Asin", {"x": f32(8, low=-1, high=1)}, family="elementwise")
    writer.op("acos", "Acos", {"x": f32(8, low=-1, high=1)}, family="elementwise")
    writer.op("abs_i64", "Abs", {"x": i64(-3, 0, 7, -(2**63))}, family="elementwise")
    writer.op("neg_i32", "Neg", {"x": np.array([-3, 0, 7], np.int32)}, family="elementwise")
    writer.op("relu_i32", "Relu", {"x": np.array([-3, 0, 7], np.int32)}, family="elementwise")
    writer.op("exp_f64", "Exp", {"x": f32(5).astype(np.float64)}, family="elementwise", tolerance=1e-12)
    writer.op("sigmoid_scalar", "Sigmoid", {"x": np.float32(0.3)}, family="elementwise")
    writer.op("tanh_empty", "Tanh", {"x": f32(0, 3)}, family="elementwise")
    writer.op("relu_nan", "Relu", {"x": np.array([np.nan, -np.inf, np.inf], np.float32)}, family="elementwise")
    writer.op("isnan", "IsNaN", {"x": np.array([np.nan, 1, np.inf], np.float32)}, family="elementwise")
    bounds = {"low": np.float32(-1), "high": np.float32(1.5)}
    writer.op("clip", "Clip", {"x": f32(3, 4)}, weights=bounds, family="elementwise")
    writer.op("clip_low", "Clip", {"x": f32(3, 4), "low": np.float32(0)}, family="elementwise")
    writer.op("clip_high", "Clip", {"x": f32(3, 4), "high": np.float32(0)}, order=["x", "", "high"],
              family="elementwise")
    writer.op("clip_6", "Clip", {"x": f32(3, 4)}, opset=6, min=-1.0, max=1.0, family="elementwise")
    writer.op("clip_i64", "Clip", {"x": i64(-9, 0, 9), "low": np.int64(-1), "high": np.int64(1)},
              family="elementwise")
    for kind in ("float64", "int64", "int32", "int8", "uint8", "bool"):
        source = f32(8, low=0, high=9) if kind == "uint8" else f32(8)
        writer.op(f"cast_f32_{kind}", "Cast", {"x": source}, to=ELEMENTS[kind], family="cast")
    writer.op("cast_i64_f32", "Cast", {"x": i64(-1, 0, 2**53 + 1)}, to=TensorProto.FLOAT, family="cast")
    writer.op("cast_i64_i32", "Cast", {"x": i64(-1, 0, 2**33 + 5)}, to=TensorProto.INT32, family="cast")
    writer.op("cast_bool_f32", "Cast", {"x": np.array([True, False])}, to=TensorProto.FLOAT, family="cast")
    writer.op("cast_text_f32", "Cast", {"x": np.array(["1.5", "-2", "3e2"], object)}, to=TensorProto.FLOAT,
              family="cast")
    writer.op("cast_i64_text", "Cast", {"x": i64(-1, 0, 77)}, to=TensorProto.STRING, family="cast")
    writer.op("castlike", "CastLike", {"x": f32(4), "like": i64(0)}, family="cast")


def arithmetic(writer):
    a, b = f32(2, 3, 4), f32(2, 3, 4, seed=1)
    for operator in ("Add", "Sub", "Mul", "Div"):
        for name, other in {
            "same": b, "row": b[0, 0], "column": b[:1, :, :1], "scalar": np.float32(2.5), "one": b[0, 0, :1],
            "wider": f32(2, 1, 3, 4, seed=2),
        }.items():
            writer.op(f"{operator.lower()}_{name}", operator, {"a": a, "b": other}, family="arithmetic")
        writer.op(f"{operator.lower()}_left_row", operator, {"a": b[0, 0], "b": a}, family="arithmetic")
        writer.op(f"{operator.lower()}_weights", operator, {"a": a}, weights={"b": b[0]}, family="arithmetic")
        ints = {"a": i64(7, -7, 9, 2**62), "b": i64(2, 2, -4, 3)}
        writer.op(f"{operator.lower()}_i64", operator, ints, family="arithmetic")
    writer.op("add_mismatch", "Add", {"a": f32(2, 3), "b": f32(2, 3)}, family="arithmetic",
              more=[{"a": f32(2, 3), "b": f32(2, 4)}])
    writer.op("add_twice", "Add", {"x": a}, order=["x", "x"], family="arithmetic")
    writer.op("add_f64", "Add", {"a": a.astype(np.float64), "b": b.astype(np.float64)}, family="arithmetic")
    writer.op("mul_i32", "Mul", {"a": np.array([3, -4], np.int32), "b": np.array([[5], [6]], np.int32)},
              family="arithmetic")
    writer.op("sub_empty", "Sub", {"a": f32(0, 3), "b": f32(3)}, family="arithmetic")
    for operator in ("Min", "Max", "Sum", "Mean"):
        many = {"a": a, "b": b, "c": f32(4, seed=3)}
        writer.op(f"{operator.lower()}_three", operator, many, family="arithmetic")
        writer.op(f"{operator.lower()}_one", operator, {"a": a[0]}, family="arithmetic")
    writer.op("max_nan", "Max", {"a": np.array([np.nan, 1, 2], np.float32), "b": np.array([1, np.nan, 3], np.float32)},
              family="arithmetic")
    writer.op("min_i64", "Min", {"a": i64(3, -1), "b": i64(2, 5)}, family="arithmetic")
    positive = np.abs(a) + 0.5
    writer.op("pow_square", "Pow", {"a": a}, weights={"b": np.float32(2)}, family="arithmetic")
    writer.op("pow_half", "Pow", {"a": positive}, weights={"b": np.float32(0.5)}, family="arithmetic")
    writer.op("pow_tensor", "Pow", {"a": positive, "b": b[0]}, family="arithmetic", tolerance=1e-4)
    writer.op("pow_i64_exponent", "Pow", {"a": a, "b": i64(3)}, family="arithmetic", tolerance=1e-4)
    writer.op("pow_i64", "Pow", {"a": i64(2, -3, 5), "b": i64(10, 3, 0)}, family="arithmetic")
    writer.op("mod_i64", "Mod", {"a": i64(7, -7, 7, -7), "b": i64(3, 3, -3, -3)}, family="arithmetic")
    writer.op("fmod_i64", "Mod", {"a": i64(7, -7, 7, -7), "b": i64(3, 3, -3, -3)}, fmod=1, family="arithmetic")
    writer.op("fmod_f32", "Mod", {"a": a, "b": positive[0]}, fmod=1, family="arithmetic", tolerance=1e-4)
    writer.op("prelu", "PRelu", {"a": a, "slope": f32(3, 1, seed=5)}, family="arithmetic")


def comparisons(writer):
    a, b = np.round(f32(3, 4)), np.round(f32(4, seed=1))
    for operator in ("Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual"):
        writer.op(operator.lower(), operator, {"a": a, "b": b}, family="compare")
        writer.op(operator.lower() + "_i64", operator, {"a": i64(1, 2, 3), "b": np.int64(2)}, family="compare")
    writer.op("equal_text", "Equal", {"a": np.array(["a", "b"], object), "b": np.array(["b"], object)},
              family="compare")
    writer.op("equal_bool", "Equal", {"a": np.array([True, False]), "b": np.array([True, True])}, family="compare")
    truth = {"a": np.array([[True], [False]]), "b": np.array([True, False])}
    for operator in ("And", "Or", "Xor"):
        writer.op(operator.lower(), operator, truth, family="compare")
    writer.op("not", "Not", {"a": truth["a"]}, family="compare")
    writer.op("where", "Where", {"c": np.array([[True], [False]]), "a": f32(1, 3), "b": f32(2, 3, seed=1)},
              family="compare")
    writer.op("where_i64", "Where", {"c": np.array([True, False]), "a": i64(1, 2), "b": np.int64(9)},
              family="compare")
    writer.op("where_text", "Where",
              {"c": np.array([True, False]), "a": np.array(["a", "b"], object), "b": np.array(["c"], object)},
              family="compare")


def shapes(writer):
    x = f32(2, 3, 4)
    for name, shape in {"flat": [-1], "keep": [0, -1], "split": [2, 3, 2, 2], "zero_keep": [0, 0, 4, 1]}.items():
        writer.op(f"reshape_{name}", "Reshape", {"x": x}, weights={"s": i64(*shape)}, family="shape")
    writer.op("reshape_runtime", "Reshape", {"x": x, "s": i64(4, 6)}, family="shape",
              more=[{"x": x, "s": i64(5, 5)}, {"x": x, "s": i64(-1, -1)}, {"x": x, "s": i64(-1, 12)}])
    writer.op("reshape_empty", "Reshape", {"x": f32(0, 4)}, weights={"s": i64(-1, 2, 2)}, family="shape")
    writer.op("reshape_allowzero", "Reshape", {"x": f32(0, 4)}, weights={"s": i64(4, 0)}, allowzero=1, family="shape")
    for axis in (0, 1, 2, 3, -1):
        writer.op(f"flatten_{axis}".replace("-", "m"), "Flatten", {"x": x}, axis=axis, family="shape")
    writer.op("transpose", "Transpose", {"x": x}, family="shape")
    writer.op("transpose_perm", "Transpose", {"x": x}, perm=[1, 0, 2], family="shape")
    writer.op("transpose_text", "Transpose", {"x": np.array([["a", "b"], ["c", "d"]], object)}, family="shape")
    thin = f32(1, 3, 1, 2)
    writer.op("squeeze_all", "Squeeze", {"x": thin}, family="shape")
    writer.op("squeeze_axes", "Squeeze", {"x": thin}, weights={"a": i64(-2)}, family="shape",
              more=[{"x": f32(1, 3, 2, 2)}])
    writer.op("squeeze_11", "Squeeze", {"x": thin}, opset=11, axes=[0], family="shape")
    writer.op("unsqueeze", "Unsqueeze", {"x": x}, weights={"a": i64(0, -1)}, family="shape")
    writer.op("unsqueeze_11", "Unsqueeze", {"x": x}, opset=11, axes=[1, 3], family="shape")
    writer.op("expand", "Expand", {"x": f32(3, 1), "s": i64(2, 1, 4)}, family="shape",
              more=[{"x": f32(3, 1), "s": i64(3, 4)}, {"x": f32(3, 1), "s": i64(2, 4)}])
    writer.op("expand_text", "Expand", {"x": np.array(["a", "b"], object)}, weights={"s": i64(2, 2)}, family="shape")
    writer.op("tile", "Tile", {"x": f32(2, 3)}, weights={"r": i64(2, 3)}, family="shape")
    writer.op("tile_i64", "Tile", {"x": i64(1, 2), "r": i64(3)}, family="shape")
    writer.op("shape", "Shape", {"x": x}, family="shape")
    writer.op("shape_part", "Shape", {"x": x}, start=-2, end=3, family="shape")
    writer.op("size", "Size", {"x": x}, family="shape")
    writer.op("identity", "Identity", {"x": x}, family="shape")
    writer.op("dropout", "Dropout", {"x": x}, family="shape")
    writer.op("dropout_mask", "Dropout", {"x": x}, outputs=2, family="shape")
    writer.op("dropout_7", "Dropout", {"x": x}, opset=7, ratio=0.3, family="shape")
    value = numpy_helper.from_array(np.array([7], np.int64), "value")
    writer.op("constantofshape", "ConstantOfShape", {"s": i64(2, 3)}, value=value, family="shape",
              more=[{"s": i64(0)}, {"s": i64(-1)}])
    writer.op("constantofshape_default", "ConstantOfShape", {"s": i64(2)}, family="shape")
    bounds = {"a": np.int64(1), "b": np.int64(10), "c": np.int64(3)}
    writer.op("range_i64", "Range", bounds, family="shape",
              more=[bounds | {"c": np.int64(-1)}, {"a": np.int64(5), "b": np.int64(0), "c": np.int64(-2)}])
    writer.op("range_f32", "Range", {"a": np.float32(0), "b": np.float32(1), "c": np.float32(0.3)}, family="shape")
    constant = helper.make_node("Constant", [], ["c"], "c", value_floats=[1.0, 2.0, 3.0, 4.0])
    add = helper.make_node("Add", ["x", "c"], ["y"], "add")
    writer.graph("constant", [constant, add], {"x": x}, ["y"], family="shape")


def slices(writer):
    x = f32(4, 5, 6)
    cases = {
        "plain": ([1], [3], [0], [1]), "step": ([0, 1], [4, 5], [0, 2], [2, 3]), "back": ([-1], [-7], [2], [-1]),
        "negative": ([-3], [-1], [1], [1]), "beyond": ([2], [2**40], [1], [1]), "empty": ([3], [1], [0], [1]),
        "back_all": ([10], [-(2**40)], [0], [-2]),
    }
    for name, (starts, ends, axes, steps) in cases.items():
        weights = {"s": i64(*starts), "e": i64(*ends), "a": i64(*axes), "t": i64(*steps)}
        writer.op(f"slice_{name}", "Slice", {"x": x}, weights=weights, family="slice")
    writer.op("slice_no_axes", "Slice", {"x": x, "s": i64(1, 1), "e": i64(2, 4)}, family="slice")
    writer.op("slice_9", "Slice", {"x": x}, opset=9, starts=[0, -2], ends=[2, 99], axes=[0, 1], family="slice")
    writer.op("slice_text", "Slice", {"x": np.array(["a", "b", "c"], object)},
              weights={"s": i64(2), "e": i64(-9), "a": i64(0), "t": i64(-1)}, family="slice")
    writer.op("split_equal", "Split", {"x": x}, outputs=2, axis=0, num_outputs=2, family="slice")
    writer.op("split_rest", "Split", {"x": x}, outputs=2, axis=1, num_outputs=2, family="slice")
    writer.op("split_sizes", "Split", {"x": x}, outputs=3, weights={"s": i64(1, 0, 5)}, axis=-1, family="slice")
    writer.op("split_11", "Split", {"x": x}, outputs=2, opset=11, axis=1, split=[2, 3], family="slice")
    writer.op("split_2", "Split", {"x": x}, outputs=2, opset=2, axis=0, family="slice")
    for axis in (0, 1, -1):
        parts = {"a": f32(2, 3, 2), "b": f32(2, 3, 2, seed=1), "c": f32(2, 3, 2, seed=2)}
        writer.op(f"concat_{axis}".replace("-", "m"), "Concat", parts, axis=axis, family="slice")
    writer.op("concat_empty", "Concat", {"a": f32(0, 2), "b": f32(3, 2)}, axis=0, family="slice",
              more=[{"a": f32(1, 3), "b": f32(3, 2)}])
    writer.op("concat_text", "Concat", {"a": np.array(["a"], object), "b": np.array(["b", "c"], object)}, axis=0,
              family="slice")
    writer.op("pad", "Pad", {"x": f32(2, 3)}, weights={"p": i64(1, 0, 0, 2), "v": np.float32(9)}, family="slice")
    writer.op("pad_negative", "Pad", {"x": f32(3, 4)}, weights={"p": i64(-1, 1, 1, -2)}, family="slice")
    writer.op("pad_axes", "Pad", {"x": f32(2, 3, 2), "p": i64(1, 2)}, weights={"v": np.float32(1), "a": i64(1)},
              family="slice")
    writer.op("pad_2", "Pad", {"x": f32(2, 3)}, opset=2, pads=[0, 1, 1, 0], value=5.0, family="slice")
    writer.op("pad_i64", "Pad", {"x": i64(1, 2)}, weights={"p": i64(1, 1), "v": np.int64(7)}, family="slice")


def indices(writer):
    x = f32(4, 5)
    out = [{"x": x, "i": i64(0, 5)}, {"x": x, "i": i64(-6)}, {"x": x, "i": i64(-1)}]
    writer.op("gather_rows", "Gather", {"x": x, "i": np.array([[0, 3], [-1, 1]], np.int64)}, family="index",
              more=[{"x": x, "i": np.array([[9, 3], [-1, 1]], np.int64)}])
    writer.op("gather_columns", "Gather", {"x": x, "i": i64(4, 0)}, axis=1, family="index", more=out)
    writer.op("gather_scalar", "Gather", {"x": x}, weights={"i": np.int64(2)}, family="index")
    writer.op("gather_i32", "Gather", {"x": x, "i": np.array([1], np.int32)}, axis=-1, family="index")
    writer.op("gather_text", "Gather", {"x": np.array(["a", "b", "c"], object), "i": i64(2, 2)}, family="index")
    writer.op("gather_empty", "Gather", {"x": x, "i": np.zeros([0], np.int64)}, family="index")
    some = np.array([[0, 1, 2], [3, -1, 0]], np.int64)
    writer.op("gatherelements", "GatherElements", {"x": x, "i": some}, axis=0, family="index",
              more=[{"x": x, "i": some + 1}])
    writer.op("gatherelements_1", "GatherElements", {"x": x, "i": some}, axis=1, family="index")
    writer.op("gathernd", "GatherND", {"x": x, "i": np.array([[0, 1], [3, -1]], np.int64)}, family="index",
              more=[{"x": x, "i": np.array([[0, 1], [3, 5]], np.int64)}])
    writer.op("gathernd_rows", "GatherND", {"x": x, "i": np.array([[2], [0]], np.int64)}, family="index")
    updates = f32(2, 3, seed=4)
    writer.op("scatterelements", "ScatterElements", {"x": x, "i": some, "u": updates}, axis=0, family="index",
              more=[{"x": x, "i": some + 1, "u": updates}])
    writer.op("scatterelements_add", "ScatterElements", {"x": x, "i": some, "u": updates}, axis=1, reduction="add",
              family="index")
    writer.op("onehot", "OneHot", {"i": i64(0, 2, -1, 5)},
              weights={"d": np.int64(3), "v": np.array([0, 1], np.float32)}, family="index")
    writer.op("onehot_axis", "OneHot", {"i": np.array([[0, 2]], np.int64)},
              weights={"d": np.int64(3), "v": np.array([5, 6], np.int64)}, axis=1, family="index")
    writer.op("topk", "TopK", {"x": x, "k": i64(2)}, outputs=2, family="index", more=[{"x": x, "k": i64(6)}])
    writer.op("topk_smallest", "TopK", {"x": x}, weights={"k": i64(3)}, outputs=2, axis=0, largest=0, family="index")
    writer.op("topk_ties", "TopK", {"x": np.array([[1, 2, 2, 1]], np.float32), "k": i64(3)}, outputs=2, family="index")
    writer.op("topk_1", "TopK", {"x": x}, outputs=2, opset=1, k=2, family="index")
    far = {"x": x, "c": i64(1, 3)}
    writer.op("arrayfeatureextractor", "ArrayFeatureExtractor", far, domain="ai.onnx.ml", family="index",
              more=[{"x": x, "c": i64(5)}])
    writer.op("arrayfeatureextractor_vector", "ArrayFeatureExtractor", {"x": i64(7, 8, 9), "c": i64(2, 0)},
              domain="ai.onnx.ml", family="index")


def reductions(writer):
    x = f32(2, 3, 4)
    kinds = ("Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "SumSquare", "LogSum", "LogSumExp")
    for kind in kinds:
        operator = f"Reduce{kind}"
        source = np.abs(x) + 0.1 if kind == "LogSum" else x
        name = operator.lower()
        for label, axes in {"last": [-1], "first": [0], "middle": [1], "two": [0, 2]}.items():
            writer.op(f"{name}_{label}", operator, {"x": source}, weights={"a": i64(*axes)}, keepdims=label != "first",
                      family="reduce")
        writer.op(f"{name}_all", operator, {"x": source}, family="reduce")
        writer.op(f"{name}_11", operator, {"x": source}, opset=11, axes=[1], keepdims=0, family="reduce")
    writer.op("reducesum_i64", "ReduceSum", {"x": i64(1, 2, 3)}, keepdims=0, family="reduce")
    writer.op("reducemax_i32", "ReduceMax", {"x": np.array([[1, 5], [4, 2]], np.int32)}, weights={"a": i64(0)},
              family="reduce")
    writer.op("reducesum_noop", "ReduceSum", {"x": x}, noop_with_empty_axes=1, family="reduce")
    writer.op("reducesum_wide", "ReduceSum", {"x": f32(2, 1000)}, weights={"a": i64(1)}, family="reduce")
    writer.op("reducemean_f64", "ReduceMean", {"x": x.astype(np.float64)}, family="reduce", tolerance=1e-12)
    ties = np.array([[1, 3, 3], [2, 0, 0]], np.float32)
    for operator in ("ArgMax", "ArgMin"):
        for axis in (0, 1, -1):
            writer.op(f"{operator.lower()}_{axis}".replace("-", "m"), operator, {"x": ties}, axis=axis, family="reduce")
        writer.op(f"{operator.lower()}_last", operator, {"x": ties}, axis=1, select_last_index=1, keepdims=0,
                  family="reduce")


def matrices(writer):
    writer.op("matmul", "MatMul", {"a": f32(3, 4), "b": f32(4, 5, seed=1)}, family="matmul",
              more=[{"a": f32(3, 4), "b": f32(5, 4)}, {"a": f32(0, 4), "b": f32(4, 5)}])
    writer.op("matmul_weights", "MatMul", {"a": f32(1, 64)}, weights={"b": f32(64, 10, seed=1)}, family="matmul",
              tolerance=1e-4)
    writer.op("matmul_stack", "MatMul", {"a": f32(2, 1, 3, 4), "b": f32(5, 4, 2, seed=1)}, family="matmul")
    writer.op("matmul_rows", "MatMul", {"a": f32(2, 3, 4)}, weights={"b": f32(4, 5, seed=1)}, family="matmul")
    writer.op("matmul_left_matrix", "MatMul", {"a": f32(3, 4), "b": f32(2, 4, 5, seed=1)}, family="matmul")
    writer.op("matmul_vectors", "MatMul", {"a": f32(4), "b": f32(4, seed=1)}, family="matmul")
    writer.op("matmul_left_vector", "MatMul", {"a": f32(4), "b": f32(2, 4, 3, seed=1)}, family="matmul")
    writer.op("matmul_right_vector", "MatMul", {"a": f32(2, 3, 4), "b": f32(4, seed=1)}, family="matmul")
    writer.op("matmul_f64", "MatMul", {"a": f32(3, 4).astype(np.float64), "b": f32(4, 2).astype(np.float64)},
              family="matmul", tolerance=1e-12)
    writer.op("matmul_i32", "MatMul", {"a": np.arange(6, dtype=np.int32).reshape(2, 3),
                                       "b": np.arange(12, dtype=np.int32).reshape(3, 4)}, family="matmul")
    writer.op("matmul_wide", "MatMul", {"a": f32(2, 70), "b": f32(70, 33, seed=1)}, family="matmul", tolerance=1e-4)
    writer.op("gemm", "Gemm", {"a": f32(3, 4)}, weights={"b": f32(4, 5, seed=1), "c": f32(5, seed=2)}, family="matmul")
    writer.op("gemm_trans", "Gemm", {"a": f32(4, 3)}, weights={"b": f32(5, 4, seed=1), "c": f32(3, 1, seed=2)},
              transA=1, transB=1, alpha=0.5, beta=2.0, family="matmul")
    writer.op("gemm_no_bias", "Gemm", {"a": f32(3, 4), "b": f32(4, 5, seed=1)}, family="matmul")
    writer.op("gemm_scalar_bias", "Gemm", {"a": f32(3, 4), "b": f32(4, 5, seed=1), "c": np.float32(1.5)},
              family="matmul", more=[{"a": f32(3, 4), "b": f32(3, 5), "c": np.float32(1.5)}])


def windows(writer):
    image, kernel = f32(2, 4, 7, 8), f32(6, 4, 3, 3, seed=1)
    bias = f32(6, seed=2)
    for name, attributes in {
        "plain": {}, "pads": {"pads": [1, 1, 1, 1]}, "uneven": {"pads": [0, 1, 2, 0]}, "strides": {"strides": [2, 3]},
        "dilations": {"dilations": [2, 2], "pads": [2, 2, 2, 2]}, "same_upper": {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
        "same_lower": {"auto_pad": "SAME_LOWER", "strides": [2, 2]}, "valid": {"auto_pad": "VALID"},
    }.items():
        writer.op(f"conv_{name}", "Conv", {"x": image}, weights={"w": kernel, "b": bias}, family="window",
                  tolerance=1e-4, **attributes)
    writer.op("conv_groups", "Conv", {"x": image}, weights={"w": f32(4, 2, 3, 3, seed=1)}, group=2, family="window",
              tolerance=1e-4, more=[{"x": f32(1, 3, 7, 8)}, {"x": f32(1, 4, 2, 2)}])
    writer.op("conv_depthwise", "Conv", {"x": image}, weights={"w": f32(4, 1, 3, 3, seed=1)}, group=4, pads=[1, 1, 1, 1],
              family="window", tolerance=1e-4)
    writer.op("conv_1x1", "Conv", {"x": image}, weights={"w": f32(5, 4, 1, 1, seed=1)}, family="window", tolerance=1e-4)
    writer.op("conv_1d", "Conv", {"x": f32(2, 3, 9)}, weights={"w": f32(4, 3, 3, seed=1), "b": f32(4, seed=2)},
              pads=[1, 0], strides=[2], family="window", tolerance=1e-4)
    pools = {
        "plain": {}, "strides": {"strides": [2, 2]}, "pads": {"pads": [1, 1, 1, 1], "strides": [2, 2]},
        "uneven": {"pads": [0, 1, 1, 0]}, "ceil": {"strides": [2, 2], "ceil_mode": 1},
        "ceil_pads": {"strides": [3, 3], "ceil_mode": 1, "pads": [1, 1, 1, 1]},
        "same": {"auto_pad": "SAME_UPPER", "strides": [2, 2]}, "dilations": {"dilations": [2, 2]},
    }
    for name, attributes in pools.items():
        writer.op(f"maxpool_{name}", "MaxPool", {"x": image}, kernel_shape=[3, 2], family="window", **attributes)
        writer.op(f"averagepool_{name}", "AveragePool", {"x": image}, kernel_shape=[3, 2], family="window", **attributes)
        writer.op(f"averagepool_{name}_all", "AveragePool", {"x": image}, kernel_shape=[3, 2], count_include_pad=1,
                  family="window", **attributes)
    writer.op("maxpool_1d", "MaxPool", {"x": f32(2, 3, 9)}, kernel_shape=[2], strides=[2], family="window")
    writer.op("averagepool_1d", "AveragePool", {"x": f32(2, 3, 9)}, kernel_shape=[3], pads=[1, 1], family="window")
    writer.op("globalaveragepool", "GlobalAveragePool", {"x": image}, family="window")
    writer.op("globalmaxpool", "GlobalMaxPool", {"x": image}, family="window")


def norms(writer):
    x = f32(2, 3, 4)
    for operator in ("Softmax", "LogSoftmax"):
        for axis in (0, 1, -1):
            writer.op(f"{operator.lower()}_{axis}".replace("-", "m"), operator, {"x": x}, axis=axis, family="norm")
        writer.op(f"{operator.lower()}_11", operator, {"x": x}, opset=11, axis=1, family="norm")
        writer.op(f"{operator.lower()}_large", operator, {"x": x * 300}, family="norm")
    writer.op("softmax_f64", "Softmax", {"x": x.astype(np.float64)}, family="norm", tolerance=1e-12)
    vectors = {"s": f32(3, seed=1), "b": f32(3, seed=2), "m": f32(3, seed=3), "v": np.abs(f32(3, seed=4)) + 0.1}
    writer.op("batchnorm", "BatchNormalization", {"x": f32(2, 3, 4, 5)}, weights=vectors, family="norm",
              more=[{"x": f32(2, 4, 4, 5)}])
    writer.op("batchnorm_rows", "BatchNormalization", {"x": f32(5, 3)}, weights=vectors, epsilon=0.01, family="norm")
    writer.op("batchnorm_runtime", "BatchNormalization", {"x": f32(2, 3, 4)} | vectors, family="norm")
    writer.op("batchnorm_9", "BatchNormalization", {"x": f32(2, 3, 4)}, weights=vectors, opset=9, family="norm")
    writer.op("layernorm", "LayerNormalization", {"x": x}, weights={"s": f32(4, seed=1), "b": f32(4, seed=2)},
              family="norm")
    writer.op("layernorm_axis", "LayerNormalization", {"x": x}, weights={"s": f32(3, 4, seed=1)}, axis=1, epsilon=0.1,
              family="norm")
    writer.op("lpnorm_1", "LpNormalization", {"x": x}, p=1, axis=1, family="norm")
    writer.op("lpnorm_2", "LpNormalization", {"x": x}, family="norm")
    rows = np.array([[1, -2, 3], [0, 0, 0], [4, 5, -6]], np.float32)
    for norm in ("MAX", "L1", "L2"):
        writer.op(f"normalizer_{norm.lower()}", "Normalizer", {"x": rows}, norm=norm, domain="ai.onnx.ml", family="norm")
    writer.op("scaler", "Scaler", {"x": rows}, offset=[1.0, 2.0, 3.0], scale=[2.0, 1.0, 0.5], domain="ai.onnx.ml",
              family="norm")
    writer.op("scaler_one", "Scaler", {"x": i64(1, 2, 3).reshape(1, 3)}, offset=[1.0], scale=[2.0],
              domain="ai.onnx.ml", family="norm")
    missing = np.array([[np.nan, 1], [2, np.nan]], np.float32)
    writer.op("imputer", "Imputer", {"x": missing}, imputed_value_floats=[5.0, 6.0], replaced_value_float=float("nan"),
              domain="ai.onnx.ml", family="norm")
    writer.op("imputer_i64", "Imputer", {"x": i64(1, -1).reshape(1, 2)}, imputed_value_int64s=[9],
              replaced_value_int64=-1, domain="ai.onnx.ml", family="norm")
    writer.op("binarizer", "Binarizer", {"x": rows}, threshold=1.0, domain="ai.onnx.ml", family="norm")
    writer.op("onehotencoder", "OneHotEncoder", {"x": i64(3, 1, 9).reshape(3, 1)}, cats_int64s=[1, 2, 3],
              domain="ai.onnx.ml", family="norm")
    writer.op("onehotencoder_text", "OneHotEncoder", {"x": np.array(["b", "z"], object)}, cats_strings=["a", "b"],
              domain="ai.onnx.ml", family="norm")
    writer.op("labelencoder_text_i64", "LabelEncoder", {"x": np.array(["b", "z"], object)}, keys_strings=["a", "b"],
              values_int64s=[4, 5], default_int64=-7, domain="ai.onnx.ml", family="norm")
    writer.op("labelencoder_i64_text", "LabelEncoder", {"x": i64(2, 5)}, keys_int64s=[1, 2],
              values_strings=["one", "two"], domain="ai.onnx.ml", family="norm")
    writer.op("labelencoder_f32_f32", "LabelEncoder", {"x": np.array([1.5, np.nan, 2], np.float32)},
              keys_floats=[1.5, float("nan")], values_floats=[10.0, 20.0], default_float=-1.0, domain="ai.onnx.ml",
              family="norm")
    writer.op("linearregressor", "LinearRegressor", {"x": rows}, coefficients=[1.0, 2.0, 3.0, -1.0, -2.0, -3.0],
              intercepts=[0.5, -0.5], targets=2, domain="ai.onnx.ml", family="norm")
    for post in ("NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO"):
        writer.op(f"linearclassifier_{post.lower()}", "LinearClassifier", {"x": rows}, outputs=2,
                  coefficients=[0.1, 0.2, 0.3, -0.1, -0.2, -0.3, 0.0, 0.1, 0.0], intercepts=[0.5, -0.5, 0.0],
                  classlabels_ints=[3, 5, 9], post_transform=post, domain="ai.onnx.ml", family="norm")
        writer.op(f"linearclassifier_binary_{post.lower()}", "LinearClassifier", {"x": rows}, outputs=2,
                  coefficients=[0.1, 0.2, 0.3, -0.1, -0.2, -0.3], intercepts=[0.5, -0.5], classlabels_strings=["no", "yes"],
                  post_transform=post, domain="ai.onnx.ml", family="norm")


def networks(writer):
    """Whole networks with random weights: a perceptron and a small CNN, batch free."""
    weights = {"w1": f32(64, 64) / 8, "b1": f32(64, seed=1), "w2": f32(10, 64, seed=2) / 8, "b2": f32(10, seed=3)}
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"], "hidden"),
        helper.make_node("Relu", ["h"], ["r"], "relu"),
        helper.make_node("Gemm", ["r", "w2", "b2"], ["logits"], "output", transB=1),
        helper.make_node("Softmax", ["logits"], ["probabilities"], "softmax", axis=1),
        helper.make_node("ArgMax", ["probabilities"], ["label"], "label", axis=1, keepdims=0),
    ]
    writer.graph("mlp", nodes, {"x": f32(1, 64, seed=9)}, ["label", "probabilities"], weights, family="network",
                 tolerance=1e-4, more=[{"x": f32(5, 64, seed=8)}], keep="perceptron.onnx")
    random = {
        "c1": f32(8, 1, 3, 3) / 3, "d1": f32(8, seed=1), "s": f32(8, seed=2), "o": f32(8, seed=3), "m": f32(8, seed=4),
        "v": np.abs(f32(8, seed=5)) + 0.5, "c2": f32(16, 8, 3, 3, seed=6) / 9, "w": f32(10, 16, seed=7), "b": f32(10, seed=8),
        "shape": i64(-1, 1, 8, 8),
    }
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["image"], "image"),
        helper.make_node("Conv", ["image", "c1", "d1"], ["a"], "conv1", pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["a", "s", "o", "m", "v"], ["n"], "norm"),
        helper.make_node("Relu", ["n"], ["r"], "relu1"),
        helper.make_node("MaxPool", ["r"], ["p"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["p", "c2"], ["q"], "conv2", pads=[1, 1, 1, 1]),
        helper.make_node("Clip", ["q", "", "six"], ["k"], "relu6"),
        helper.make_node("GlobalAveragePool", ["k"], ["g"], "mean"),
        helper.make_node("Flatten", ["g"], ["f"], "flat"),
        helper.make_node("Dropout", ["f"], ["e"], "dropout"),
        helper.make_node("Gemm", ["e", "w", "b"], ["y"], "output", transB=1),
    ]
    writer.graph("cnn", nodes, {"x": f32(2, 64, seed=9)}, ["y"], random | {"six": np.float32(6)}, family="network",
                 tolerance=1e-4, more=[{"x": f32(1, 64)}, {"x": f32(1, 63)}])
    # A mask made of the shape of the input, as exporters of transformers write it.
    nodes = [
        helper.make_node("Shape", ["x"], ["s"], "shape"),
        helper.make_node("Gather", ["s", "one"], ["n"], "length"),
        helper.make_node("Range", ["zero", "n", "step"], ["r"], "positions"),
        helper.make_node("Unsqueeze", ["r", "axis"], ["row"], "row"),
        helper.make_node("Less", ["row", "limit"], ["mask"], "mask"),
        helper.make_node("Where", ["mask", "x", "low"], ["kept"], "keep"),
        helper.make_node("Softmax", ["kept"], ["y"], "softmax"),
    ]
    writer.graph(
        "mask", nodes, {"x": f32(3, 5), "limit": i64(1, 3, 9).reshape(3, 1)}, ["y"],
        {"one": np.int64(1), "zero": np.int64(0), "step": np.int64(1), "axis": i64(0), "low": np.float32(-1e9)},
        family="network",
    )
