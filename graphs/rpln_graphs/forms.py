"""FORMS: one row per way to write the same network as a graph, with the passes that make it.

These passes run after the exact folds and the passes of a recipe, which recognize the graph as it was traced.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import onnx_ir as ir

from rpln_graphs.errors import PassError
from rpln_graphs.passes.correct_biases import CorrectBiases
from rpln_graphs.passes.equalize_channels import EqualizeChannels
from rpln_graphs.passes.fuse_attention import FuseAttention
from rpln_graphs.passes.fuse_bias_gelu import FuseBiasGelu
from rpln_graphs.passes.fuse_embed_layer_norm import FuseEmbedLayerNorm
from rpln_graphs.passes.fuse_fast_gelu import FuseFastGelu
from rpln_graphs.passes.fuse_multi_head_attention import FuseMultiHeadAttention
from rpln_graphs.passes.fuse_quantized_weights import FuseQuantizedWeights
from rpln_graphs.passes.fuse_skip_layer_norm import FuseSkipLayerNorm
from rpln_graphs.passes.merge_projections import MergeProjections
from rpln_graphs.passes.pack_tokens import PackTokens
from rpln_graphs.passes.quantize_attention import QuantizeAttention
from rpln_graphs.passes.quantize_dynamically import QuantizeDynamically
from rpln_graphs.passes.quantize_embeddings import QuantizeEmbeddings
from rpln_graphs.passes.quantize_products import QuantizeProducts
from rpln_graphs.passes.quantize_weights import (
    QuantizeBlocksOf64To4,
    QuantizeColumnsTo8,
    QuantizeWeights,
    QuantizeWeightsTo4,
    QuantizeWeightsTo8,
)
from rpln_graphs.quantization.quantizers import FP8, INT8
from rpln_graphs.rewriting.base import Context, CountingPass, ExplainingPass
from rpln_graphs.rewriting.counts import shortage_from_model
from rpln_graphs.rewriting.traits import GraphTraits


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """A form of a graph.

    Attributes:
        name: the value of --optimize.
        prepares: the passes that run first. They change weights and biases as the context says, and add no node.
        passes: the passes that make it from the standard form, in order.
        standard: whether all of its operators are ONNX's own.
        packs: whether it computes real tokens only, and no padding.
        accurate_as: the name of another form whose rounding this one shares; empty where it has its own.
        rounds_to: the type that activations are rounded to, in a form that rounds them.
    """

    name: str
    prepares: tuple[type[CountingPass], ...] = ()
    passes: tuple[type[ExplainingPass], ...] = ()
    standard: bool = True
    packs: bool = False
    accurate_as: str = ""
    rounds_to: ir.DataType = ir.DataType.UINT8

    @property
    def calibrated(self) -> bool:
        """Whether activations are rounded with scales that are measured beforehand."""
        return any(kind.quantized for kind in self.passes)

    @property
    def error_aware(self) -> type[QuantizeWeights] | None:
        """The pass whose weights may be rounded for their inputs beforehand; None if there is none."""
        return next((kind for kind in self.passes if issubclass(kind, QuantizeWeights) and kind.error_aware), None)


STANDARD: Final = Form(name="standard")

_ROWS: Final = (
    STANDARD,
    Form(name="packed", passes=(PackTokens,), packs=True),
    Form(name="packed-attention", passes=(FuseAttention, PackTokens), packs=True),
    Form(name="attention", passes=(FuseAttention,)),
    Form(
        name="fused",
        passes=(FuseMultiHeadAttention, FuseSkipLayerNorm, FuseEmbedLayerNorm, FuseBiasGelu, FuseFastGelu),
        standard=False,
    ),
    Form(name="merged", passes=(MergeProjections,)),
)

FORMS: Final = {row.name: row for row in _ROWS}
"""The forms by name. Those that gained most in measurements come first, because the time to measure may run out."""


def _weight_forms(name: str, kind: type[ExplainingPass]) -> dict[str, Form]:
    rows = (
        Form(name=name, passes=(kind,)),
        Form(name=f"{name}-fused", passes=(kind, FuseQuantizedWeights), standard=False, accurate_as=name),
    )
    return {row.name: row for row in rows}


def _and_packed(form: Form) -> tuple[Form, Form]:
    """Return a form, and the same with packed tokens, which is as accurate."""
    packed = replace(
        form, name=f"{form.name}-packed", passes=(*form.passes, PackTokens), packs=True, accurate_as=form.name
    )
    return form, packed


_PREPARES: Final = (EqualizeChannels, CorrectBiases)
_INT8_ROWS: Final = (
    *_and_packed(Form(name="static", prepares=_PREPARES, passes=(QuantizeProducts, QuantizeAttention))),
    *_and_packed(Form(name="static-products", prepares=_PREPARES, passes=(QuantizeProducts,))),
    *_and_packed(Form(name="dynamic", passes=(QuantizeDynamically,))),
)

INT8_FORMS: Final = {row.name: row for row in _INT8_ROWS}
"""The forms of int8 graphs by name. The first of several that are as fast as each other is taken."""

WEIGHTS_8: Final = _weight_forms("weights-8", QuantizeWeightsTo8)
WEIGHTS_4: Final = _weight_forms("weights-4", QuantizeWeightsTo4)
"""The forms of graphs with weights in 8 and 4 bits, and no scales for activations."""

_SYMMETRIC: Final = (
    Form(name="static-symmetric", passes=(QuantizeProducts,), rounds_to=INT8),
    Form(name="static-float8", passes=(QuantizeProducts,), rounds_to=FP8),
)
STATIC_SYMMETRIC, STATIC_FLOAT8 = ({row.name: row} for row in _SYMMETRIC)
"""The forms of int8 and fp8 graphs for TensorRT, which takes no zero points but 0. Attention stays in fp16, because
TensorRT-RTX fuses none whose queries and keys are rounded."""

_UNPACKED_BY_KERNELS: Final = (
    Form(name="weights-8-columns", passes=(QuantizeColumnsTo8,)),
    Form(name="weights-4-blocks", passes=(QuantizeBlocksOf64To4,)),
)
WEIGHTS_8_COLUMNS, WEIGHTS_4_BLOCKS = ({row.name: row} for row in _UNPACKED_BY_KERNELS)
"""The forms of graphs for TensorRT with weights in 8 and 4 bits, and no scales for activations. TensorRT-RTX multiplies
in one kernel with such weights: in 8 bits if a column has one scale, and in 4 bits if it is in blocks of 64 or 128."""

TENSORRT_FORMS: Final = {**STATIC_SYMMETRIC, **STATIC_FLOAT8, **WEIGHTS_8_COLUMNS, **WEIGHTS_4_BLOCKS}
"""The forms of quantized graphs for TensorRT by name."""

ALL_FORMS: Final = {**FORMS, **INT8_FORMS, **WEIGHTS_8, **WEIGHTS_4, **TENSORRT_FORMS}
"""Every form by name."""

EMBEDDINGS: Final = (QuantizeEmbeddings,)
"""The passes that a quantized form ends with if embeddings are to be quantized, too."""


def forms_with_embeddings(forms: Mapping[str, Form]) -> dict[str, Form]:
    """Return these forms, quantized ones, with their embeddings in 8 bits, too."""
    return {name: replace(form, passes=(*form.passes, *EMBEDDINGS)) for name, form in forms.items()}


def write_form(
    model: ir.Model, form: Form, traits: GraphTraits, *, context: Context | None = None, allow_partial: bool = False
) -> ir.Model:
    """Return a copy of `model` in another form, which shares the weights.

    `context` holds what a quantized form needs. Raises PassError if a pass fuses less than its formula says, unless
    `allow_partial` is set.
    """
    written = model.clone()
    context = context or Context()
    for prepare in form.prepares:
        prepare.configure(written, context)(written)
    for kind in form.passes:
        step = kind.configure(written, context)
        step(written)
        shortage = shortage_from_model(written, step, traits)
        if shortage is not None and not allow_partial:
            raise PassError(f"--optimize {form.name}: {shortage}")
    return written


def reasons_without_effect(form: Form, traits: GraphTraits) -> Sequence[str]:
    """Return the reasons why none of the form's passes changes such a graph; empty if one does."""
    passes = [kind() for kind in form.passes]
    if any(step.expected(traits) != 0 for step in passes):
        return []
    return [reason for step in passes for reason in step.exceptions(traits)]
