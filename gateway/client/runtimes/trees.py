"""Evaluate tree ensembles (random forests, boosted trees): TreeEnsembleClassifier of Core ML.

* Every tree is proved to be a tree when it is read: one root, every node reached once, no deeper than `MAX_TREE_DEPTH`,
  so that evaluating it ends however hostile the file was.
* A missing input (NaN) goes where the node says missing values go; every other input is compared as a double.
* The sum over the trees is turned into probabilities by the file's post-evaluation transform.
"""

import math
import operator
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from gateway.client.runtimes import BadModel
from gateway.client.runtimes.linear import logistic
from gateway.client.runtimes.protobuf import Message

# The largest artifact (16 MiB) could hold millions of nodes or leaf values; a phone's model has thousands.
MAX_NODES: Final = 262_144
MAX_LEAF_VALUES: Final = 1_048_576
# scikit-learn's unbounded forests stay below 60 on a million rows.
MAX_TREE_DEPTH: Final = 512
MAX_DIMENSIONS: Final = 1024

_LEAF: Final = 6
_COMPARISONS: Final[tuple[Callable[[float, float], bool], ...]] = (
    operator.le,
    operator.lt,
    operator.ge,
    operator.gt,
    operator.eq,
    operator.ne,
)
_NO_TRANSFORM, _SOFTMAX, _LOGISTIC, _SOFTMAX_ZERO_REFERENCE = range(4)


class _Node(NamedTuple):
    """A branch, or a leaf where `holds` is None; children are node ids until the tree is laid out, then places."""

    holds: Callable[[float, float], bool] | None
    feature: int
    value: float
    yes: int
    no: int
    missing_is_yes: bool
    adds: tuple[tuple[int, float], ...]


class TreeClassifier:
    """Trees laid out in one list, the places of their roots, and what turns their sum into probabilities."""

    def __init__(self, message: Message, input_size: int, label_count: int) -> None:
        """Read a TreeEnsembleClassifier message. Raises `BadModel`."""
        ensemble = message.message(1)
        self._dimensions = ensemble.integer(2)
        self._transform = message.integer(2)
        _check_shape(self._dimensions, self._transform, label_count)
        self._start = ensemble.doubles(3) or [0.0] * self._dimensions
        if len(self._start) != self._dimensions:
            raise BadModel("the base values do not fit the dimensions")
        self._nodes: list[_Node] = []
        self._roots: list[int] = []
        for tree in _read_trees(ensemble, input_size, self._dimensions).values():
            self._roots.append(len(self._nodes))
            self._nodes.extend(_laid_out(tree, len(self._nodes)))

    def __call__(self, inputs: Sequence[float]) -> list[float]:
        """Return the probability of each label."""
        sums = list(self._start)
        nodes = self._nodes
        for root in self._roots:
            holds, feature, value, yes, no, missing_is_yes, adds = nodes[root]
            while holds is not None:
                x = inputs[feature]
                taken = holds(x, value) if x == x else missing_is_yes  # NaN is not itself
                holds, feature, value, yes, no, missing_is_yes, adds = nodes[yes if taken else no]
            for dimension, amount in adds:
                sums[dimension] += amount
        return self._probabilities(sums)

    def _probabilities(self, sums: list[float]) -> list[float]:
        if self._transform == _SOFTMAX:
            return softmax(sums)
        if self._transform == _SOFTMAX_ZERO_REFERENCE:
            return softmax([0.0, *sums])
        if self._dimensions > 1:
            return sums
        second = logistic(sums[0]) if self._transform == _LOGISTIC else sums[0]
        return [1.0 - second, second]


def _check_shape(dimensions: int, transform: int, label_count: int) -> None:
    """Refuse what has no agreed reading, such as a softmax over one number."""
    if not 1 <= dimensions <= MAX_DIMENSIONS:
        raise BadModel(f"{dimensions} dimensions")
    fits = {
        _NO_TRANSFORM: label_count == (dimensions if dimensions > 1 else 2),
        _SOFTMAX: label_count == dimensions > 1,
        _LOGISTIC: dimensions == 1 and label_count == 2,
        _SOFTMAX_ZERO_REFERENCE: label_count == dimensions + 1,
    }
    if not fits.get(transform, False):
        raise BadModel(f"transform {transform} of {dimensions} dimensions for {label_count} labels")


def _read_trees(ensemble: Message, input_size: int, dimensions: int) -> dict[int, dict[int, _Node]]:
    trees: dict[int, dict[int, _Node]] = {}
    leaf_values = 0
    for count, message in enumerate(ensemble.messages(1)):
        if count >= MAX_NODES:
            raise BadModel(f"more than {MAX_NODES} nodes")
        tree = trees.setdefault(message.integer(1), {})
        node_id = message.integer(2)
        if node_id in tree:
            raise BadModel(f"node {node_id} stands twice in one tree")
        tree[node_id] = _read_node(message, input_size, dimensions)
        leaf_values += len(tree[node_id].adds)
        if leaf_values > MAX_LEAF_VALUES:
            raise BadModel(f"more than {MAX_LEAF_VALUES} leaf values")
    if not trees:
        raise BadModel("no trees")
    return trees


def _read_node(message: Message, input_size: int, dimensions: int) -> _Node:
    behaviour = message.integer(3)
    if behaviour == _LEAF:
        adds = tuple((info.integer(1), info.double(2)) for info in message.messages(20))
        if any(dimension >= dimensions for dimension, _ in adds):
            raise BadModel("a leaf adds to a dimension that is not there")
        return _Node(None, 0, 0.0, 0, 0, False, adds)
    if behaviour >= len(_COMPARISONS):
        raise BadModel(f"node behaviour {behaviour}")
    feature, value = message.integer(10), message.double(11)
    if feature >= input_size or math.isnan(value):
        raise BadModel("a branch compares nothing")
    yes, no, missing_is_yes = message.integer(12), message.integer(13), bool(message.integer(14))
    return _Node(_COMPARISONS[behaviour], feature, value, yes, no, missing_is_yes, ())


def _root(tree: dict[int, _Node]) -> int:
    children = {child for node in tree.values() if node.holds is not None for child in (node.yes, node.no)}
    roots = tree.keys() - children
    if len(roots) != 1:
        raise BadModel(f"a tree with {len(roots)} roots")
    return roots.pop()


def _laid_out(tree: dict[int, _Node], first: int) -> list[_Node]:
    """Return the tree's nodes, root first, with children as places counted from `first`. Raises `BadModel`."""
    order, depth = [_root(tree)], {}
    depth[order[0]] = 0
    for node_id in order:  # grows while it is walked: breadth first
        node = tree[node_id]
        for child in (node.yes, node.no) if node.holds is not None else ():
            if child in depth or child not in tree or depth[node_id] >= MAX_TREE_DEPTH:
                raise BadModel("a tree that is not one: a node shared, absent or too deep")
            depth[child] = depth[node_id] + 1
            order.append(child)
    if len(order) != len(tree):
        raise BadModel("a tree with nodes that its root does not reach")
    place = {node_id: first + i for i, node_id in enumerate(order)}
    return [_with_places(tree[node_id], place) for node_id in order]


def _with_places(node: _Node, place: dict[int, int]) -> _Node:
    return node if node.holds is None else node._replace(yes=place[node.yes], no=place[node.no])


def softmax(values: Sequence[float]) -> list[float]:
    """Return what sums to 1 in proportion to each exponential."""
    top = max(values)
    odds = [math.exp(x - top) for x in values]
    total = math.fsum(odds)
    return [x / total for x in odds]
