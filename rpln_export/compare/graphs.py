"""The comparison of two graphs: operators by layer, weights, precision, inputs, outputs, and values."""

import dataclasses
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import onnx_ir as ir

from rpln_export.compare.feeds import feeds_from_file, feeds_from_texts, random_feeds
from rpln_export.compare.graph_files import GraphFile, open_graph
from rpln_export.compare.values import ValueComparison, compare_values
from rpln_graphs.feeds import Feeds

LAYER: Final = re.compile(r"(?:^|\.)layer\.(\d+)\.")
"""The part of a name that tells the layer."""
OUTSIDE: Final = "outside"
"""The name of the place of nodes that belong to no layer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphSummary:
    """What one graph holds.

    Attributes:
        path: its file.
        opsets: the version of each domain of operators.
        inputs: a line for each input, with name, type and shape.
        outputs: a line for each output, with name, type and shape.
        operators: for each operator, the number of its nodes in each layer.
        initializers: the number of constants that are stored as weights are.
        weights: the bytes of these, by type.
    """

    path: str
    opsets: Mapping[str, int]
    inputs: Sequence[str]
    outputs: Sequence[str]
    operators: Mapping[str, Mapping[str, int]]
    initializers: int
    weights: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightComparison:
    """The initializers in which two graphs differ.

    Attributes:
        only_first: the names of those that only the first graph has.
        only_second: the names of those that only the second graph has.
        other_form: type and shape in the first graph and in the second, by the names of those for which they differ.
        other_numbers: the names of those with the same type and shape, but other numbers.
    """

    only_first: Sequence[str]
    only_second: Sequence[str]
    other_form: Mapping[str, tuple[str, str]]
    other_numbers: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphComparison:
    """Two graphs, and how they differ. `values` is None where nothing says what the graphs take as inputs."""

    first: GraphSummary
    second: GraphSummary
    weights: WeightComparison
    values: ValueComparison | None

    def to_json(self) -> dict[str, Any]:
        """Return all fields, for machines."""
        return dataclasses.asdict(self)


def compare_graphs(
    first: Path,
    second: Path,
    *,
    variant: str | None = None,
    texts: Sequence[str] = (),
    feeds: Path | None = None,
    bound: float | None = None,
) -> GraphComparison:
    """Compare two graphs. Each is an ONNX file, or in a bundle the graph of `variant` or else the first one.

    They are run on the arrays of the .npz file `feeds`, on `texts`, or on random tokens with padding. Values agree if
    they differ by at most `bound` times their range (None: see `compare_values`).

    Raises ManifestError or GraphError for what cannot be read or run, and InputError for inputs that the graphs do not
    take.
    """
    left, right = open_graph(first, variant=variant), open_graph(second, variant=variant)
    arrays: Feeds | None
    if feeds is not None:
        arrays = feeds_from_file(feeds)
    elif texts:
        arrays = feeds_from_texts(texts, [left, right])
    else:
        arrays = random_feeds([left, right])
    return GraphComparison(
        first=_summary(left),
        second=_summary(right),
        weights=_compare_weights(left.model, right.model),
        values=None if arrays is None else compare_values(left.model, right.model, arrays, bound=bound),
    )


def _summary(file: GraphFile) -> GraphSummary:
    graph = file.model.graph
    weights: Counter[str] = Counter()
    for weight in _weights(file.model).values():
        weights[_type_name(weight.dtype)] += weight.nbytes
    return GraphSummary(
        path=str(file.path),
        opsets={domain or "ai.onnx": version for domain, version in file.model.opset_imports.items()},
        inputs=[_described(value) for value in graph.inputs],
        outputs=[_described(value) for value in graph.outputs],
        operators=_operators(graph),
        initializers=len(graph.initializers),
        weights=dict(weights.most_common()),
    )


def _described(value: ir.Value) -> str:
    shape = "any shape" if value.shape is None else f"[{', '.join(map(str, value.shape))}]"
    return f"{value.name} {_type_name(value.dtype)} {shape}"


def _type_name(dtype: ir.DataType | None) -> str:
    return "?" if dtype is None else dtype.numpy().name


def _operators(graph: ir.Graph) -> dict[str, dict[str, int]]:
    """Return the number of nodes in each layer, by operator; the most frequent operator is the first."""
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for node in graph:
        counts[f"{node.domain}.{node.op_type}".lstrip(".")][_layer(node)] += 1
    return {name: dict(layers) for name, layers in sorted(counts.items(), key=lambda row: -row[1].total())}


def _layer(node: ir.Node) -> str:
    """Return the layer of a node, by its name or that of an output or a weight; OUTSIDE where no name tells it."""
    weights = [value for value in node.inputs if value is not None and value.is_initializer()]
    names = (node.name, *(value.name for value in (*node.outputs, *weights)))
    return next((match[1] for name in names if name and (match := LAYER.search(name))), OUTSIDE)


def _compare_weights(first: ir.Model, second: ir.Model) -> WeightComparison:
    left, right = _weights(first), _weights(second)
    both = {name: (_type_and_shape(left[name]), _type_and_shape(right[name])) for name in left if name in right}
    alike = [name for name, (one, other) in both.items() if one == other]
    return WeightComparison(
        only_first=[name for name in left if name not in right],
        only_second=[name for name in right if name not in left],
        other_form={name: pair for name, pair in both.items() if name not in alike},
        other_numbers=[name for name in alike if left[name].tobytes() != right[name].tobytes()],
    )


def _weights(model: ir.Model) -> dict[str, ir.TensorProtocol]:
    initializers = model.graph.initializers.items()
    return {name: value.const_value for name, value in initializers if value.const_value is not None}


def _type_and_shape(weight: ir.TensorProtocol) -> str:
    return f"{_type_name(weight.dtype)} {list(weight.shape.numpy())}"
