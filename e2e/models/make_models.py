#!/usr/bin/env python3
"""Writes the demo's models, and the golden cases and models of the tests of crates/graph.

    python3 -m venv target/models-venv
    target/models-venv/bin/pip install -r e2e/models/requirements.txt
    target/models-venv/bin/python e2e/models/make_models.py

The files are committed, so nobody needs Python to build or test Stoker. The seeds are fixed: with the
pinned packages, two runs on one machine write the same bytes.

The demo reads scikit-learn's handwritten digits (8x8 pixels of 0 to 16):
  digits-v1.onnx  the version in production: logistic regression on few images
  digits-v2.onnx  a better one: a multi-layer perceptron on all training images
  digits-v3.onnx  a harmful one: the answers of v2, but its graph fails on about 30 % of the images
  digits-v4.onnx  a slow one: the answers of v2, tens of milliseconds of needless work per image
All take `input` FP32 [batch, 64] and give `label` INT64 [batch] and `probabilities` FP32 [batch, 10].
"""

import json
import pathlib

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

import command_models
import golden_cases

HERE = pathlib.Path(__file__).resolve().parent
FIXTURES = HERE / "fixtures"
GOLDEN = HERE.parent.parent / "crates" / "graph" / "tests" / "fixtures"
OPSET = {"": 21, "ai.onnx.ml": 3}

# v3 fails for images whose ink is above this quantile of the training images.
HEALTHY_SHARE = 0.66
# v4 takes the arc tangent of a square matrix of this size so many times for every image. A function that is computed number by number
# takes about as long on every processor; products of matrices take a fraction of it where vectors are wide.
WASTE_SIZE = 1024
WASTE_STEPS = 2


def digits():
    """The images as float32 and their labels: train and test."""
    images, labels = load_digits(return_X_y=True)
    return train_test_split(
        images.astype(np.float32), labels, test_size=450, random_state=7, stratify=labels
    )


def export(pipeline):
    """A classifier as ONNX, with plain tensors for outputs."""
    model = to_onnx(
        pipeline,
        initial_types=[("input", FloatTensorType([None, 64]))],
        options={"zipmap": False},
        target_opset=OPSET,
    )
    return renamed_outputs(model)


def renamed_outputs(model):
    """Outputs `label` INT64 [batch] and `probabilities` FP32 [batch, 10], whatever the exporter wrote,
    and every domain imported once (the exporter repeats some)."""
    versions = {opset.domain: opset.version for opset in model.opset_import}
    del model.opset_import[:]
    model.opset_import.extend(helper.make_opsetid(*item) for item in sorted(versions.items()))
    names = [output.name for output in model.graph.output]
    assert names == ["label", "probabilities"], names
    del model.graph.output[:]
    model.graph.output.extend(
        [
            helper.make_tensor_value_info("label", TensorProto.INT64, ["batch"]),
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 10]),
        ]
    )
    del model.graph.input[:]
    model.graph.input.append(helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 64]))
    return model


def constant(name, array):
    return numpy_helper.from_array(np.asarray(array), name)


