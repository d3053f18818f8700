"""The models of `make bench-kernels`: names, and how each file is made. Weights are from a seed, and mean nothing.

The encoder, the networks for images and the LSTM are those whose answers `make onnx-networks` compares. A file is made once,
and again when a script that makes it changes.
"""

import hashlib
import pathlib
import shutil
import sys

import numpy as np
import onnx
import onnxmltools
import xgboost
from onnxmltools.convert.common.data_types import FloatTensorType

from harness import FIXTURES, OUT, ROOT

CONFORMANCE = ROOT / "e2e" / "conformance"
sys.path.append(str(CONFORMANCE))
import networks

FOLDER = OUT / "kernels"
TREES, DEPTH, FEATURES, EXAMPLES = 500, 6, 32, 20_000


def perceptron(*widths):
    """Linear layers with Relu between them."""
    network = networks.Network(5)
    x = "x"
    for at, (inputs, outputs) in enumerate(zip(widths, widths[1:])):
        x = network.head(x if at == 0 else network.node("Relu", x), inputs, outputs)
    shapes = [["batch", widths[0]], ["batch", widths[-1]]]
    number = onnx.TensorProto.FLOAT
    return network.model("mlp", {"x": (number, shapes[0])}, {"y": (x, number, shapes[1])})


def boosted_trees():
    """A regressor of 500 trees, six splits deep, on features of which most have something to say."""
    random = np.random.default_rng(6)
    x = random.standard_normal((EXAMPLES, FEATURES), np.float32)
    target = np.sin(x[:, :16] * 2).sum(1) + x[:, 16] * x[:, 17] + np.abs(x[:, 18:24]).sum(1) + random.standard_normal(EXAMPLES)
    model = xgboost.XGBRegressor(n_estimators=TREES, max_depth=DEPTH, learning_rate=0.1, random_state=0, n_jobs=2)
    model.fit(x, target)
    return onnxmltools.convert_xgboost(model, initial_types=[("x", FloatTensorType([None, FEATURES]))], target_opset=15)


BUILT = {
    "mlp-1024-4096-1024": lambda: perceptron(1024, 4096, 1024),
    "resnet18": networks.resnet,
    "mobilenetv2": networks.mobilenet,
    "encoder-6x384": networks.encoder,
    "xgboost-500": boosted_trees,
    "lstm-2x256": networks.lstm,
}
NAMES = ("mlp-digits", *BUILT)


def made_by():
    """What tells whether a file is as these scripts make it."""
    sources = [pathlib.Path(__file__), pathlib.Path(networks.__file__), CONFORMANCE / "requirements-predictors.txt"]
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()


def path(name):
    """The file of a model."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    file, marker = FOLDER / f"{name}.onnx", FOLDER / f"{name}.made-by"
    if name == "mlp-digits":
        # The demo's model: trained, and in the repository.
        shutil.copyfile(FIXTURES / "digits-v2.onnx", file)
    elif not (file.exists() and marker.exists() and marker.read_text() == made_by()):
        onnx.save(BUILT[name](), file)
        marker.write_text(made_by())
    return file


def inputs(name, batch):
    """The inputs of a model for a batch, as files in the order of the graph."""
    weights = {"load_external_data": False}
    given = []
    for info in onnx.load(path(name), **weights).graph.input:
        file = FOLDER / f"{name}.b{batch}.{info.name}.npy"
        np.save(file, networks.example(info, batch))
        given.append(file)
    return given


def difference(outputs, others):
    """The largest difference of the outputs in two folders: by size, or as it is where an element is smaller than 1."""
    count = len(list(others.glob("output_*.npy")))
    both = [[np.load(folder / f"output_{at}.npy") for at in range(count)] for folder in (outputs, others)]
    return networks.difference(*both)
