"""What a model file says of itself: what goes in and out, and the oldest iOS whose Core ML can read it.

* Pure: bytes in, facts out. They are read from the artifact whenever they are asked for and stored nowhere else.
* Only what the evaluator has loaded is described: the kinds of Core ML models that it knows.
"""

import math
from typing import Final

from msgspec import Struct

from gateway.client.runtimes import BadModel
from gateway.client.runtimes.protobuf import Message

# Apple's coremltools, `coremltools/__init__.py` and `ct.target`: which iOS first read which specification version.
OLDEST_IOS: Final = {1: "11", 2: "11.2", 3: "12", 4: "13", 5: "14", 6: "15", 7: "16", 8: "17", 9: "18", 10: "26"}

_VERSION, _DESCRIPTION, _PIPELINE_CLASSIFIER = 1, 2, 200
_KINDS: Final = {
    400: "GLM classifier",
    402: "tree ensemble classifier",
    403: "neural network classifier",
    500: "neural network",
    604: "scaler",
}
_SIMPLE: Final = {1: "int64", 2: "float64", 3: "string", 4: "image", 7: "sequence", 8: "state"}
_ARRAY, _DICTIONARY = 5, 6
_ELEMENTS: Final = {65552: "float16", 65568: "float32", 65600: "float64", 131080: "int8", 131104: "int32"}


class Feature(Struct, frozen=True, omit_defaults=True):
    """One input or output. A size that is not fixed has a name, or is "?"; a single value has no shape."""

    name: str
    type: str
    shape: list[int | str] = []


class Facts(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A model file, described. `specification` is Core ML's version; `ir` and `opsets` (by domain) are ONNX's."""

    type: str
    inputs: list[Feature]
    outputs: list[Feature]
    labels: list[str] = []
    specification: int = 0
    ir: int = 0
    opsets: dict[str, int] = {}
    os: str = ""


def coreml_facts(data: bytes, labels: list[str]) -> Facts:
    """Describe a Core ML model that the evaluator has loaded. Raises `BadModel`."""
    model = Message(data)
    version = model.integer(_VERSION)
    if version not in OLDEST_IOS:
        raise BadModel(f"specification version {version}: no published iOS is known to read it")
    description = model.message(_DESCRIPTION)
    return Facts(
        type=_kind(model),
        inputs=[_feature(each) for each in description.messages(1)],
        outputs=[_feature(each) for each in description.messages(10)],
        labels=labels,
        specification=version,
        os=f"iOS >={OLDEST_IOS[version]}",
    )


def values_of(feature: Feature) -> int | None:
    """Return how many values one call gives to a feature, the batch left out; None where that is not fixed."""
    # A first dimension that is free, or 1 before others, counts the examples of a batch.
    batch = (feature.shape[:1] == [1] and len(feature.shape) > 1) or isinstance(next(iter(feature.shape), 1), str)
    sizes = feature.shape[1:] if batch else feature.shape
    return None if any(isinstance(size, str) for size in sizes) else math.prod(map(int, sizes))


def _kind(model: Message) -> str:
    if not model.has(_PIPELINE_CLASSIFIER):
        return _single_kind(model)
    links = model.message(_PIPELINE_CLASSIFIER).message(1).messages(1)
    return "pipeline of " + ", ".join(map(_single_kind, links))


def _single_kind(model: Message) -> str:
    return next((kind for number, kind in _KINDS.items() if model.has(number)), "unknown")


def _feature(message: Message) -> Feature:
    kind, name = message.message(3), message.text(1)
    if kind.has(_ARRAY):
        array = kind.message(_ARRAY)
        return Feature(name, f"array of {_ELEMENTS.get(array.integer(2), 'unknown')}", [*array.integers(1)])
    if kind.has(_DICTIONARY):
        return Feature(name, f"dictionary of {'string' if kind.message(_DICTIONARY).has(2) else 'int64'} to float64")
    return Feature(name, next((text for number, text in _SIMPLE.items() if kind.has(number)), "unknown"))
