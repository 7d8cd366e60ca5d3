"""RECIPES: one row per precision: its folds and passes in their order, and the tolerance that the result must meet."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import onnx_ir as ir

from rpln_graphs.forms import (
    FORMS,
    INT8_FORMS,
    STATIC_FLOAT8,
    STATIC_SYMMETRIC,
    WEIGHTS_4,
    WEIGHTS_4_BLOCKS,
    WEIGHTS_8,
    WEIGHTS_8_COLUMNS,
    Form,
)
from rpln_graphs.passes.fold_norm_affine import FoldNormAffine
from rpln_graphs.passes.fold_query_scale import FoldQueryScale
from rpln_graphs.passes.fold_token_types import FoldTokenTypes
from rpln_graphs.passes.lower_precision import LowerPrecision
from rpln_graphs.passes.quantize_weights import OPSET, OPSET_OF_HALF_SCALES
from rpln_graphs.passes.rescale_residual import RescaleResidual
from rpln_graphs.passes.rescale_values import RescaleValues
from rpln_graphs.passes.select_rows import SelectRows
from rpln_graphs.quantization.quantizers import FP8, INT8
from rpln_graphs.rewriting.base import Context, CountingPass, counts_from_model
from rpln_graphs.rewriting.counts import check_count
from rpln_graphs.rewriting.ranges import Ranges
from rpln_graphs.rewriting.traits import GraphTraits
from rpln_graphs.tolerances import NoiseTolerance, RangeTolerance, RoundingTolerance, Tolerance


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """The way from a traced fp32 graph to the graph that is shipped.

    Attributes:
        name: the precision that users ask for, as in `--precision fp16`.
        computes_in: the type of the products, and of the values between the graph's operators.
        stores_in: the type of the weights in the bundle's files; of a quantized graph, of the weights of its layers.
        folds: the exact folds, which run before everything else.
        passes: the passes that change the precision, in order.
        tolerance: the limits that validation accepts.
        target: the row of TARGETS that the graph is written for, unless the user names another.
        note: a remark of the report on how such a graph was proven; empty if there is none.
        forms: the forms that its graphs may have, by name. model.onnx has the first one.
        oldest_opset: the oldest opset that has its operators; 0 where every supported one has them.
    """

    name: str
    computes_in: ir.DataType
    stores_in: ir.DataType
    folds: tuple[type[CountingPass], ...]
    passes: tuple[type[CountingPass], ...]
    tolerance: Tolerance
    target: str
    note: str = ""
    forms: Mapping[str, Form] = field(default_factory=lambda: FORMS)
    oldest_opset: int = 0

    @property
    def standard(self) -> Form:
        """The form of model.onnx."""
        return next(iter(self.forms.values()))

    @property
    def quantizes(self) -> bool:
        """Whether weights of the layers are stored in 8 or 4 bits."""
        return self.stores_in in {ir.DataType.INT8, ir.DataType.INT4, FP8}

    @property
    def measures(self) -> bool:
        """Whether texts are run to measure how far values reach, or how accurate the graph is."""
        return self.lowers or self.quantizes

    @property
    def lowers(self) -> bool:
        """Whether the graph computes in a type that ONNX Runtime's CPU provider does not compute in."""
        return self.computes_in != ir.DataType.FLOAT


FOLDS: Final[tuple[type[CountingPass], ...]] = (FoldTokenTypes, FoldQueryScale, FoldNormAffine, SelectRows)
"""The folds of fp32 graphs: they are exact, and save work in every runtime."""
FOLDS_OF_LOWER: Final[tuple[type[CountingPass], ...]] = (FoldTokenTypes, SelectRows)
"""The folds of fp16 and bf16 graphs. They leave the weights of products as they are: runtimes for these types have the
scale and the LayerNorm's affine in their fused operators anyway, and every fold of weights is one more rounding. They
are the folds of weights in blocks, too: a LayerNorm's scale would make the values of a block unequal.
"""

SHARED: Final = {
    "present.": re.compile(r"(past_key_values|present)\.|.*\.attention\.self\.value\."),
    "cross_key_values.": re.compile(r"cross_key_values\.|.*\.crossattention\.self\.value\."),
}
"""The names of the values that one graph of a decoder passes to another, and of the projections that compute them.

Each key is the beginning of a name: the graphs that have a value with such a name share the ranges of the values that
its pattern matches. An encoder's graph has no `present.`: the names in its self-attention are those of the decoder's,
but the two have nothing to do with each other.
"""

