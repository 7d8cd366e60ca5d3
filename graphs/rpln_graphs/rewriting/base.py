"""What every pass shares: it rewrites an onnx_ir model in place and says how many places it changed.

A pass is one idea in one file, its first line says before -> after, and it holds no state: what it needs it gets from
`configure`, what it found it returns as a count.
"""

import abc
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Final, Self

import onnx_ir as ir
from onnxscript.rewriter import pattern

FLOAT16_MAX: Final = 65504.0
HEADROOM: Final = 8.0
"""Calibration data are not the user's data: values may grow by this factor before they overflow."""
SAFE_FLOAT16: Final = FLOAT16_MAX / HEADROOM

Ranges = Mapping[str, float]
"""Largest magnitude of each float value and initializer of a graph, by name, over calibration data and stress set."""


RELATIVE_POSITIONS: Final = "relative positions"
ATTENTIONS: Final = "attentions as an output"
CROSS_ATTENTIONS: Final = "cross_attentions as an output"
HEAD_MASK: Final = "head_mask as an input"
INPUTS_EMBEDS: Final = "inputs_embeds as an input"
OTHER_ACTIVATION: Final = "an activation that is not gelu"
TANH_GELU: Final = "the approximation of gelu by tanh as the activation"
GELU_HEAD: Final = "a head with a gelu of its own"
CACHE: Final = "a cache of keys and values"
FIRST_TOKEN: Final = "a head that reads the first token"
LAST_TOKEN: Final = "a head that reads the last token"
MASKED_TOKENS: Final = "a head that reads the masked tokens"
HIDDEN_STATES: Final = "hidden_states as an output"
TOKEN_TYPES: Final = "token_type_ids as an input"
"""Features of a network's graph: a pass says in `unless` with which of them it has nothing to do, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphTraits:
    """What the formulas for expected counts depend on."""

    layers: int
    cross_attention: bool = False
    features: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a pass may be configured by. `ranges` is filled only for passes that say they are `calibrated`."""

    dtype: ir.DataType = ir.DataType.FLOAT
    io_dtype: ir.DataType = ir.DataType.FLOAT
    ranges: Ranges = field(default_factory=dict)


