"""Two graphs side by side: operators in each layer, weights, precision, signature, and where their values part."""

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
OUTSIDE: Final = "outside"
"""Where nodes are that no name puts in a layer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphSummary:
    """One graph: its opset by domain, its signature in words, nodes by operator and layer, bytes of weights by type."""

    path: str
    opsets: Mapping[str, int]
    inputs: Sequence[str]
    outputs: Sequence[str]
    operators: Mapping[str, Mapping[str, int]]
    initializers: int
    weights: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightComparison:
    """Names of initializers that one graph has alone, that both have in other forms, or with other numbers.

    A form is type and shape, the first graph's before the second's.
    """

    only_first: Sequence[str]
    only_second: Sequence[str]
    other_form: Mapping[str, tuple[str, str]]
    other_numbers: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphComparison:
    """Two graphs and what sets them apart; `values` is None where nothing says what they are fed."""

    first: GraphSummary
    second: GraphSummary
    weights: WeightComparison
    values: ValueComparison | None

    def to_json(self) -> dict[str, Any]:
        """All of it."""
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
    """Compare the graphs of two bundles, those of `variant` or their first ones, or two ONNX files.

    They are run on the arrays of the .npz file `feeds`, or on `texts`, or on random tokens with padding. Values whose
    difference is at most `bound` times their range agree (None: see `compare_values`).

    Raises ManifestError, GraphError or InputError for what cannot be read, run, or fed so.
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
    """How many nodes of each operator are in each layer, the most frequent operator first."""
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for node in graph:
        counts[f"{node.domain}.{node.op_type}".lstrip(".")][_layer(node)] += 1
    return {name: dict(layers) for name, layers in sorted(counts.items(), key=lambda row: -row[1].total())}


def _layer(node: ir.Node) -> str:
    """The number of the layer that the node's name, or a name of what it makes or reads, puts it in."""
    weights = [value for value in node.inputs if value is not None and value.is_initializer()]
    names = (node.name, *(value.name for value in (*node.outputs, *weights)))
    return next((match[1] for name in names if name and (match := LAYER.search(name))), OUTSIDE)


def _compare_weights(first: ir.Model, second: ir.Model) -> WeightComparison:
    left, right = _weights(first), _weights(second)
    forms = {name: (_form(left[name]), _form(right[name])) for name in left if name in right}
    alike = [name for name, (one, other) in forms.items() if one == other]
    return WeightComparison(
        only_first=[name for name in left if name not in right],
        only_second=[name for name in right if name not in left],
        other_form={name: forms[name] for name in forms if name not in alike},
        other_numbers=[name for name in alike if left[name].tobytes() != right[name].tobytes()],
    )


def _weights(model: ir.Model) -> dict[str, ir.TensorProtocol]:
    initializers = model.graph.initializers.items()
    return {name: value.const_value for name, value in initializers if value.const_value is not None}


def _form(weight: ir.TensorProtocol) -> str:
    return f"{_type_name(weight.dtype)} {list(weight.shape.numpy())}"
