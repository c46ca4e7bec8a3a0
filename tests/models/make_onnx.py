"""Make small ONNX models and what scikit-learn says of them, so that the client's adapter can be held to it.

* `onnx.json`: the kinds of answer that scikit-learn's converter writes (a map, a tensor), inputs as one tensor
  and as one for each signal, and graphs that are valid and yet no classifiers.

Run with `pip install -e ".[models]"`: python tests/models/make_onnx.py
"""

# mypy: disable-error-code="import-not-found, import-untyped"
# Only who makes models again has these libraries (the extra "models").

import base64
import json
from typing import Any, Final

import numpy as np
from make_models import HERE, SEED
from onnx import TensorProto, helper, numpy_helper
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline

from gateway.client.fleet.shoppers import DISMISSED, PURCHASED

ROWS: Final = 20
OPSET: Final = 17


def main() -> None:
    """Write onnx.json beside this file."""
    dice = np.random.default_rng(SEED)
    inputs = dice.normal(size=(300, 4)).astype(np.float32)
    bought = np.where(inputs[:, 0] + inputs[:, 1] * inputs[:, 2] > 0.2, PURCHASED, DISMISSED)
    three = np.digitize(inputs[:, 0] - inputs[:, 3], [-0.6, 0.7])
    found = [
        converted("map", LogisticRegression().fit(inputs, bought), inputs),
        converted(
            "boosted", GradientBoostingClassifier(n_estimators=20, random_state=SEED).fit(inputs, bought), inputs
        ),
        converted("numbered", LogisticRegression().fit(inputs, three), inputs),
        converted(
            "tensor", MLPClassifier((8,), random_state=SEED, max_iter=400).fit(inputs, bought), inputs, plain=True
        ),
        apart(inputs, bought),
        sigmoid(inputs),
    ]
    text = json.dumps({"models": found, "bad": bad()}, separators=(",", ":")).replace('{"name"', '\n{"name"')
    (HERE / "onnx.json").write_text(text + "\n")


def converted(name: str, model: Any, inputs: np.ndarray, *, plain: bool = False) -> dict[str, Any]:
    options = {id(model): {"zipmap": False}} if plain else None
    graph = to_onnx(model, inputs[:1], options=options, target_opset=OPSET, name=name)
    if plain:
        helper.set_model_props(graph, {"labels": ",".join(map(str, model.classes_))})
    labels = [str(label) for label in model.classes_]
    return entry(name, graph, labels, inputs[:ROWS], model.predict_proba(inputs[:ROWS]))


def apart(inputs: np.ndarray, bought: np.ndarray) -> dict[str, Any]:
    """Return a model that takes each signal as a tensor of its own."""
    model = Pipeline([("all", ColumnTransformer([("all", "passthrough", [0, 1])])), ("linear", LogisticRegression())])
    model.fit(inputs[:, :2], bought)
    types = [("battery", FloatTensorType([None, 1])), ("charging", FloatTensorType([None, 1]))]
    graph = to_onnx(model, initial_types=types, target_opset=OPSET, name="apart")
    answers = model.predict_proba(inputs[:ROWS, :2])
    return entry("apart", graph, [DISMISSED, PURCHASED], inputs[:ROWS, :2], answers)


def sigmoid(inputs: np.ndarray) -> dict[str, Any]:
    """Return a graph in doubles, of a fixed shape, whose one value is a probability."""
    weight = np.array([[0.5], [-1.0], [0.25], [2.0]])
    graph = graph_of(["MatMul", "Sigmoid"], TensorProto.DOUBLE, [1, 4], [1, 1], weight)
    return entry("sigmoid", graph, ["Purchased"], inputs[:ROWS], 1 / (1 + np.exp(-inputs[:ROWS] @ weight)))


def graph_of(
    kinds: list[str], element: int, takes: list[Any], gives: list[Any], weight: np.ndarray | None = None
) -> Any:
    names = ["input", *(f"value {i}" for i in range(len(kinds) - 1)), "Purchased"]
    extra = [] if weight is None else ["weight"]
    nodes = [
        helper.make_node(kind, [names[i], *(extra if i == 0 else [])], [names[i + 1]]) for i, kind in enumerate(kinds)
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("input", element, takes)],
        [helper.make_tensor_value_info("Purchased", element, gives)],
        [] if weight is None else [numpy_helper.from_array(weight, "weight")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)


def bad() -> dict[str, str]:
    """Return valid files that are no classifiers of numbers."""
    doubles, weight = TensorProto.DOUBLE, np.eye(4)
    outside = graph_of(["MatMul", "Sigmoid"], doubles, [1, 4], [1, 4], weight)
    outside.graph.initializer[0].data_location = TensorProto.EXTERNAL
    outside.graph.initializer[0].external_data.add(key="location", value="elsewhere")
    outside.graph.initializer[0].ClearField("raw_data")
    graphs = {
        "several values without labels": graph_of(["MatMul", "Sigmoid"], doubles, [1, 4], [1, 4], weight),
        "texts": graph_of(["Identity"], TensorProto.STRING, [1, 1], [1, 1]),
        "free sizes": graph_of(["Sigmoid"], doubles, ["n", "m"], ["n", "m"]),
        "no output of numbers": graph_of(["Identity"], TensorProto.INT64, [1, 1], [1, 1]),
        "weights elsewhere": outside,
        "an operator that does not exist": graph_of(["Conjure"], doubles, [1, 1], [1, 1]),
        "sizes that do not fit": graph_of(["MatMul", "Sigmoid"], doubles, ["n", 4], ["n", 1], np.eye(3)),
    }
    return {name: base64.b64encode(graph.SerializeToString()).decode() for name, graph in graphs.items()}


def entry(name: str, graph: Any, labels: list[str], inputs: np.ndarray, answers: np.ndarray) -> dict[str, Any]:
    data = base64.b64encode(graph.SerializeToString(deterministic=True)).decode()
    return {
        "name": name,
        "base64": data,
        "labels": labels,
        "inputs": inputs.tolist(),
        "probabilities": answers.tolist(),
    }


if __name__ == "__main__":
    main()