class CountingPass(ir.passes.InPlacePass, abc.ABC):
    """A pass whose number of rewrites is known afterwards, and, where it has a formula, beforehand."""

    calibrated: ClassVar[bool] = False

    @classmethod
    def configure(cls, model: ir.Model, context: Context) -> Self:
        """Make the pass for one export of `model`."""
        return cls()

    @abc.abstractmethod
    def rewrite(self, model: ir.Model) -> int:
        """Change `model` in place and return in how many places."""

    def expected(self, traits: GraphTraits) -> int | None:
        """How many rewrites a graph of this network must take; None where that depends on more than the network."""
        return None

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        count = self.rewrite(model)
        model.metadata_props[COUNT_PREFIX + type(self).__name__] = str(count)
        return ir.passes.PassResult(model, modified=count > 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A node that a pass left as it was, and why."""

    node: str
    reason: str

    @property
    def conceded(self) -> bool:
        """Whether it is as good as a match, see CONCESSIONS."""
        return self.reason in CONCESSIONS


IN_FLOAT32: Final = "its scores pass the limit of fp16 and are computed in fp32"
OUTLYING_SCALE: Final = "its scale is so far from 1 that fp16 would lose what is left without it"
PARTLY_FLOAT32: Final = "some of it passes the limit of fp16 and is computed in fp32"
LOWER_STATISTICS: Final = "the operator would compute a norm's statistics in fp16"
CONCESSIONS: Final = frozenset({IN_FLOAT32, OUTLYING_SCALE, PARTLY_FLOAT32, LOWER_STATISTICS})
"""Reasons for leaving a node alone that depend on weights and types, which no formula knows."""


class ExplainingPass(CountingPass):
    """A pass with a formula, which says of what it left alone why.

    `formula` is the count for a network that has none of the features in `unless`, which gives a reason for each.
    """

    unless: ClassVar[Mapping[str, str]] = {}

    @abc.abstractmethod
    def formula(self, traits: GraphTraits) -> int:
        """How many rewrites a network without exceptions has."""

    def expected(self, traits: GraphTraits) -> int:
        """The formula's count, or 0 with a feature of `unless`."""
        return 0 if self.exceptions(traits) else self.formula(traits)

    def exceptions(self, traits: GraphTraits) -> list[str]:
        """Why nothing is expected of the pass with such a network."""
        return [reason for feature, reason in self.unless.items() if feature in traits.features]

    def record(self, model: ir.Model, refusals: Sequence[Refusal]) -> None:
        """Keep what was left alone, for whoever asks `refusals_from_model`."""
        model.metadata_props[REFUSED_PREFIX + type(self).__name__] = json.dumps(
            [[refusal.node, refusal.reason] for refusal in refusals]
        )


class FusingPass(ExplainingPass):
    """A pass of rewrite rules. What they should have matched, the nodes of type `anchor`, and did not, has a reason.

    `rules` are onnxscript's; a rule's check fails with the reason.
    """

    anchor: ClassVar[str]

    @abc.abstractmethod
    def rules(self) -> pattern.RewriteRuleSet:
        """What is matched and replaced."""

    def rewrite(self, model: ir.Model) -> int:
        """Apply the rules, name what is new after what it replaces, and record what was refused."""
        count = self.rules().apply_to_model(model)
        for node in model.graph:
            node.name = node.name or node.outputs[0].name
        self.record(model, self.refusals(model))
        return count

    def refusals(self, model: ir.Model) -> list[Refusal]:
        """What the rules would say of each anchor that is left in `model`."""
        left = [node for node in model.graph if node.op_type == self.anchor]
        if not left:
            return []
        tracer = _Reasons()
        self.rules().apply_to_model(model, tracer=tracer)
        return [
            Refusal(node=node.name or "", reason=tracer.reasons.get(node, "no pattern comes near it")) for node in left
        ]


class _Reasons(pattern.MatchingTracer):
    """Keeps, of each node that an attempt to match went over, why the attempt that came furthest failed."""

    def __init__(self) -> None:
        super().__init__()
        self.reasons: dict[ir.Node, str] = {}
        self._scores: dict[ir.Node, tuple[bool, int]] = {}

    def log(self, rule, container, node, match_result, status) -> None:  # type: ignore[no-untyped-def]  # onnxscript's
        """Take note of one attempt."""
        score = (status != pattern.MatchStatus.NO_MATCH, len(match_result.nodes))
        for passed in {node, *match_result.nodes}:
            if score >= self._scores.get(passed, (False, 0)):
                self._scores[passed] = score
                self.reasons[passed] = match_result.reason or f"{rule.name} does not match"


REFUSED_PREFIX = "rpln.refused."
COUNT_PREFIX = "rpln.pass."


def refusals_from_model(model: ir.Model) -> dict[str, list[Refusal]]:
    """What the passes applied to `model` refused, by pass."""
    return {
        key.removeprefix(REFUSED_PREFIX): [Refusal(node=node, reason=reason) for node, reason in json.loads(value)]
        for key, value in model.metadata_props.items()
        if key.startswith(REFUSED_PREFIX)
    }


def counts_from_model(model: ir.Model) -> dict[str, int]:
    """The passes applied to `model` with their counts, in order of application."""
    return {
        key.removeprefix(COUNT_PREFIX): int(value)
        for key, value in model.metadata_props.items()
        if key.startswith(COUNT_PREFIX)
    }


def residual_norms(model: ir.Model) -> dict[str, ir.Node]:
    """The LayerNormalization nodes that read the residual stream, in order, by the module each belongs to.

    The module is read off the scale's name; the embeddings' own LayerNorm and the LM head's read something else.
    """
    norms: dict[str, ir.Node] = {}
    for node in model.graph:
        if node.op_type == "LayerNormalization":
            scale = node.inputs[1]
            assert scale is not None and scale.name is not None
            norms[scale.name.removesuffix(".weight")] = node
    return {
        module: node for module, node in norms.items() if module not in {"embeddings.LayerNorm", "lm_head.layer_norm"}
    }
