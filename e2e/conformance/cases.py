"""The ONNX project's conformance cases as files, so that any runtime reads the same bytes.

The cases of single nodes are made by the functions of the package `onnx`; those of whole models lie in it as files. The
large models of `light` have no stored inputs: they get those that the project's own runner makes.
"""

import json
import pathlib
import shutil
import warnings

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from onnx.backend.test.loader import DATA_DIR, load_model_tests
from onnx.backend.test.runner import Runner

# How many cases each suite has with the pinned package. Others mean that some were lost on the way here.
SUITES = {"node": 1884, "pytorch-converted": 82, "pytorch-operator": 35, "simple": 23, "light": 9}
# Each run of these gives another result: the project publishes no answer that two implementations could share.
RANDOM = {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}


def collect(folder):
    """Writes what is not a file yet below a folder, and gives all cases as dictionaries:
    suite, name, model, sets of inputs and outputs (paths), rtol, atol, random, operators."""
    cases = [node_case(case, folder / "node" / case.name) for case in load_model_tests(kind="node")]
    for suite in ("pytorch-converted", "pytorch-operator", "simple"):
        cases += [stored_case(suite, case) for case in load_model_tests(kind=suite)]
    cases += [light_case(case, folder / "light" / case.name) for case in load_model_tests(kind="real")]
    return sorted(cases, key=lambda case: (list(SUITES).index(case["suite"]), case["name"]))


def node_case(case, folder):
    """A case that the package makes in memory."""
    folder.mkdir(parents=True)
    onnx.save(case.model, folder / "model.onnx")
    sets = []
    for number, (inputs, outputs) in enumerate(case.data_sets):
        written = {}
        for kind, values in (("input", inputs), ("output", outputs)):
            declared = getattr(case.model.graph, kind)
            written[f"{kind}s"] = []
            for position, (value, info) in enumerate(zip(values, declared, strict=True)):
                path = folder / f"{kind}_{number}_{position}.pb"
                path.write_bytes(message(value, info).SerializeToString())
                written[f"{kind}s"].append(str(path))
        sets.append(written)
    return described("node", case, folder / "model.onnx", case.model, sets)


def message(value, info):
    """A value as the message that its declared kind has."""
    if info.type.HasField("sequence_type"):
        return numpy_helper.from_list(value, info.name)
    if info.type.HasField("optional_type"):
        return numpy_helper.from_optional(value, info.name)
    if isinstance(value, TensorProto):
        return value
    return numpy_helper.from_array(np.asarray(value), info.name)


def stored_case(suite, case):
    """A case that lies in the package."""
    folder = pathlib.Path(case.model_dir)
    sets = []
    for stored in sorted(folder.glob("test_data_set_*")):
        by_position = {}
        for kind in ("input", "output"):
            count = len(list(stored.glob(f"{kind}_*.pb")))
            by_position[f"{kind}s"] = [str(stored / f"{kind}_{position}.pb") for position in range(count)]
        sets.append(by_position)
    return described(suite, case, folder / "model.onnx", onnx.load(folder / "model.onnx"), sets)


def light_case(case, folder):
    """A large model whose weights are made by its own nodes. Its answer lies beside it in the package, and belongs to the
    input that the project's runner makes."""
    folder.mkdir(parents=True)
    path = pathlib.Path(DATA_DIR).parents[3] / case.url
    model = onnx.load(path)
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = []
    for info in model.graph.input:
        if info.name not in weights:
            inputs.append(folder / f"input_{len(inputs)}.pb")
            tensor = numpy_helper.from_array(Runner.generate_dummy_data(info, name=case.model_name), info.name)
            inputs[-1].write_bytes(tensor.SerializeToString())
    outputs = [path.with_name(f"{path.stem}_output_{position}.pb") for position in range(len(model.graph.output))]
    sets = [{"inputs": list(map(str, inputs)), "outputs": list(map(str, outputs))}]
    return described("light", case, path, model, sets)


def described(suite, case, path, model, sets):
    uses = list(nodes(model))
    return {
        "suite": suite,
        "name": case.name,
        "model": str(path),
        "sets": sets,
        "rtol": case.rtol,
        "atol": case.atol,
        "random": any(is_random(node, model, sets) for node in uses),
        "operators": sorted({(node.domain or "ai.onnx", node.op_type) for node in uses}),
    }


def nodes(model):
    """All nodes of a model: those of graphs inside of nodes and of functions too."""
    waiting = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    while waiting:
        node = waiting.pop()
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                waiting.extend(graph.node)


def is_random(node, model, sets):
    """Whether a node draws random numbers. Dropout does in training, unless it drops nothing."""
    if node.op_type in RANDOM:
        return True
    if node.op_type != "Dropout" or len(node.input) < 3:
        return False
    names = [info.name for info in model.graph.input]

    def differs(position, nothing):
        name = node.input[position]
        if name not in names:
            return True
        paths = (given["inputs"][names.index(name)] for given in sets)
        return any(numpy_helper.to_array(onnx.load_tensor(path)) != nothing for path in paths)

    return differs(1, 0) and differs(2, False)


def cached(folder, pins):
    """The cases, collected again when the pinned packages or the rules here change."""
    rules = pins + pathlib.Path(__file__).read_text()
    index, marker = folder / "index.json", folder / "rules.txt"
    if not (marker.exists() and marker.read_text() == rules):
        print("writing the cases", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        with warnings.catch_warnings():
            # Some cases are made of infinities and zeros on purpose.
            warnings.simplefilter("ignore")
            index.write_text(json.dumps(collect(folder)))
        marker.write_text(rules)
    return json.loads(index.read_text())