def with_prefix(model, graph_name, nodes, initializers):
    """A copy of the model in which `nodes` compute `checked_input`, which the rest reads instead of `input`."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.name = graph_name
    for node in copy.graph.node:
        for position, name in enumerate(node.input):
            if name == "input":
                node.input[position] = "checked_input"
    rest = list(copy.graph.node)
    del copy.graph.node[:]
    copy.graph.node.extend(nodes + rest)
    copy.graph.initializer.extend(initializers)
    return copy


def harmful(model, train):
    """The model behind a look-up of a gain by the amount of ink. The table was fitted on light images
    only: a darker image reads past its end. All gains are 1, so that the other answers are those of v2."""
    ink = train.sum(axis=1)
    step = 4.0
    rows = int(np.floor(np.quantile(ink, HEALTHY_SHARE) / step)) + 1
    nodes = [
        helper.make_node("ReduceSum", ["input", "ink_axes"], ["ink"], "ink", keepdims=1),
        helper.make_node("Div", ["ink", "ink_step"], ["ink_in_steps"], "ink_in_steps"),
        helper.make_node("Floor", ["ink_in_steps"], ["gain_row_float"], "gain_row_float"),
        helper.make_node("Cast", ["gain_row_float"], ["gain_row"], "gain_row", to=TensorProto.INT64),
        helper.make_node("Gather", ["gain_table", "gain_row"], ["gain"], "gain_lookup", axis=0),
        helper.make_node("Mul", ["input", "gain"], ["checked_input"], "apply_gain"),
    ]
    initializers = [
        constant("ink_axes", np.array([1], np.int64)),
        constant("ink_step", np.float32(step)),
        constant("gain_table", np.ones(rows, np.float32)),
    ]
    return with_prefix(model, "digits-v3", nodes, initializers)


def slow(model):
    """The model behind a chain of functions of a large matrix whose result is multiplied by zero. The matrix
    is built from the image, so that no loader can compute it once."""
    size = np.float32(WASTE_SIZE)
    nodes = [
        helper.make_node("ReduceMean", ["input", "row_axes"], ["row_mean"], "row_mean", keepdims=1),
        helper.make_node("Mul", ["row_mean", "zero"], ["row_zero"], "row_zero"),
        helper.make_node("Add", ["row_zero", "one_over_size"], ["row_cell"], "row_cell"),
        helper.make_node("Unsqueeze", ["row_cell", "cell_axis"], ["cell"], "cell"),
        helper.make_node("Expand", ["cell", "waste_shape"], ["waste_0"], "build_matrix"),
    ]
    for step in range(WASTE_STEPS):
        nodes.append(
            helper.make_node("Atan", [f"waste_{step}"], [f"waste_{step + 1}"], f"waste_{step + 1}")
        )
    nodes += [
        helper.make_node(
            "ReduceMean", [f"waste_{WASTE_STEPS}", "waste_axes"], ["waste_mean"], "waste_mean", keepdims=0
        ),
        helper.make_node("Mul", ["waste_mean", "zero"], ["waste_nothing"], "waste_nothing"),
        helper.make_node("Unsqueeze", ["waste_nothing", "row_axes"], ["waste_column"], "waste_column"),
        helper.make_node("Add", ["input", "waste_column"], ["checked_input"], "add_nothing"),
    ]
    initializers = [
        constant("row_axes", np.array([1], np.int64)),
        constant("cell_axis", np.array([2], np.int64)),
        constant("waste_axes", np.array([1, 2], np.int64)),
        constant("waste_shape", np.array([1, WASTE_SIZE, WASTE_SIZE], np.int64)),
        constant("zero", np.float32(0)),
        constant("one_over_size", np.float32(1) / size),
    ]
    return with_prefix(model, "digits-v4", nodes, initializers)


def session(model):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def measure(model, images, labels):
    """Share of all images answered rightly, and share that fails, one image per request."""
    runtime = session(model)
    right = failed = 0
    for image, label in zip(images, labels):
        try:
            answer = runtime.run(["label"], {"input": image[None]})[0]
            right += int(answer[0] == label)
        except Exception:  # onnxruntime has no narrower type for an index out of range
            failed += 1
    return {"accuracy": round(right / len(labels), 4), "failing": round(failed / len(labels), 4)}


def write_demo_models():
    train_images, test_images, train_labels, test_labels = digits()
    few = 200
    v1 = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    v1.fit(train_images[:few], train_labels[:few])
    v2 = make_pipeline(
        StandardScaler(), MLPClassifier(hidden_layer_sizes=(128, 64), random_state=3, max_iter=400)
    )
    v2.fit(train_images, train_labels)
    good = export(v1)
    good.graph.name = "digits-v1"
    better = export(v2)
    better.graph.name = "digits-v2"
    models = {
        "digits-v1": good,
        "digits-v2": better,
        "digits-v3": harmful(better, train_images),
        "digits-v4": slow(better),
    }
    FIXTURES.mkdir(parents=True, exist_ok=True)
    summary = {}
    for name, model in models.items():
        onnx.checker.check_model(model, full_check=True)
        encoded = model.SerializeToString(deterministic=True)
        assert len(encoded) < 1 << 20, (name, len(encoded))
        (FIXTURES / f"{name}.onnx").write_bytes(encoded)
        summary[name] = {"bytes": len(encoded)} | measure(model, test_images, test_labels)
        print(name, summary[name])
    rows = ",\n".join(
        json.dumps([int(pixel) for pixel in image], separators=(",", ":")) for image in test_images
    )
    labels = json.dumps([int(label) for label in test_labels], separators=(",", ":"))
    models_text = json.dumps(summary, indent=1, sort_keys=True)
    (FIXTURES / "digits-test.json").write_text(
        f'{{"labels":{labels},\n"models":{models_text},\n"images":[\n{rows}\n]}}\n'
    )


def main():
    # More threads sum in another order, and the weights would differ in the last bits.
    with threadpool_limits(limits=1):
        write_demo_models()
        golden_cases.write(GOLDEN)
    command_models.write(GOLDEN)


if __name__ == "__main__":
    main()
