"""Compares predictors that `stoker-graph run` executes with the libraries that trained them.

    python -m venv venv && venv/bin/pip install -r e2e/conformance/requirements-predictors.txt
    venv/bin/python e2e/conformance/predictors.py --graph target/release/stoker-graph [PATTERN]

Each model is trained on a data set that scikit-learn brings along, exported to ONNX, and run on rows
that it was not trained on. Labels must be equal; scores may differ by 1e-5 of their size, or by 1e-5
where they are smaller than 1.

Exporters write numbers as FP32, so that a row whose feature lies at a threshold, or whose scores nearly
tie, can come out otherwise in any runtime. ONNX Runtime runs the same file: where it differs from the
library too, and stoker-graph agrees with it, the export differs, and the line says so.

One line for each model, and at the end `N predictors, N differ`. The exit status is 1 when one differs.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import warnings

import lightgbm
import numpy as np
import onnx
import onnxruntime
import skl2onnx.common._container
import sklearn.datasets as data
import xgboost
from lightgbm import LGBMClassifier, LGBMRanker, LGBMRegressor
from onnx import numpy_helper
from onnxmltools.convert.lightgbm.operator_converters.LightGbm import convert_lightgbm
from onnxmltools.convert.xgboost.operator_converters.XGBoost import convert_xgboost
from skl2onnx import to_onnx, update_registered_converter
from skl2onnx.common.data_types import FloatTensorType, StringTensorType
from skl2onnx.common.shape_calculator import (
    calculate_linear_classifier_output_shapes,
    calculate_linear_regressor_output_shapes,
)
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.ensemble import (
    AdaBoostClassifier,
    AdaBoostRegressor,
    BaggingClassifier,
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    IsolationForest,
    RandomForestClassifier,
    RandomForestRegressor,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF
from sklearn.impute import SimpleImputer
from sklearn.linear_model import (
    ElasticNet,
    Lasso,
    LinearRegression,
    LogisticRegression,
    Ridge,
    SGDClassifier,
    SGDRegressor,
)
from sklearn.naive_bayes import BernoulliNB, GaussianNB, MultinomialNB
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    MaxAbsScaler,
    MinMaxScaler,
    Normalizer,
    OneHotEncoder,
    OrdinalEncoder,
    PolynomialFeatures,
    RobustScaler,
    StandardScaler,
)
from sklearn.svm import SVC, SVR, LinearSVC, LinearSVR, NuSVC, NuSVR, OneClassSVM
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

TOLERANCE = 1e-5
OPSET = {"": 18, "ai.onnx.ml": 3}

for made, name, shapes, convert, options in [
    (LGBMClassifier, "LGBMClassifier", calculate_linear_classifier_output_shapes, convert_lightgbm, True),
    (LGBMRegressor, "LGBMRegressor", calculate_linear_regressor_output_shapes, convert_lightgbm, False),
    (LGBMRanker, "LGBMRanker", calculate_linear_regressor_output_shapes, convert_lightgbm, False),
    (xgboost.XGBClassifier, "XGBClassifier", calculate_linear_classifier_output_shapes, convert_xgboost, True),
    (xgboost.XGBRegressor, "XGBRegressor", calculate_linear_regressor_output_shapes, convert_xgboost, False),
    (xgboost.XGBRanker, "XGBRanker", calculate_linear_regressor_output_shapes, convert_xgboost, False),
]:
    update_registered_converter(
        made,
        name,
        shapes,
        convert,
        options={"nocl": [True, False], "zipmap": [True, False, "columns"]} if options else {},
    )


def halves(bunch, scale=True):
    """Rows to train on and rows to ask about, as FP32: what the file takes."""
    x, y = bunch.data.astype(np.float32), bunch.target
    if scale:
        x = StandardScaler().fit_transform(x).astype(np.float32)
    order = np.random.RandomState(7).permutation(len(x))
    half = len(x) * 2 // 3
    return x[order[:half]], y[order[:half]], x[order[half:]]


def named(sets):
    """The labels as text."""
    x, y, asked = sets
    return x, np.array([f"class {label}" for label in y]), asked


def with_holes(sets):
    """Some features are missing."""
    x, y, asked = sets
    holes = np.random.RandomState(3)
    x, asked = x.copy(), asked.copy()
    x[holes.rand(*x.shape) < 0.1] = np.nan
    asked[holes.rand(*asked.shape) < 0.1] = np.nan
    return x, y, asked


IRIS, WINE = halves(data.load_iris()), halves(data.load_wine())
CANCER, DIGITS = halves(data.load_breast_cancer()), halves(data.load_digits(), scale=False)
DIABETES = halves(data.load_diabetes())
COUNTS = tuple(np.abs(part) if part.ndim == 2 else part for part in DIGITS)

REVIEWS = [
    "The train was late and the coffee was cold",
    "A lovely journey, friendly staff and good coffee",
    "Cold seats, rude staff, never again",
    "On time, clean and quiet: a good journey",
    "The window was broken and nobody cared",
    "Quiet coach, clean window, lovely view",
    "Late again, and again no seats",
    "Good coffee, good view, good people",
] * 6
MOODS = np.array([0, 1, 0, 1, 0, 1, 0, 1] * 6)
ASKED_REVIEWS = REVIEWS[:8] + ["Good staff but a cold coach", "late late late", "unseen words only", ""]


def classifiers():
    """(name, model, data). Labels and, where the model has them, probabilities are compared."""
    for sets, data_name in [(IRIS, "iris"), (CANCER, "cancer"), (named(WINE), "wine, text labels")]:
        yield f"LogisticRegression, {data_name}", LogisticRegression(max_iter=500), sets
        yield f"SGDClassifier log_loss, {data_name}", SGDClassifier(loss="log_loss", random_state=0), sets
        yield f"SGDClassifier hinge, {data_name}", SGDClassifier(random_state=0), sets
        yield f"LinearSVC, {data_name}", LinearSVC(random_state=0), sets
        for kernel in ["rbf", "poly", "linear", "sigmoid"]:
            yield f"SVC {kernel}, {data_name}", SVC(kernel=kernel), sets
        yield f"NuSVC, {data_name}", NuSVC(nu=0.2), sets
        yield f"DecisionTreeClassifier, {data_name}", DecisionTreeClassifier(random_state=0), sets
        yield f"RandomForestClassifier, {data_name}", RandomForestClassifier(30, random_state=0), sets
        yield f"ExtraTreesClassifier, {data_name}", ExtraTreesClassifier(30, random_state=0), sets
        yield (
            f"GradientBoostingClassifier, {data_name}",
            GradientBoostingClassifier(n_estimators=20, random_state=0),
            sets,
        )
        yield (
            f"HistGradientBoostingClassifier, {data_name}",
            HistGradientBoostingClassifier(max_iter=20, random_state=0),
            sets,
        )
        yield f"AdaBoostClassifier, {data_name}", AdaBoostClassifier(n_estimators=10, random_state=0), sets
        yield f"BaggingClassifier, {data_name}", BaggingClassifier(random_state=0), sets
        yield f"KNeighborsClassifier, {data_name}", KNeighborsClassifier(), sets
        yield f"GaussianNB, {data_name}", GaussianNB(), sets
        yield f"BernoulliNB, {data_name}", BernoulliNB(), sets
        yield f"MLPClassifier, {data_name}", MLPClassifier((16,), max_iter=200, random_state=0), sets
        yield (
            f"VotingClassifier, {data_name}",
            VotingClassifier(
                [("a", LogisticRegression(max_iter=500)), ("b", GaussianNB())],
                voting="soft",
                flatten_transform=False,
            ),
            sets,
        )
    for sets, data_name in [(IRIS, "iris"), (CANCER, "cancer"), (WINE, "wine")]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for kernel in ["rbf", "poly", "linear"]:
                yield (
                    f"SVC {kernel} with probabilities, {data_name}",
                    SVC(kernel=kernel, probability=True, random_state=0),
                    sets,
                )
            yield f"NuSVC with probabilities, {data_name}", NuSVC(nu=0.2, probability=True, random_state=0), sets
        yield (
            f"XGBClassifier, {data_name}",
            xgboost.XGBClassifier(n_estimators=20, max_depth=4),
            sets,
        )
        yield f"LGBMClassifier, {data_name}", LGBMClassifier(n_estimators=20, verbose=-1), sets
    yield "MultinomialNB, digits", MultinomialNB(), COUNTS
    yield "LogisticRegression, digits", make_pipeline(MinMaxScaler(), LogisticRegression(max_iter=500)), DIGITS
    yield "RandomForestClassifier, digits", RandomForestClassifier(20, random_state=0), DIGITS
    yield "SVC rbf, digits", make_pipeline(MinMaxScaler(), SVC()), DIGITS
    yield "XGBClassifier, digits", xgboost.XGBClassifier(n_estimators=10, max_depth=4), DIGITS
    yield "LGBMClassifier, digits", LGBMClassifier(n_estimators=10, verbose=-1), DIGITS
    yield "KNeighborsClassifier, digits", KNeighborsClassifier(3), DIGITS
    holed = with_holes(WINE)
    yield "SimpleImputer and LogisticRegression, wine", make_pipeline(SimpleImputer(), LogisticRegression()), holed
    yield "HistGradientBoostingClassifier with holes, wine", HistGradientBoostingClassifier(max_iter=10), holed
    yield "XGBClassifier with holes, wine", xgboost.XGBClassifier(n_estimators=10), holed
    yield "LGBMClassifier with holes, wine", LGBMClassifier(n_estimators=10, verbose=-1), holed
    for scaler in [MaxAbsScaler(), RobustScaler(), Normalizer(), Normalizer("l1"), PolynomialFeatures(2)]:
        name = f"{scaler} and LogisticRegression, iris"
        yield name, make_pipeline(scaler, LogisticRegression(max_iter=1000)), IRIS
    yield "PCA and LogisticRegression, digits", make_pipeline(PCA(16), LogisticRegression(max_iter=1000)), DIGITS
    yield (
        "StackingClassifier, iris",
        StackingClassifier([("a", GaussianNB()), ("b", DecisionTreeClassifier(max_depth=3, random_state=0))]),
        IRIS,
    )


def regressors():
    """(name, model, data). Predictions are compared."""
    for model in [
        LinearRegression(),
        Ridge(),
        Lasso(),
        ElasticNet(),
        SGDRegressor(random_state=0),
        SVR(C=100),
        SVR(kernel="poly", C=100),
        SVR(kernel="linear", C=100),
        NuSVR(C=100),
        LinearSVR(random_state=0, max_iter=10000),
        DecisionTreeRegressor(random_state=0),
        RandomForestRegressor(20, random_state=0),
        ExtraTreesRegressor(20, random_state=0),
        GradientBoostingRegressor(n_estimators=20, random_state=0),
        HistGradientBoostingRegressor(max_iter=20, random_state=0),
        AdaBoostRegressor(n_estimators=10, random_state=0),
        KNeighborsRegressor(),
        MLPRegressor(hidden_layer_sizes=(16,), max_iter=500, random_state=0),
        GaussianProcessRegressor(RBF(3.0), alpha=1.0, normalize_y=True),
        xgboost.XGBRegressor(n_estimators=20, max_depth=4),
        LGBMRegressor(n_estimators=20, verbose=-1),
    ]:
        kernel = f" {model.kernel}" if isinstance(model, SVR) else ""
        yield f"{type(model).__name__}{kernel}, diabetes", model, DIABETES
    two = (DIABETES[0], np.stack([DIABETES[1], DIABETES[1][::-1]], axis=1), DIABETES[2])
    for model in [LinearRegression(), RandomForestRegressor(10, random_state=0), KNeighborsRegressor()]:
        yield f"{type(model).__name__} of two targets, diabetes", model, two


class Result:
    """What a run gives: outputs in the order of the file."""

    def __init__(self, outputs, error=""):
        self.outputs, self.error = outputs, error


def run_graph(graph, model, inputs):
    """The outputs of `stoker-graph run`, or its error."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.onnx")
        onnx.save(model, path)
        paths = []
        for index, info in enumerate(model.graph.input):
            paths.append(os.path.join(folder, f"input_{index}.pb"))
            with open(paths[-1], "wb") as file:
                file.write(numpy_helper.from_array(inputs[info.name], info.name).SerializeToString())
        call = [graph, "run", path, *paths, "--out", folder]
        done = subprocess.run(call, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode:
            return Result(None, done.stderr.strip().replace("\n", " "))
        outputs = []
        for index, _ in enumerate(model.graph.output):
            with open(os.path.join(folder, f"output_{index}.pb"), "rb") as file:
                tensor = onnx.TensorProto()
                tensor.ParseFromString(file.read())
                outputs.append(numpy_helper.to_array(tensor))
        return Result(outputs)


def run_reference(model, inputs):
    """The outputs of ONNX Runtime, or its error."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        return Result(session.run(None, inputs))
    except Exception as error:  # whatever it does not like
        return Result(None, str(error).split("\n", maxsplit=1)[0])


def text(array):
    """Strings as `str`, whatever carries them."""
    return [item.decode() if isinstance(item, bytes) else str(item) for item in np.ravel(array).tolist()]


def differences(found, wanted):
    """How many elements differ, and by how much at most; `None` for another size."""
    found, wanted = np.asarray(found), np.asarray(wanted)
    if found.size != wanted.size:
        return None
    if wanted.dtype.kind in "OUS":
        return sum(a != b for a, b in zip(text(found), text(wanted))), 0.0
    found, wanted = (np.ravel(part).astype(np.float64) for part in (found, wanted))
    if found.size == 0:
        return 0, 0.0
    apart = np.abs(found - wanted) / np.maximum(1.0, np.abs(wanted))
    return int((~(apart <= TOLERANCE)).sum()), float(np.nanmax(apart))


def verdict(result, wanted):
    """(passes, words) for outputs and what the library says."""
    if result.outputs is None:
        return False, f"does not run: {result.error}"
    worst, count = 0.0, 0
    for found, want in zip(result.outputs, wanted):
        compared = differences(found, want)
        if compared is None:
            return False, f"shapes {np.shape(found)} and {np.shape(want)}"
        count, worst = count + compared[0], max(worst, compared[1])
    if count:
        return False, f"{count} differ, by {worst:.1e} at most"
    return True, f"{worst:.1e}"


def exported(name, model, asked, options=None, inputs=None):
    """The file of a model, and its inputs by name."""
    if inputs is None:
        onx = to_onnx(model, asked[:1], options=options, target_opset=OPSET)
        return onx, {onx.graph.input[0].name: asked}
    onx = to_onnx(model, initial_types=inputs[0], options=options, target_opset=OPSET)
    return onx, inputs[1]


def whole(value):
    """Truth values as the numbers that a list of the file takes."""
    if isinstance(value, list) and any(isinstance(item, (bool, np.bool_)) for item in value):
        return [int(item) for item in value]
    return value


def make_node(operator, *arguments, **attributes):
    """What the exporter of histogram boosting gives is refused by this version of onnx otherwise."""
    return onnx.helper.make_node(operator, *arguments, **{name: whole(of) for name, of in attributes.items()})


skl2onnx.common._container.make_node = make_node


def flatten(model):
    """Base values as the exporter expects them: one list of numbers that Python knows."""
    model._baseline_prediction = np.ravel(model._baseline_prediction).astype(np.float64)


def cases(wanted):
    """(name, make): `make` trains, exports, and gives (file, inputs, what the library says)."""

    def classifier(model, sets):
        x, y, asked = sets
        model.fit(x, y)
        final = model.steps[-1][1] if hasattr(model, "steps") else model
        options = {id(model): {} if isinstance(model, LinearSVC) else {"zipmap": False}}
        if isinstance(model, HistGradientBoostingClassifier):
            flatten(model)
        if hasattr(model, "predict_proba"):
            scores = model.predict_proba(asked)
        else:
            scores = model.decision_function(asked)
            if not isinstance(final, (SVC, NuSVC)):
                options[id(model)]["raw_scores"] = True
            if scores.ndim == 1:
                # The exporter of SVC has the score of the first class where the library has the second's.
                sign = -1 if isinstance(final, (SVC, NuSVC)) else 1
                scores = sign * np.stack([-scores, scores], axis=1)
        onx, inputs = exported("", model, asked, options)
        return onx, inputs, [model.predict(asked), scores]

    def regressor(model, sets):
        x, y, asked = sets
        model.fit(x, y)
        if isinstance(model, HistGradientBoostingRegressor):
            flatten(model)
        onx, inputs = exported("", model, asked)
        return onx, inputs, [model.predict(asked)]

    for name, model, sets in classifiers():
        if wanted(name):
            yield name, lambda model=model, sets=sets: classifier(model, sets)
    for name, model, sets in regressors():
        if wanted(name):
            yield name, lambda model=model, sets=sets: regressor(model, sets)
    for name, make in OTHERS.items():
        if wanted(name):
            yield name, make


def one_class():
    x, _, asked = CANCER
    model = OneClassSVM(nu=0.2).fit(x)
    onx, inputs = exported("", model, asked)
    return onx, inputs, [model.predict(asked), model.decision_function(asked)]


def isolation():
    x, _, asked = CANCER
    model = IsolationForest(n_estimators=20, random_state=0).fit(x)
    onx = to_onnx(model, asked[:1], target_opset=OPSET)
    return onx, {onx.graph.input[0].name: asked}, [model.predict(asked), model.decision_function(asked)]


def k_means():
    x, _, asked = IRIS
    model = KMeans(3, n_init=3, random_state=0).fit(x)
    onx, inputs = exported("", model, asked)
    return onx, inputs, [model.predict(asked), model.transform(asked)]


def pca():
    x, _, asked = DIGITS
    model = PCA(8).fit(x)
    onx, inputs = exported("", model, asked)
    return onx, inputs, [model.transform(asked)]


def ranker(model):
    def make():
        x, y, asked = IRIS
        model.fit(x, y, group=[len(x)])
        onx, inputs = exported("", model, asked)
        return onx, inputs, [model.predict(asked)]

    return make


def columns(encoder, final, numbers=True):
    """Text and numbers with holes side by side, as a table of a business has them."""

    def make():
        dice = np.random.RandomState(1)
        colour = dice.choice(["red", "green", "blue"], 120)
        size = dice.choice(["S", "M", "L", "XL"], 120)
        width = dice.randn(120, 2).astype(np.float32)
        width[dice.rand(120, 2) < 0.1] = np.nan
        y = (colour == "red").astype(int) + (size == "XL") + (np.nan_to_num(width[:, 0]) > 0)
        table = {"colour": colour, "size": size, "a": width[:, 0], "b": width[:, 1]}
        import pandas

        frame = pandas.DataFrame(table)
        number = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
        parts = [("text", encoder, ["colour", "size"])]
        if numbers:
            parts.append(("number", number, ["a", "b"]))
        model = make_pipeline(ColumnTransformer(parts), final).fit(frame[:80], y[:80])
        asked = frame[80:]
        types, given = [], {}
        for name in table:
            if not numbers and name in "ab":
                continue
            words = name in ("colour", "size")
            types.append((name, StringTensorType([None, 1]) if words else FloatTensorType([None, 1])))
            column = asked[[name]].to_numpy()
            given[name] = column.astype(object if words else np.float32)
        onx, inputs = exported("", model, None, {id(model): {"zipmap": False}}, (types, given))
        return onx, inputs, [model.predict(asked), model.predict_proba(asked)]

    return make


def reviews(vectorizer, final):
    def make():
        model = make_pipeline(vectorizer, final).fit(REVIEWS, MOODS)
        given = {"text": np.array(ASKED_REVIEWS, dtype=object).reshape(-1, 1)}
        options = {id(final): {"zipmap": False}}
        onx, inputs = exported("", model, None, options, ([("text", StringTensorType([None, 1]))], given))
        return onx, inputs, [model.predict(ASKED_REVIEWS), model.predict_proba(ASKED_REVIEWS)]

    return make


def vectorizer(model):
    def make():
        model.fit(REVIEWS)
        given = {"text": np.array(ASKED_REVIEWS, dtype=object).reshape(-1, 1)}
        onx, inputs = exported("", model, None, None, ([("text", StringTensorType([None, 1]))], given))
        return onx, inputs, [model.transform(ASKED_REVIEWS).toarray()]

    return make


OTHERS = {
    "OneClassSVM, cancer": one_class,
    "IsolationForest, cancer": isolation,
    "KMeans, iris": k_means,
    "PCA, digits": pca,
    "XGBRanker, iris": ranker(xgboost.XGBRanker(n_estimators=10)),
    "LGBMRanker, iris": ranker(LGBMRanker(n_estimators=10, verbose=-1)),
    "OneHotEncoder of text, numbers with holes, LogisticRegression": columns(
        OneHotEncoder(handle_unknown="ignore", sparse_output=False), LogisticRegression()
    ),
    "OrdinalEncoder of text, numbers with holes, RandomForestClassifier": columns(
        OrdinalEncoder(), RandomForestClassifier(10, random_state=0)
    ),
    "OneHotEncoder of text, GradientBoostingClassifier": columns(
        OneHotEncoder(sparse_output=False), GradientBoostingClassifier(n_estimators=5), numbers=False
    ),
    "TfidfVectorizer": vectorizer(TfidfVectorizer(token_pattern="[a-zA-Z]+")),
    "TfidfVectorizer of one and two words": vectorizer(
        TfidfVectorizer(ngram_range=(1, 2), token_pattern="[a-zA-Z]+")
    ),
    "CountVectorizer": vectorizer(CountVectorizer(token_pattern="[a-zA-Z]+")),
    "TfidfVectorizer and LogisticRegression": reviews(
        TfidfVectorizer(token_pattern="[a-zA-Z]+"), LogisticRegression()
    ),
    "TfidfVectorizer and MultinomialNB": reviews(TfidfVectorizer(token_pattern="[a-zA-Z]+"), MultinomialNB()),
}


def compare(graph, make):
    """(passes, words) of one model."""
    try:
        model, inputs, wanted = make()
    except Exception as error:  # whatever the exporter does not like
        return False, f"NOT EXPORTED: {str(error).splitlines()[0][:120]}"
    ours = run_graph(graph, model, inputs)
    passes, words = verdict(ours, wanted)
    if passes:
        return True, f"equal ({words})"
    reference = run_reference(model, inputs)
    theirs, their_words = verdict(reference, wanted)
    if ours.outputs is not None and reference.outputs is not None and not theirs:
        agrees, _ = verdict(ours, reference.outputs)
        if agrees:
            return True, f"as the export ({words} from the library, in ONNX Runtime too)"
    state = "equal" if theirs else their_words
    return False, f"DIFFERS: {words}; ONNX Runtime: {state}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--graph", default="target/release/stoker-graph", help="the command stoker-graph")
    parser.add_argument("pattern", nargs="?", default=".", help="only models whose name it matches")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    pattern = re.compile(arguments.pattern)
    count = differ = 0
    for name, make in cases(pattern.search):
        passes, words = compare(arguments.graph, make)
        print(f"{name}: {words}", flush=True)
        count += 1
        differ += not passes
    print(f"{count} predictors, {differ} differ")
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