OPSET_OF_FP8: Final = 19
"""The first opset in which QuantizeLinear gives out fp8."""
FP32_TOLERANCE: Final = NoiseTolerance(rms=2.0, largest=3.0, ulps=4.0)
"""The tolerance of fp32: a few times what eager torch itself is from fp64."""
FP16_TOLERANCE: Final = RangeTolerance(difference=2e-2, argmax_agreement=0.995, resolution=2.0**-10)
"""The tolerance of fp16, whose numbers have 10 bits behind the first."""
BF16_TOLERANCE: Final = replace(FP16_TOLERANCE, resolution=2.0**-7)
"""The tolerance of bf16, whose numbers have 7 bits behind the first."""
ROUNDING_TOLERANCE: Final = RoundingTolerance(rms=2.0, largest=3.0, resolution=2.0**-10)
"""The tolerance of int8, int4 and fp8: the factors are those of fp32. The resolution allows for runtimes that round
what the graph leaves in fp32."""
_TO_FP16: Final = (RescaleResidual, RescaleValues, LowerPrecision)
"""The passes of fp16."""
_STATIC: Final = {name: form for name, form in INT8_FORMS.items() if form.calibrated}
_DYNAMIC: Final = {name: form for name, form in INT8_FORMS.items() if not form.calibrated}


def _quantized(
    name: str,
    forms: Mapping[str, Form],
    *,
    computes_in: ir.DataType = ir.DataType.FLOAT,
    stores_in: ir.DataType = INT8,
    folds: tuple[type[CountingPass], ...] = FOLDS,
    passes: tuple[type[CountingPass], ...] = (),
    target: str = "cpu",
    oldest_opset: int = 0,
) -> Recipe:
    return Recipe(
        name=name,
        computes_in=computes_in,
        stores_in=stores_in,
        oldest_opset=oldest_opset,
        folds=folds,
        passes=passes,
        tolerance=ROUNDING_TOLERANCE,
        target=target,
        note="A quantized graph is an approximation. What was compared here, on inputs of every kind, is whether it "
        "rounds as it should; how good it is on texts was measured when it was quantized.",
        forms=forms,
    )


RECIPES: Final = {
    row.name: row
    for row in (
        Recipe(
            name="fp32",
            computes_in=ir.DataType.FLOAT,
            stores_in=ir.DataType.FLOAT,
            folds=FOLDS,
            passes=(),
            tolerance=FP32_TOLERANCE,
            target="cpu",
        ),
        Recipe(
            name="fp16",
            computes_in=ir.DataType.FLOAT16,
            stores_in=ir.DataType.FLOAT16,
            folds=FOLDS_OF_LOWER,
            passes=_TO_FP16,
            tolerance=FP16_TOLERANCE,
            target="cuda",
            note="ONNX Runtime's CPU provider computes most fp16 operators in fp32 and may merge the casts between "
            "them, so the rounding copy was run as well: the same graph, computing in fp32 and rounding to fp16 after "
            "every operator.",
        ),
        Recipe(
            name="bf16",
            computes_in=ir.DataType.BFLOAT16,
            stores_in=ir.DataType.BFLOAT16,
            folds=FOLDS_OF_LOWER,
            passes=(LowerPrecision,),
            tolerance=BF16_TOLERANCE,
            target="cuda",
            note="ONNX Runtime's CPU provider has no bf16 kernels, so the saved graph was not run here; the rounding "
            "copy was: the same graph, computing in fp32 and rounding to bf16 after every operator.",
        ),
        _quantized("int8", INT8_FORMS),
        _quantized("int8-static", _STATIC),
        _quantized("int8-dynamic", _DYNAMIC),
        _quantized("int8-weight-only", WEIGHTS_8, folds=FOLDS_OF_LOWER, oldest_opset=OPSET),
        _quantized("int4", WEIGHTS_4, stores_in=ir.DataType.INT4, folds=FOLDS_OF_LOWER, oldest_opset=OPSET),
        _quantized(
            "int8-tensorrt",
            STATIC_SYMMETRIC,
            computes_in=ir.DataType.FLOAT16,
            passes=_TO_FP16,
            target="tensorrt",
        ),
        _quantized(
            "fp8",
            STATIC_FLOAT8,
            computes_in=ir.DataType.FLOAT16,
            stores_in=FP8,
            passes=_TO_FP16,
            target="tensorrt",
            oldest_opset=OPSET_OF_FP8,
        ),
        _quantized(
            "int8-weight-only-tensorrt",
            WEIGHTS_8_COLUMNS,
            computes_in=ir.DataType.FLOAT16,
            folds=FOLDS_OF_LOWER,
            passes=_TO_FP16,
            target="tensorrt",
            oldest_opset=OPSET_OF_HALF_SCALES,
        ),
        _quantized(
            "int4-tensorrt",
            WEIGHTS_4_BLOCKS,
            computes_in=ir.DataType.FLOAT16,
            stores_in=ir.DataType.INT4,
            folds=FOLDS_OF_LOWER,
            passes=_TO_FP16,
            target="tensorrt",
            oldest_opset=OPSET,
        ),
    )
}


