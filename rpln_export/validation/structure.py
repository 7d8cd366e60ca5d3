"""What outputs cannot tell of a graph: epsilons, scales and heads of attentions, the form of the activation.

An error in one of them, in one layer of many, can be smaller than rounding. So each is read back from the graph,
operator by operator, and compared with the modules of the network that ran in eager torch.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import onnx_ir as ir
import torch
from torch import nn

from rpln_export.validation.comparison import Array, torch_feeds
from rpln_graphs.calls import GraphCall
from rpln_graphs.passes.rescale_residual import SHIFT_KEY
from rpln_graphs.quantization.quantizers import floats_of_weight
from rpln_graphs.quantization.rounding import QUANTIZED, SCALE
from rpln_graphs.rewriting.residual_stream import ELSEWHERE
from rpln_graphs.rewriting.values import contents, maker, number
from rpln_model.activations import ACTIVATIONS, Activation
from rpln_model.language_models import LMHead
from rpln_model.layers import AttentionHeads, Intermediate

NORMS: Final[Mapping[str, float]] = {
    "LayerNormalization": 1e-5,
    "SkipLayerNormalization": 1e-12,
    "EmbedLayerNormalization": 1e-12,
}
"""The operators with a LayerNorm in them, and the epsilon of each where it has no attribute for it."""

ATTENTIONS: Final[Mapping[str, str]] = {"Attention": "q_num_heads", "MultiHeadAttention": "num_heads"}
"""The operators that compute an attention, and the attribute of each for the number of heads."""

EXACT: Final = "exact"
TANH: Final = "tanh"
GELUS: Final[Mapping[Activation, str]] = {ACTIVATIONS["gelu"]: EXACT, ACTIVATIONS["gelu_new"]: TANH}
"""The two gelus, by the functions that compute them. They are nearly equal; outputs tell other activations apart."""

CLOSE: Final = 1e-5
"""The relative difference up to which two scales are equal in fp32."""
RESOLUTIONS: Final[Mapping[ir.DataType | None, float]] = {
    ir.DataType.FLOAT16: 2.0**-11,
    ir.DataType.BFLOAT16: 2.0**-8,
    ir.DataType.INT8: 2.0**-8,
    ir.DataType.FLOAT8E4M3FN: 2.0**-4,
    ir.DataType.INT4: 2.0**-4,
}
"""The relative error of a rounding in the types that a graph's weights may have. Two of them are accepted."""


@dataclass(frozen=True, slots=True)
class Called:
    """The modules that computed one run of a network, by their path, in the order of their calls."""

    norms: dict[str, nn.LayerNorm] = field(default_factory=dict)
    attentions: dict[str, AttentionHeads] = field(default_factory=dict)
    intermediates: dict[str, Intermediate] = field(default_factory=dict)
    heads: dict[str, LMHead] = field(default_factory=dict)


def called_modules(call: GraphCall, feeds: Mapping[str, Array]) -> Called:
    """Return the modules that compute the outputs of `call` for `feeds`."""
    called = Called()
    kinds: list[tuple[type[nn.Module], dict[str, Any]]] = [
        (nn.LayerNorm, called.norms),
        (AttentionHeads, called.attentions),
        (Intermediate, called.intermediates),
        (LMHead, called.heads),
    ]

    def record(found: dict[str, Any], name: str) -> Callable[..., None]:
        return lambda module, *_: found.update({name: module})

    handles = [
        module.register_forward_hook(record(found, name))
        for name, module in call.named_modules()
        for kind, found in kinds
        if isinstance(module, kind)
    ]
    try:
        with torch.inference_mode():
            call(*torch_feeds(call, feeds, exact=False))
    finally:
        for handle in handles:
            handle.remove()
    return called


def folded_scales(standard: ir.Model, called: Called) -> dict[str, float]:
    """Return the scale of each attention that was folded into its query weights, by the attention's path.

    It is 1 if none was folded, and NaN if weights of zero hide it. `standard` is the network in standard operators, in
    which these weights have their names.
    """
    return {
        path: _folded_scale(standard, path, module, called.norms[path.removesuffix("self") + "LayerNorm"])
        for path, module in called.attentions.items()
    }


def structural_faults(graph: ir.Model, called: Called, *, folded: Mapping[str, float]) -> list[str]:
    """Return what a graph computes otherwise than the modules of its network, in sentences; empty if nothing.

    `folded` are the `folded_scales` of the network's graph in standard operators.
    """
    return [
        *_epsilons(graph, called.norms),
        *_attentions(graph, called, folded),
        *_gelus(graph, called),
    ]


def _epsilons(graph: ir.Model, norms: Mapping[str, nn.LayerNorm]) -> Iterator[str]:
    # Where the residual stream is scaled by 2^-s, the epsilons of its LayerNorms are by 4^-s.
    scale = 4.0 ** -int(graph.metadata_props.get(SHIFT_KEY, "0"))
    expected = Counter(
        np.float32(norm.eps * (1.0 if path.endswith(tuple(ELSEWHERE)) else scale)) for path, norm in norms.items()
    )
    nodes = [node for node in graph.graph if node.op_type in NORMS]
    found = Counter(np.float32(node.attributes.get_float("epsilon", NORMS[node.op_type])) for node in nodes)
    if found != expected:
        yield f"its LayerNorms have the epsilons {_listed(found)}, and those of the network {_listed(expected)}"


