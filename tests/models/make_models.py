"""Make the example models and what scikit-learn says of them, so that the evaluator can be held to it.

* `upsell-1.mlmodel`: a random forest on battery level and charging, bundled with the app.
* `upsell-2.mlmodel`: gradient boosting on all four signals: it truly sells more (`held_out` in expected.json).
* `expected.json`: for both, and for small models of every other kind, inputs and scikit-learn's own probabilities. The
  inputs are exact in float32, to which scikit-learn rounds before it compares and Core ML does not.

Run with `pip install -e ".[models]"`: python tests/models/make_models.py
"""

# mypy: disable-error-code="import-not-found, import-untyped"
# Only who makes models again has these two libraries (the extra "models").

import base64
import contextlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any, Final

import numpy as np
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

with contextlib.redirect_stderr(io.StringIO()):  # off macOS it prints a line for every part that only macOS has
    import coremltools

from gateway.client.fleet.shoppers import (
    DISMISSED,
    PURCHASED,
    SIGNALS,
    first_moment,
    next_moment,
    purchase_probability,
)

HERE: Final = Path(__file__).parent
SEED: Final = 20_261_122
SESSIONS: Final = 10_000
DECISIONS_PER_SESSION: Final = 3
# Asking annoys: a release asks the 30 % of the moments that it thinks best of.
ASKED_SHARE: Final = 0.3
EXPLORE: Final = 0.05
ROWS: Final = 300


def main() -> None:
    """Write the two models and expected.json beside this file."""
    rows, truth = draw()
    bought = np.random.default_rng(SEED).random(len(truth)) < truth
    labels = np.where(bought, PURCHASED, DISMISSED)
    half = len(rows) // 2
    forest = RandomForestClassifier(n_estimators=25, max_depth=3, min_samples_leaf=60, random_state=SEED)
    boosted = GradientBoostingClassifier(n_estimators=40, max_depth=2, learning_rate=0.2, random_state=SEED)
    expected: dict[str, Any] = {"models": [], "held_out": {}}
    for name, model, width in (("upsell-1", forest, 2), ("upsell-2", boosted, 4)):
        model.fit(rows[:half, :width], labels[:half])
        scores = model.predict_proba(rows[half:, :width])[:, 1]
        threshold = round(float(np.quantile(scores, 1.0 - ASKED_SHARE)), 4)
        asked = scores >= threshold
        expected["held_out"][name] = {
            "asked": round(float(asked.mean()), 4),
            "bought_of_asked": round(float(truth[half:][asked].mean()), 4),
        }
        metadata = {"inputs": ",".join(SIGNALS[:width]), "threshold": str(threshold), "explore": str(EXPLORE)}
        data = convert(model, width, metadata)
        (HERE / f"{name}.mlmodel").write_bytes(data)
        sample = rows[half : half + ROWS, :width]
        expected["models"].append({"name": name, "file": f"{name}.mlmodel", **answers(model, sample)})
    expected["models"] += zoo()
    text = json.dumps(expected, separators=(",", ":")).replace('{"name"', '\n{"name"')
    (HERE / "expected.json").write_text(text + "\n")


def draw() -> tuple[np.ndarray, np.ndarray]:
    """Return moments as float32 rows, and each one's true chance of a purchase."""
    dice, moments = Random(SEED), []  # noqa: S311 - a seeded draw, no secret
    for _ in range(SESSIONS):
        moment = first_moment(dice)
        for _ in range(DECISIONS_PER_SESSION):
            moments.append(moment)
            moment = next_moment(moment, dice)
    return np.array(moments, dtype=np.float32), np.array([purchase_probability(moment) for moment in moments])


def zoo() -> list[dict[str, Any]]:
    """Return small models of the other kinds: three labels, a linear model, a scaler before one."""
    dice = np.random.default_rng(SEED + 1)
    rows = dice.normal(size=(400, 5)).astype(np.float32)
    two = np.where(rows[:, 0] + rows[:, 1] * rows[:, 2] > 0.2, PURCHASED, DISMISSED)
    three = np.digitize(rows[:, 0] - rows[:, 3] + dice.normal(size=400) / 3, [-0.6, 0.7])
    linear = {"multi_class": "ovr", "random_state": SEED}  # the converter takes no other
    kinds = [
        ("linear", LogisticRegression(**linear), two),
        ("linear-3", LogisticRegression(**linear), three),
        ("scaled", Pipeline([("scaler", StandardScaler()), ("linear", LogisticRegression(**linear))]), two),
        # One tree: of a forest for three labels coremltools 9.0 forgets to divide the leaves by the number of trees.
        ("tree-3", RandomForestClassifier(n_estimators=1, max_depth=5, random_state=SEED), three),
        # Boosting for three labels is not here: coremltools 9.0 cannot convert it with numpy 2.4.
    ]
    made = []
    for name, model, labels in kinds:
        model.fit(rows, labels)
        data = base64.b64encode(convert(model, rows.shape[1], {})).decode()
        made.append({"name": name, "base64": data, **answers(model, rows[:50])})
    return made


def convert(model: Any, width: int, metadata: dict[str, str]) -> bytes:
    """Return the Core ML file. `MLModel.save` is not reproducible: the order of a map differs between runs."""
    converted = coremltools.converters.sklearn.convert(model, [("input", coremltools.models.datatypes.Array(width))])
    spec = converted.get_spec()
    spec.description.metadata.shortDescription = "Backhaul example: will this user buy the upgrade when asked now?"
    for key, value in metadata.items():
        spec.description.metadata.userDefined[key] = value
    data: bytes = spec.SerializeToString(deterministic=True)
    return data


def answers(model: Any, rows: np.ndarray) -> dict[str, Sequence[Any]]:
    """Return inputs, labels and the probabilities that scikit-learn gives."""
    return {
        "labels": [str(label) for label in model.classes_],
        "inputs": [[float(x) for x in row] for row in rows],
        "probabilities": [[float(p) for p in row] for row in model.predict_proba(rows.astype(np.float64))],
    }


if __name__ == "__main__":
    main()