IO_DTYPES: Final = {"fp32": ir.DataType.FLOAT, "fp16": ir.DataType.FLOAT16}
"""The types that float inputs and outputs of a graph may have, by their names on the command line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewrite:
    """A graph that a recipe is to rewrite, its traits, and the function that measures the ranges of its values."""

    model: ir.Model
    traits: GraphTraits
    measure: Callable[[ir.Model], Ranges]


def apply_recipe(
    model: ir.Model,
    recipe: Recipe,
    traits: GraphTraits,
    *,
    folds: Sequence[type[CountingPass]] = (),
    io_dtype: ir.DataType = ir.DataType.FLOAT,
    measure: Callable[[ir.Model], Ranges],
) -> dict[str, int]:
    """Run `folds` and the recipe's passes over `model` in place, and return every pass applied so far with its count.

    `measure` is called before the first calibrated pass, and before another one if the graph has changed since. Raises
    PassError if a pass changes another number of places than its formula says.
    """
    rewrite = Rewrite(model=model, traits=traits, measure=measure)
    apply_recipe_together([rewrite], recipe, folds=folds, io_dtype=io_dtype)
    return counts_from_model(model)


def apply_recipe_together(
    rewrites: Sequence[Rewrite],
    recipe: Recipe,
    *,
    folds: Sequence[type[CountingPass]] = (),
    io_dtype: ir.DataType = ir.DataType.FLOAT,
    allow_partial: bool = False,
) -> None:
    """Run `folds` and the recipe's passes, one after another, over graphs that pass keys and values to each other.

    One graph reads what another writes, so that both must scale and store it in the same way: the range of a value that
    SHARED names is the largest that any of the graphs has for it. With `allow_partial`, folds may change fewer places
    than their formulas say. Raises PassError as `apply_recipe` does.
    """
    measured: Sequence[Ranges] | None = None
    for kind in (*folds, *recipe.passes):
        if kind.calibrated and measured is None:
            measured = _shared([rewrite.measure(rewrite.model) for rewrite in rewrites])
        modified = False
        for rewrite, ranges in zip(rewrites, measured or [{}] * len(rewrites), strict=True):
            step = kind.configure(rewrite.model, Context(dtype=recipe.computes_in, io_dtype=io_dtype, ranges=ranges))
            modified |= step(rewrite.model).modified
            if not (allow_partial and kind in folds):
                check_count(rewrite.model, step, rewrite.traits)
        if modified:
            measured = None


def _shared(measured: Sequence[Ranges]) -> Sequence[Ranges]:
    """Return the ranges of each graph; the range of a shared value is the largest that any graph has for it."""
    shared = [dict(ranges) for ranges in measured]
    for prefix, values in SHARED.items():
        concerned = [ranges for ranges in shared if any(name.startswith(prefix) for name in ranges)]
        largest: dict[str, float] = {}
        for ranges in concerned:
            for name in filter(values.match, ranges):
                largest[name] = max(ranges[name], largest.get(name, 0.0))
        for ranges in concerned:
            ranges.update(largest)
    return shared