def _listed(epsilons: Mapping[np.float32, int]) -> str:
    return ", ".join(f"{epsilon:.6g} ({count} times)" for epsilon, count in sorted(epsilons.items())) or "none"


def _attentions(graph: ir.Model, called: Called, folded: Mapping[str, float]) -> Iterator[str]:
    nodes = [node for node in graph.graph if node.op_type == "Softmax" or node.op_type in ATTENTIONS]
    if len(nodes) != len(called.attentions):
        yield f"it computes {len(nodes)} attentions, and the network {len(called.attentions)}"
        return
    close = max(CLOSE, 2 * _resolution(graph))
    for node, (path, module) in zip(nodes, called.attentions.items(), strict=True):
        scale = _scale_of(node, module) * folded[path]
        if abs(scale - module.scale) > close * module.scale:  # never so for NaN: all scores are the same anyway
            yield f"{node.name} scales its scores by {scale:.8g}, and the network by {module.scale:.8g}"
        heads = node.attributes.get_int(ATTENTIONS.get(node.op_type, ""), None)
        expected = module.query.out_features // module.head_size
        if heads is not None and heads != expected:
            yield f"{node.name} has {heads} heads, and the network {expected}"


def _resolution(graph: ir.Model) -> float:
    """Return the relative error of a rounding in the coarsest type that the graph's weights have."""
    typed = [RESOLUTIONS.get(value.dtype, 0.0) for value in graph.graph.initializers.values()]
    packed = [2.0 ** -node.attributes.get_int("bits", 0) for node in graph.graph if node.op_type == "MatMulNBits"]
    return max([0.0, *typed, *packed])


def _scale_of(node: ir.Node, module: AttentionHeads) -> float:
    """Return the factor of the scores in the graph itself: an attribute, or a Mul between product and Softmax."""
    if node.op_type in ATTENTIONS:
        # Both operators take a scale that is left out, and MultiHeadAttention a scale of 0, for 1/sqrt(head size).
        return node.attributes.get_float("scale", 0.0) or module.head_size**-0.5
    scores = node.inputs[0]
    added = maker(scores, "Add")
    for value in [scores] if added is None else [scores, *added.inputs]:
        scaled = maker(_behind_casts(value), "Mul")
        factors = [] if scaled is None else [number(_behind_casts(factor)) for factor in scaled.inputs]
        # A mask is a product with a number too, but with the lowest one of its type.
        positive = [factor for factor in factors if factor is not None and factor > 0]
        if positive:
            return positive[0]
    return 1.0


def _behind_casts(value: ir.Value | None) -> ir.Value | None:
    cast = maker(value, "Cast")
    return value if cast is None else _behind_casts(cast.inputs[0])


def _folded_scale(standard: ir.Model, path: str, module: AttentionHeads, norm: nn.LayerNorm) -> float:
    """Return the factor by which the graph's weight of the queries is larger than the network's."""
    queries = _initializer(standard, f"{path}.query.weight")
    if queries is None:
        return 1.0
    # float64 has room for whatever was folded. Factors may have moved between the LayerNorm's scale and the weight.
    expected = module.query.weight.detach().double().numpy().T
    found = queries.astype(np.float64)
    gamma = _initializer(standard, f"{path.removesuffix('self')}LayerNorm.weight")
    if gamma is not None:
        expected = expected * norm.weight.detach().double().numpy()[:, np.newaxis]
        found = found * gamma.astype(np.float64)[:, np.newaxis]
    usual = np.abs(expected) > np.abs(expected).mean() / 2
    return float(np.median(found[usual] / expected[usual])) if usual.any() else math.nan


def _initializer(graph: ir.Model, path: str) -> Array | None:
    """Return the weight that the state dict has under `path`.

    A weight that was turned has another ending, and so has a quantized one, whose floats are returned.
    """
    initializers = graph.graph.initializers
    for value in initializers.values():
        stored = (value.name or "").removesuffix(QUANTIZED)
        name = stored.removesuffix(".T")
        if name and f".{path}".endswith(f".{name}"):
            array = contents(value)
            scales = contents(initializers.get(stored + SCALE)) if stored != value.name else None
            return array if array is None or scales is None else floats_of_weight(array, scales)
    return None


def _gelus(graph: ir.Model, called: Called) -> Iterator[str]:
    kinds = [GELUS.get(module.activation) for module in called.intermediates.values()]
    if None in kinds:
        return  # other activations are made of the same operators
    expected = Counter([*kinds, *(EXACT for _ in called.heads)])
    found = Counter(kind for node in graph.graph if (kind := _gelu_of(node)) is not None)
    if found != expected:
        yield (
            f"it computes {found[EXACT]} gelus in their exact form and {found[TANH]} in their tanh form, and the "
            f"network {expected[EXACT]} and {expected[TANH]}"
        )


def _gelu_of(node: ir.Node) -> str | None:
    """Return which gelu `node` computes, alone or as the middle of one written out; None if it computes none."""
    if node.op_type == "Gelu":
        return TANH if node.attributes.get_string("approximate", "none") == "tanh" else EXACT
    if node.op_type in {"BiasGelu", "Erf"}:
        return EXACT
    if node.op_type == "FastGelu":
        return TANH
    # The tanh of a pooler or classifier reads a projection, that of a gelu a product.
    return TANH if node.op_type == "Tanh" and maker(node.inputs[0], "Mul") is not None else None
