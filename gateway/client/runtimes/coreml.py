"""Run Core ML classifiers where there is no Core ML: the same files, the same answers, no dependency.

* The contract of the models: one array of doubles in, the probability of every label out.
* Understood: GLM classifiers, tree ensemble classifiers, small neural networks, and pipelines of scalers before one of
  these. Any other kind is a `BadModel`, as is every file that cannot be read: nothing else is ever raised.
* A network that is no classifier has no labels of its own: they stand in the metadata (`labels`, comma-separated), or
  its one output value is the probability of the output's name.
* A file that parses is not thereby intact: whoever loads one has checked its SHA-256.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from gateway.client.runtimes import BadModel, PredictionFailed, probability
from gateway.client.runtimes.linear import LinearClassifier, Scaler
from gateway.client.runtimes.network import Network
from gateway.client.runtimes.protobuf import Message
from gateway.client.runtimes.trees import TreeClassifier
from schemas.releases import MAX_ARTIFACT_BYTES
from schemas.wire import MAX_SIGNALS

MAX_LABELS: Final = 1024
MAX_PIPELINE_MODELS: Final = 16

_VERSION, _DESCRIPTION, _PIPELINE_CLASSIFIER, _NETWORK_CLASSIFIER, _NETWORK, _SCALER = 1, 2, 200, 403, 500, 604
_DOUBLE_ARRAY: Final = 65600  # ArrayFeatureType.DOUBLE

Step = Callable[[Sequence[float]], list[float]]
_CLASSIFIERS: Final[dict[int, Callable[[Message, int, int], Step]]] = {400: LinearClassifier, 402: TreeClassifier}


class CoreMLModel:
    """A loaded classifier."""

    def __init__(self, input_size: int, labels: Sequence[str], metadata: Mapping[str, str], steps: list[Step]) -> None:
        """Hold what the file says; `steps` run in order, the last one gives a probability for each label."""
        self.input_size = input_size
        self.labels = tuple(labels)
        self.metadata = dict(metadata)
        self._steps = steps

    def predict(self, inputs: Sequence[float]) -> dict[str, float]:
        """Return the probability of each label. Raises `PredictionFailed`."""
        if len(inputs) != self.input_size:
            raise PredictionFailed(f"{len(inputs)} inputs where the model takes {self.input_size}")
        values: Sequence[float] = inputs
        try:
            for step in self._steps:
                values = step(values)
        except (ArithmeticError, ValueError) as error:  # math's own: overflow, inf - inf, a sum of zero
            raise PredictionFailed(str(error)) from error
        return {label: probability(value) for label, value in zip(self.labels, values, strict=True)}


class CoreMLRuntime:
    """The runtime of `.mlmodel` files."""

    format = "mlmodel"

    def load(self, data: bytes) -> CoreMLModel:
        """Parse, check and build. Raises `BadModel`."""
        if len(data) > MAX_ARTIFACT_BYTES:
            raise BadModel(f"larger than {MAX_ARTIFACT_BYTES} bytes")
        model = Message(data)
        if model.integer(_VERSION) < 1:
            raise BadModel("no specification version")
        description = model.message(_DESCRIPTION)
        if not model.has(_NETWORK):
            _check_outputs(description)
        input_name, input_size = _array_input(description)
        links = _links(model)
        _check_wiring(links, input_name)
        steps: list[Step] = [Scaler(link.message(_SCALER), input_size) for link in links[:-1]]
        labels, classifier = _classifier(links[-1], input_size)
        return CoreMLModel(input_size, labels, _metadata(description), [*steps, classifier])


def _array_input(description: Message) -> tuple[str, int]:
    inputs = list(description.messages(1))
    if len(inputs) != 1:
        raise BadModel(f"{len(inputs)} inputs where one array is wanted")
    kind = inputs[0].message(3)
    array = kind.message(5)
    shape = array.integers(1)
    if array.integer(2) != _DOUBLE_ARRAY or len(shape) != 1 or not 1 <= shape[0] <= MAX_SIGNALS:
        raise BadModel(f"the input is not one array of 1 to {MAX_SIGNALS} doubles")
    return inputs[0].text(1), shape[0]


def _check_outputs(description: Message) -> None:
    label, probabilities = description.text(11), description.text(12)
    outputs = {output.text(1) for output in description.messages(10)}
    if not label or not probabilities or not {label, probabilities} <= outputs:
        raise BadModel("no label and probabilities among the outputs")


def _links(model: Message) -> list[Message]:
    """Return the models of a pipeline in order, or the model itself."""
    if not model.has(_PIPELINE_CLASSIFIER):
        return [model]
    links: list[Message] = []
    for link in model.message(_PIPELINE_CLASSIFIER).message(1).messages(1):
        if len(links) >= MAX_PIPELINE_MODELS:
            raise BadModel(f"a pipeline of more than {MAX_PIPELINE_MODELS} models")
        links.append(link)
    if not links or not all(link.has(_SCALER) for link in links[:-1]):
        raise BadModel("a pipeline of something else than scalers and a classifier")
    return links


def _check_wiring(links: list[Message], input_name: str) -> None:
    """Refuse a pipeline whose models do not feed one another, first to last."""
    for link in links:
        description = link.message(_DESCRIPTION)
        inputs = [each.text(1) for each in description.messages(1)]
        if inputs != [input_name]:
            raise BadModel(f"a model reads {inputs} where {input_name!r} is given")
        input_name = next((each.text(1) for each in description.messages(10)), "")


def _classifier(model: Message, input_size: int) -> tuple[list[str], Step]:
    kinds = [number for number in model.numbers() if number in (*_CLASSIFIERS, _NETWORK_CLASSIFIER, _NETWORK)]
    if len(kinds) != 1:
        raise BadModel("not a GLM, a tree ensemble or a neural network that classifies")
    message, description = model.message(kinds[0]), model.message(_DESCRIPTION)
    if kinds[0] == _NETWORK:
        network = _network(message, description, input_size)
        return _named_outputs(network, description), network
    labels = message.message(100).texts(1) if message.has(100) else list(map(str, message.message(101).integers(1)))
    _check_labels(labels, least=2)
    if kinds[0] in _CLASSIFIERS:
        return labels, _CLASSIFIERS[kinds[0]](message, input_size, len(labels))
    network = _network(message, description, input_size)
    if network.size != len(labels) or message.text(200, network.output_name) not in ("", network.output_name):
        raise BadModel(f"{network.size} values of {network.output_name!r} for {len(labels)} labels")
    return labels, network


def _network(message: Message, description: Message, input_size: int) -> Network:
    network = Network(message, input_size)
    if [network.input_name] != [each.text(1) for each in description.messages(1)]:
        raise BadModel(f"the network reads {network.input_name!r}, which is not the input")
    return network


def _named_outputs(network: Network, description: Message) -> list[str]:
    """Return the labels of a network that is no classifier."""
    if [network.output_name] != [each.text(1) for each in description.messages(10)]:
        raise BadModel(f"the network gives {network.output_name!r}, which is not the output")
    text = _metadata(description).get("labels") or (network.output_name if network.size == 1 else "")
    labels = [label.strip() for label in text.split(",")] if text else []
    _check_labels(labels, least=1)
    if len(labels) != network.size:
        raise BadModel(f"{len(labels)} labels in the metadata for {network.size} values")
    return labels


def _check_labels(labels: Sequence[str], *, least: int) -> None:
    if not least <= len(labels) <= MAX_LABELS or len(set(labels)) != len(labels):
        raise BadModel(f"{len(labels)} labels, or one that stands twice")


def _metadata(description: Message) -> dict[str, str]:
    return {entry.text(1): entry.text(2) for entry in description.message(100).messages(100)}
