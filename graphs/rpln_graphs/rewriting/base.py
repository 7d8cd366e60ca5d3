"""Base classes of passes: a pass rewrites an onnx_ir model in place and counts the places that it changed.

    CountingPass            counts what it changed
      ExplainingPass        knows how often it must, and why it refused a node
        FoldingPass         visits nodes one by one          (folding.py)
        FusingPass          applies onnxscript's rules       (fusing.py)
        AttentionPass       fuses attentions                 (attentions.py)

A pass is one idea in one file, whose first line says before -> after. It holds no state: options come from `configure`,
and counts and refusals go into the model's metadata.
"""

import abc
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Final, Self

import onnx_ir as ir

from rpln_graphs.quantization.blocks import Blocks
from rpln_graphs.quantization.quantizers import ChannelValues, Quantizers
from rpln_graphs.rewriting.ranges import Ranges
from rpln_graphs.rewriting.traits import GraphTraits

REFUSED_PREFIX: Final = "rpln.refused."
"""The beginning of the keys of a model's metadata that hold the refusals of passes."""
COUNT_PREFIX: Final = "rpln.pass."
"""The beginning of the keys of a model's metadata that hold the counts of passes."""

IN_FLOAT32: Final = "its scores exceed the range of fp16 and are computed in fp32"
OUTLYING_SCALE: Final = "its scale is so far from 1 that values without it would be lost in fp16"
PARTLY_FLOAT32: Final = "some of its values exceed the range of fp16 and are computed in fp32"
LOWER_STATISTICS: Final = "the fused operator would compute the statistics of LayerNorm in fp16"
KEPT_FOR_ACCURACY: Final = "its block is not quantized, because the accuracy that was asked for needs that"
NO_BLOCKS: Final = "its weight is not in blocks: its sizes give none that kernels take"
CONCESSIONS: Final = frozenset(
    {IN_FLOAT32, OUTLYING_SCALE, PARTLY_FLOAT32, LOWER_STATISTICS, KEPT_FOR_ACCURACY, NO_BLOCKS}
)
"""Reasons that depend on weights, types and data, which no formula knows: such a refusal counts like a rewrite."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The options of one export that a pass may read.

    Attributes:
        dtype: the type that the graph is to compute in.
        io_dtype: the type of float inputs and outputs.
        ranges: the ranges of values; empty for passes that are not `calibrated`.
        quantizers: the quantizers of activations; empty for passes that are not `quantized`.
        weights: weights that were rounded beforehand, by `identity_of_weight`; others are rounded to the nearest.
        factors: what the channels of activations are divided by, and the rows of weights multiplied by, before they are
            rounded; empty if they stay as they are. The quantizers are those of the divided activations.
        means: the means of the channels of activations that are rounded, by which biases are corrected for the rounding
            of weights; empty if biases stay as they are.
        kept: the blocks of layers that are not quantized.
    """

    dtype: ir.DataType = ir.DataType.FLOAT
    io_dtype: ir.DataType = ir.DataType.FLOAT
    ranges: Ranges = field(default_factory=dict)
    quantizers: Quantizers = field(default_factory=dict)
    weights: Mapping[bytes, Blocks] = field(default_factory=dict)
    factors: ChannelValues = field(default_factory=dict)
    means: ChannelValues = field(default_factory=dict)
    kept: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A node that a pass did not change, by its name, and the reason."""

    node: str
    reason: str

    @property
    def conceded(self) -> bool:
        """Whether the reason is one of CONCESSIONS."""
        return self.reason in CONCESSIONS


class CountingPass(ir.passes.InPlacePass, abc.ABC):
    """A pass that counts the places it changed.

    A `calibrated` pass needs the ranges of the graph's values, and a `quantized` one the quantizers of its activations.
    """

    calibrated: ClassVar[bool] = False
    quantized: ClassVar[bool] = False

    @classmethod
    def configure(cls, model: ir.Model, context: Context) -> Self:
        """Return the pass for one export of `model`."""
        return cls()

    @abc.abstractmethod
    def rewrite(self, model: ir.Model) -> int:
        """Change `model` in place and return the number of places changed."""

    def expected(self, traits: GraphTraits) -> int | None:
        """Return how often a graph with these traits must be changed, or None if the traits do not decide that."""
        return None

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        count = self.rewrite(model)
        model.metadata_props[COUNT_PREFIX + type(self).__name__] = str(count)
        return ir.passes.PassResult(model, modified=count > 0)


class ExplainingPass(CountingPass):
    """A pass with a formula for its count, which records why it refused a node.

    The formula holds for graphs without the features in `unless`, which maps each feature to the reason why the pass
    then has nothing to do.
    """

    unless: ClassVar[Mapping[str, str]] = {}

    @abc.abstractmethod
    def formula(self, traits: GraphTraits) -> int:
        """Return the number of places in a graph without exceptions."""

    def expected(self, traits: GraphTraits) -> int:
        """Return the formula's count, or 0 if the graph has a feature in `unless`."""
        return 0 if self.exceptions(traits) else self.formula(traits)

    def exceptions(self, traits: GraphTraits) -> list[str]:
        """Return the reasons why the pass has nothing to do in a graph with these traits."""
        return [reason for feature, reason in self.unless.items() if feature in traits.features]

    def record(self, model: ir.Model, refusals: Sequence[Refusal]) -> None:
        """Write the refusals into the metadata of `model`, where `refusals_from_model` finds them."""
        model.metadata_props[REFUSED_PREFIX + type(self).__name__] = json.dumps(
            [[refusal.node, refusal.reason] for refusal in refusals]
        )


def refused(node: ir.Node, reason: str) -> Refusal:
    """Return the refusal of `node`."""
    return Refusal(node=node.name or "", reason=reason)


def refusals_from_model(model: ir.Model) -> dict[str, list[Refusal]]:
    """Return the refusals of the passes applied to `model`, by the name of the pass."""
    return {
        key.removeprefix(REFUSED_PREFIX): [Refusal(node=node, reason=reason) for node, reason in json.loads(value)]
        for key, value in model.metadata_props.items()
        if key.startswith(REFUSED_PREFIX)
    }


def counts_from_model(model: ir.Model) -> dict[str, int]:
    """Return the passes applied to `model` with their counts, in the order of their application."""
    return {
        key.removeprefix(COUNT_PREFIX): int(value)
        for key, value in model.metadata_props.items()
        if key.startswith(COUNT_PREFIX)
    }
