"""The nodes of one layer, as it was traced and in every form of the bundle, for the diagram of the report."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import onnx_ir as ir

PREFERRED: Final = (1, 0)
"""The layers to show, the first that there is: in the second one, both of its neighbours are layers too."""
MODULE: Final = re.compile(r"encoder\.layer\.(?P<layer>\d+)\.(?:(?P<module>.+)\.)?[^.]+")
"""The name of a node: its layer, the path of its module within the layer, and its operator."""
SUFFIXES: Final = re.compile(r"\.(float|float16|bfloat16)$")
"""What the names of Casts have behind the name of the value that they cast."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerNode:
    """A node of the layer.

    Attributes:
        operator: its operator.
        domain: the domain of the operator; empty for ONNX's own.
        module: the path of its module within the layer, as "attention.self.query"; empty for the layer itself.
        dtype: the type of its first output, by numpy's name.
    """

    operator: str
    domain: str
    module: str
    dtype: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerForm:
    """The nodes of the layer in one form, in the order of the graph. `form` is "traced" before any rewriting."""

    form: str
    path: str
    nodes: Sequence[LayerNode]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerReport:
    """One layer of the first graph, in all forms."""

    layer: str
    forms: Sequence[LayerForm]


def layer_report(forms: Mapping[tuple[str, str], ir.Model]) -> LayerReport | None:
    """Return one layer in all `forms`, which are named by form and file; None if the names tell no layers."""
    for number in PREFERRED:
        found = [
            LayerForm(form=form, path=path, nodes=_nodes(model.graph, number)) for (form, path), model in forms.items()
        ]
        if all(form.nodes for form in found):
            return LayerReport(layer=f"encoder.layer.{number}", forms=found)
    return None


def _nodes(graph: Iterable[ir.Node], layer: int) -> list[LayerNode]:
    nodes = []
    for node in graph:
        place = MODULE.fullmatch(node.name or "")
        if place and int(place["layer"]) == layer:
            dtype = node.outputs[0].dtype
            nodes.append(
                LayerNode(
                    operator=node.op_type,
                    domain=node.domain,
                    module=_module(place["module"] or "", node.op_type),
                    dtype="" if dtype is None else str(dtype.numpy()),
                )
            )
    return nodes


def _module(path: str, operator: str) -> str:
    """Return the module of a node. A Cast is named after the value that it casts: "attention.self.Softmax.float16"."""
    if operator != "Cast":
        return path
    return SUFFIXES.sub("", path).rpartition(".")[0] if SUFFIXES.search(path) else path
