"""Equalization: factors that make the channels of an activation alike before one scale rounds them all.

    x W = (x / s) (diag(s) W)        s_j = max|x_j|^strength / max|w_j|^(1 - strength)

w_j is row j of all weights that read x. A strength of 0 makes the rows of the weights alike, and 1 the channels of the
activation (Xiao et al., SmoothQuant, https://arxiv.org/abs/2211.10438). Each activation gets the strength that is
expected to serve its products best, or stays as it is. Factors are powers of two with a geometric mean near 1, so that
the fp32 graph computes the same to the last bit.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx_ir as ir

from rpln_graphs.quantization.observe import Observed
from rpln_graphs.quantization.products import block_of, layer_products
from rpln_graphs.quantization.quantizers import Array, ChannelValues, quantizer_from_range, scales_of_weight
from rpln_graphs.rewriting.projections import Projection, is_own_constant, projection_from_matmul
from rpln_graphs.rewriting.row_selections import selection_from_node
from rpln_graphs.rewriting.values import sole_reader, tensor_of

CONTEXT: Final = ".output.dense.weight.T"
VALUE: Final = ".self.value"
"""The ends of the names of the weight that reads an attention's result, and of its value projection."""
STRENGTHS: Final = (0.0, 0.15, 0.3, 0.4, 0.5, 0.6, 0.7, 0.85, 1.0)
"""The strengths that are tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Equalizable:
    """An activation whose channels can be scaled without another node.

    Attributes:
        name: the name of the activation.
        aliases: its name, and those of the values that hold some of its rows.
        makers: the constants [C] or [K, C] that make its channels. They are divided by the factors.
        readers: the weights [C, N] of the products that read it. Their rows are multiplied by the factors.
    """

    name: str
    aliases: tuple[str, ...]
    makers: tuple[ir.Value, ...]
    readers: tuple[ir.Value, ...]


def equalizable_activations(model: ir.Model) -> list[Equalizable]:
    """Return the activations that can be equalized.

    They are the results of the layers' LayerNorms, and the sums of values that attentions give out.
    """
    return [*_norms(model), *_contexts(model)]


def factors_from_observed(model: ir.Model, observed: Mapping[str, Observed]) -> dict[str, Array]:
    """Return the factors [C] of every activation of `model` that can be scaled and was observed."""
    return {
        place.name: _best_factors(_weight_of(place), observed[place.name])
        for place in equalizable_activations(model)
        if place.name in observed
    }


def equalized(model: ir.Model, observed: Mapping[str, Observed], factors: ChannelValues) -> dict[str, Observed]:
    """Return what would have been observed in `model` with its channels divided by `factors`."""
    divisors = {
        alias: factors[place.name]
        for place in equalizable_activations(model)
        if place.name in factors
        for alias in place.aliases
    }
    return {name: seen.divided(divisors[name]) if name in divisors else seen for name, seen in observed.items()}


def _weight_of(place: Equalizable) -> Array:
    """Return the weights of all products that read an activation, side by side, [C, N]."""
    return np.concatenate([tensor_of(weight).numpy() for weight in place.readers], axis=1)


def _best_factors(weight: Array, seen: Observed) -> Array:
    tried = [np.ones(len(weight), dtype=np.float32), *(_factors(weight, seen, strength) for strength in STRENGTHS)]
    return min(tried, key=lambda factors: expected_error(weight * factors[:, np.newaxis], seen.divided(factors)))


def _factors(weight: Array, seen: Observed, strength: float) -> Array:
    """Return the factors of one strength. A channel that is always zero, or that no product uses, keeps 1."""
    reach, size = seen.channels.astype(np.float64), np.abs(weight).max(axis=1).astype(np.float64)
    used = (reach > 0) & (size > 0)
    if not used.any():
        return np.ones(len(weight), dtype=np.float32)
    wanted = strength * np.log2(reach[used]) - (1 - strength) * np.log2(size[used])
    exponents = np.zeros(len(weight))
    exponents[used] = np.rint(wanted - wanted.mean())
    return np.exp2(exponents).astype(np.float32)


def expected_error(weight: Array, seen: Observed) -> float:
    """Return the square of the error of a product x W, summed over its columns, that 8 bits are expected to make.

    A rounding is off by its step times a number between -1/2 and 1/2, whose square is 1/12 on average: in each channel
    of x, times what the weight [C, N] makes of it; and in each element of the weight, times what x varies. What x is on
    average counts less, since biases can be corrected for it.
    """
    step = quantizer_from_range(seen.low, seen.high).scale
    steps = scales_of_weight(weight).astype(np.float64)
    variances = np.maximum(seen.squares - seen.means**2, 0.0)
    of_activation = step**2 * np.square(weight, dtype=np.float64).sum()
    of_weight = np.square(steps).sum() * variances.sum()
    return float(of_activation + of_weight) / 12


def _norms(model: ir.Model) -> Iterator[Equalizable]:
    for node in model.graph:
        if node.op_type != "LayerNormalization" or node.outputs[0].is_graph_output():
            continue
        affine = tuple(value for value in node.inputs[1:] if value is not None)
        aliases, readers = _readers(node.outputs[0])
        if readers and all(is_own_constant(value, rank=1) for value in affine):
            yield Equalizable(name=aliases[0], aliases=aliases, makers=affine, readers=readers)


def _readers(value: ir.Value) -> tuple[tuple[str, ...], tuple[ir.Value, ...]]:
    """Return the names of `value` and of selections of its rows, and the weights that read them.

    No weights are returned if anything but a layer's product reads the value or one of its selections.
    """
    names = [value.name or ""]
    weights: list[ir.Value] = []
    for use in value.uses():
        selection, projection = selection_from_node(use.node), projection_from_matmul(use.node)
        if selection is not None and selection.source is value:
            inner, found = _readers(use.node.outputs[0])
            names += inner
        else:
            found = () if projection is None or block_of(projection.weight.name or "") is None else (projection.weight,)
        if not found:
            return tuple(names), ()
        weights += found
    return tuple(names), tuple(weights)


def _contexts(model: ir.Model) -> Iterator[Equalizable]:
    for product in layer_products(model):
        attention, found, _ = (product.weight.name or "").rpartition(CONTEXT)
        values = _value_projection(model, attention) if found and attention == product.block else None
        if values is None or not is_own_constant(product.weight, rank=2):
            continue
        if sole_reader(values.result) is not None and sole_reader(product.activation) is product.matmul:
            name = product.activation.name or ""
            yield Equalizable(name=name, aliases=(name,), makers=values.constants, readers=(product.weight,))


def _value_projection(model: ir.Model, attention: str) -> Projection | None:
    """Return the projection of an attention's values; None if it has none of its own, as where three are merged."""
    weight = model.graph.initializers.get(f"{attention}{VALUE}.weight.T")
    reader = None if weight is None else sole_reader(weight)
    return None if reader is None else projection_from_matmul(reader)
