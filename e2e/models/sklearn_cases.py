"""Golden cases from scikit-learn, exported as its users export: with skl2onnx."""

import warnings

import numpy as np
import onnx
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType, Int64TensorType, StringTensorType
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_diabetes, load_iris
from sklearn.decomposition import PCA
from sklearn.ensemble import (
    AdaBoostClassifier,
    BaggingClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    IsolationForest,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge, SGDClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    MinMaxScaler,
    Normalizer,
    OneHotEncoder,
    OrdinalEncoder,
    PolynomialFeatures,
    StandardScaler,
)
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

OPSET = {"": 21, "ai.onnx.ml": 3}
FAMILY = "sklearn"


def exported(model, types, **options):
    exported = to_onnx(model, initial_types=types, target_opset=OPSET, options=options or None)
    # The exporter repeats some imports and names the graph by chance.
    versions = {opset.domain: opset.version for opset in exported.opset_import}
    del exported.opset_import[:]
    exported.opset_import.extend(onnx.helper.make_opsetid(*item) for item in sorted(versions.items()))
    exported.graph.name = "sklearn"
    return exported


def write(writer):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        classifiers(writer)
        regressors(writer)
        transformers(writer)


def iris():
    features, labels = load_iris(return_X_y=True)
    return features.astype(np.float32), labels


def classifiers(writer):
    features, labels = iris()
    types = [("x", FloatTensorType([None, 4]))]
    rows = features[::11]
    names = np.array(["setosa", "versicolor", "virginica"])[labels]
    two = (labels > 0).astype(int)
    models = {
        "logistic": (make_pipeline(StandardScaler(), LogisticRegression()), labels),
        "logistic_binary": (LogisticRegression(), two),
        "logistic_names": (LogisticRegression(), names),
        "sgd": (SGDClassifier(loss="log_loss", random_state=0), labels),
        "linear_svc": (LinearSVC(random_state=0), labels),
        "tree": (DecisionTreeClassifier(max_depth=4, random_state=0), labels),
        "tree_binary": (DecisionTreeClassifier(max_depth=3, random_state=0), two),
        "forest": (RandomForestClassifier(7, max_depth=4, random_state=0), labels),
        "forest_names": (RandomForestClassifier(3, max_depth=3, random_state=0), names),
        "forest_binary": (RandomForestClassifier(5, max_depth=3, random_state=0), two),
        "boosting": (GradientBoostingClassifier(n_estimators=6, random_state=0), labels),
        "boosting_binary": (GradientBoostingClassifier(n_estimators=6, random_state=0), (labels > 1).astype(int)),
        "perceptron": (MLPClassifier((12,), max_iter=150, random_state=0), labels),
        "perceptron_binary": (MLPClassifier((8,), max_iter=150, random_state=0), two),
        "bayes": (GaussianNB(), labels),
        "ada": (AdaBoostClassifier(n_estimators=3, random_state=0), labels),
        "bagging": (BaggingClassifier(DecisionTreeClassifier(max_depth=2), 3, random_state=0), labels),
    }
    for name, (model, target) in models.items():
        options = {} if name == "linear_svc" else {"zipmap": False}
        plain = exported(fitted(model, features, target), types, **options)
        writer.write(FAMILY, name, plain, [{"x": rows}, {"x": rows[:1]}])
    # The default of the exporter: a list of maps for output. The table behind it is the reference.
    for name in ("logistic", "logistic_names"):
        model, target = models[name]
        fit = fitted(model, features, target)
        mapped = exported(fit, types)
        writer.write(FAMILY, f"{name}_zipmap", mapped, [{"x": rows}],
                     reference=exported(fit, types, zipmap=False))


def fitted(model, features, target):
    return model.fit(features, target)


def regressors(writer):
    features, target = load_diabetes(return_X_y=True)
    features = features.astype(np.float32)
    types = [("x", FloatTensorType([None, 10]))]
    rows = features[::37]
    models = {
        "linear": LinearRegression(),
        "ridge_two": Ridge(),
        "tree_regressor": DecisionTreeRegressor(max_depth=4, random_state=0),
        "forest_regressor": RandomForestRegressor(5, max_depth=4, random_state=0),
        "extra_trees": ExtraTreesRegressor(4, max_depth=4, random_state=0),
        "boosting_regressor": GradientBoostingRegressor(n_estimators=8, random_state=0),
        "perceptron_regressor": make_pipeline(StandardScaler(), MLPRegressor(hidden_layer_sizes=(10,), max_iter=200, random_state=0)),
        "polynomial": make_pipeline(PCA(3, random_state=0), PolynomialFeatures(2), LinearRegression()),
    }
    for name, model in models.items():
        answers = np.stack([target, -target], axis=1) if name == "ridge_two" else target
        writer.write(FAMILY, name, exported(fitted(model, features, answers), types), [{"x": rows}], tolerance=1e-4)
    counts = (features[:, :3] * 100).astype(np.int64)
    model = exported(LinearRegression().fit(counts, target), [("x", Int64TensorType([None, 3]))])
    writer.write(FAMILY, "linear_int", model, [{"x": counts[:4]}], tolerance=1e-4)
    forest = exported(
        IsolationForest(n_estimators=3, max_samples=32, random_state=0).fit(features), types
    )
    writer.write(FAMILY, "isolation_forest", forest, [{"x": rows}], tolerance=1e-4)


def transformers(writer):
    features, labels = iris()
    types = [("x", FloatTensorType([None, 4]))]
    holes = features.copy()
    holes[::3, 1] = np.nan
    pipeline = make_pipeline(SimpleImputer(), MinMaxScaler(), Normalizer(), LogisticRegression())
    writer.write(FAMILY, "imputed", exported(pipeline.fit(holes, labels), types, zipmap=False), [{"x": holes[::13]}])
    coarse = np.floor(features)
    columns = ColumnTransformer(
        [("hot", OneHotEncoder(handle_unknown="ignore"), [0, 1]), ("rest", "passthrough", [2, 3])]
    )
    model = make_pipeline(columns, LogisticRegression(max_iter=500)).fit(coarse, labels)
    writer.write(FAMILY, "one_hot", exported(model, types, zipmap=False), [{"x": coarse[::13]}])
    colours = np.array([["red", "s"], ["blue", "m"], ["red", "l"], ["green", "m"]] * 5, object)
    text = [("x", StringTensorType([None, 2]))]
    model = make_pipeline(OneHotEncoder(handle_unknown="ignore"), LogisticRegression()).fit(colours, [0, 1, 0, 1] * 5)
    unknown = np.array([["pink", "s"], ["blue", "m"]], object)
    writer.write(FAMILY, "one_hot_text", exported(model, text, zipmap=False), [{"x": colours[:4]}, {"x": unknown}])
    writer.write(FAMILY, "ordinal", exported(OrdinalEncoder().fit(colours), text), [{"x": colours[:4]}])
    writer.write(FAMILY, "pca", exported(PCA(2, random_state=0).fit(features), types), [{"x": features[::13]}],
                 tolerance=1e-4)
