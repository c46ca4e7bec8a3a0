"""Read what an ONNX file says of itself, without a library and without running it.

* Field numbers are those of `onnx.proto`; what has no graph, no operator set or no outputs is no ONNX model.
* Weights kept in other files are refused: an artifact is one file, and a device would find no others.
* Nothing is proved about the operators: whether a device's runtime has them, the device finds out.
"""

from collections.abc import Iterator
from typing import Final

from gateway.client.runtimes import BadModel
from gateway.client.runtimes.protobuf import Message
from gateway.releases.facts import Facts, Feature

_IR_VERSION, _GRAPH, _OPSETS, _METADATA = 1, 7, 8, 14
_NODES, _INITIALIZERS, _INPUTS, _OUTPUTS, _SPARSE_INITIALIZERS = 1, 5, 11, 12, 15
_TENSOR, _SEQUENCE, _MAP, _SPARSE_TENSOR, _OPTIONAL = 1, 4, 5, 8, 9
_TENSOR_NAME, _DATA_LOCATION, _EXTERNAL = 8, 14, 1
# TensorProto.DataType, as ONNX Runtime spells them.
_ELEMENTS: Final = (
    *("undefined", "float", "uint8", "int8", "uint16", "int16", "int32", "int64", "string", "bool", "float16"),
    *("double", "uint32", "uint64", "complex64", "complex128", "bfloat16", "float8e4m3fn", "float8e4m3fnuz"),
    *("float8e5m2", "float8e5m2fnuz", "uint4", "int4", "float4e2m1", "float8e8m0"),
)
# Real types nest two or three deep; a hostile file must not exhaust the stack.
_DEEPEST: Final = 8
_MOST_DIMENSIONS: Final = 64
# From here on an int64 is negative: some exporters write -1 for a size that is not fixed.
_NEGATIVE: Final = 2**63


def onnx_facts(data: bytes) -> Facts:
    """Describe an ONNX model. Raises `BadModel`."""
    model = Message(data)
    ir, graph = model.integer(_IR_VERSION), model.message(_GRAPH)
    opsets = {each.text(1) or "ai.onnx": each.integer(2) for each in model.messages(_OPSETS)}
    if ir < 1 or not opsets or min(opsets.values()) < 1:
        raise BadModel("no IR version or no operator set")
    if not graph.has(_NODES) or not graph.has(_OUTPUTS):
        raise BadModel("no graph with nodes and outputs")
    constant = set(_constants(graph))
    inputs = [each for each in map(_feature, graph.messages(_INPUTS)) if each.name not in constant]
    outputs = [_feature(each) for each in graph.messages(_OUTPUTS)]
    for features in (inputs, outputs):
        if len({feature.name for feature in features} - {""}) != len(features):
            raise BadModel("an input or output without a name of its own")
    return Facts(type="ONNX graph", inputs=inputs, outputs=outputs, ir=ir, opsets=opsets)


def onnx_metadata(data: bytes) -> dict[str, str]:
    """Return what the author wrote into the file. Raises `BadModel`."""
    return {entry.text(1): entry.text(2) for entry in Message(data).messages(_METADATA)}


def _constants(graph: Message) -> Iterator[str]:
    """Yield the names of the weights: before IR version 4 they stand among the inputs, too."""
    for tensor in graph.messages(_INITIALIZERS):
        if tensor.integer(_DATA_LOCATION) == _EXTERNAL:
            raise BadModel("weights in another file: save the model with all data in one")
        yield tensor.text(_TENSOR_NAME)
    for sparse in graph.messages(_SPARSE_INITIALIZERS):
        yield sparse.message(1).text(_TENSOR_NAME)


def _feature(value: Message) -> Feature:
    kind = value.message(2)
    return Feature(value.text(1), _type(kind), _shape(kind))


def _type(kind: Message, depth: int = 0) -> str:
    if depth > _DEEPEST:
        raise BadModel("a type that nests too deep")
    if kind.has(_TENSOR):
        return f"tensor({_element(kind.message(_TENSOR).integer(1))})"
    if kind.has(_SPARSE_TENSOR):
        return f"sparse_tensor({_element(kind.message(_SPARSE_TENSOR).integer(1))})"
    if kind.has(_SEQUENCE):
        return f"seq({_type(kind.message(_SEQUENCE).message(1), depth + 1)})"
    if kind.has(_OPTIONAL):
        return f"optional({_type(kind.message(_OPTIONAL).message(1), depth + 1)})"
    if kind.has(_MAP):
        pair = kind.message(_MAP)
        return f"map({_element(pair.integer(1))},{_type(pair.message(2), depth + 1)})"
    raise BadModel("an input or output without a type")


def _element(number: int) -> str:
    if not 0 < number < len(_ELEMENTS):
        raise BadModel(f"element type {number}")
    return _ELEMENTS[number]


def _shape(kind: Message) -> list[int | str]:
    tensor = kind.message(_TENSOR if kind.has(_TENSOR) else _SPARSE_TENSOR)
    sizes = [_size(dimension) for dimension in tensor.message(2).messages(1)]
    if len(sizes) > _MOST_DIMENSIONS:
        raise BadModel(f"a tensor of {len(sizes)} dimensions")
    return sizes


def _size(dimension: Message) -> int | str:
    if not dimension.has(1):
        return dimension.text(2) or "?"
    size = dimension.integer(1)
    return size if size < _NEGATIVE else "?"
