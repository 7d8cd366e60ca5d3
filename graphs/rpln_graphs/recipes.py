"""RECIPES: one row per precision and target: which passes, in which order, and what counts as equal afterwards."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import onnx_ir as ir

from rpln_graphs.passes.fold_norm_affine import FoldNormAffine
from rpln_graphs.passes.fold_query_scale import FoldQueryScale
from rpln_graphs.passes.fold_token_types import FoldTokenTypes
from rpln_graphs.passes.lower_precision import LowerPrecision
from rpln_graphs.passes.rescale_residual import RescaleResidual
from rpln_graphs.passes.rescale_values import RescaleValues
from rpln_graphs.passes.select_rows import SelectRows
from rpln_graphs.rewriting.base import Context, CountingPass, counts_from_model
from rpln_graphs.rewriting.counts import check_count
from rpln_graphs.rewriting.ranges import Ranges
from rpln_graphs.rewriting.traits import GraphTraits


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """What validation accepts: the largest difference, and the share of equal argmaxes where that is asked for.

    `relative_to_range` measures the difference against the largest magnitude of the reference output. `resolution` is
    the spacing of the type's numbers relative to that: candidates closer than it are a tie that the type cannot tell
    apart, and no argmax of theirs is counted.
    """

    difference: float
    relative_to_range: bool = False
    argmax_agreement: float | None = None
    resolution: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a traced fp32 graph becomes the one that is shipped.

    Attributes:
        name: the precision that users ask for, as in `--precision fp16`.
        computes_in: the type of the products, which is the type of what flows between the graph's operators.
        stores_in: the type that weights have in the bundle's files.
        folds: the exact folds that come before everything else.
        passes: the passes that change the precision, in order.
        tolerance: what validation accepts.
        target: the row of TARGETS that the graph is written for, unless the user names another.
        note: what the report says of how such a graph was proven; empty where there is nothing to add.
    """

    name: str
    computes_in: ir.DataType
    stores_in: ir.DataType
    folds: tuple[type[CountingPass], ...]
    passes: tuple[type[CountingPass], ...]
    tolerance: Tolerance
    target: str
    note: str = ""

    @property
    def lowers(self) -> bool:
        """Whether the graph computes in a type that ONNX Runtime's CPU provider does not compute in."""
        return self.computes_in != ir.DataType.FLOAT


FOLDS: Final[tuple[type[CountingPass], ...]] = (FoldTokenTypes, FoldQueryScale, FoldNormAffine, SelectRows)
"""Folds that are exact and save work whatever runs the graph."""
FOLDS_OF_LOWER: Final[tuple[type[CountingPass], ...]] = (FoldTokenTypes, SelectRows)
"""The folds of fp16 and bf16 graphs, which leave the weights as they are: what runs such graphs has the scale and the
LayerNorm's affine in its fused operators anyway, and every fold of weights is one more rounding."""

SHARED: Final = {
    "present.": re.compile(r"(past_key_values|present)\.|.*\.attention\.self\.value\."),
    "cross_key_values.": re.compile(r"cross_key_values\.|.*\.crossattention\.self\.value\."),
}
"""What one graph of a decoder hands to another, and the projections that it comes from, by the name of a value that
such graphs have: the self-attention of an encoder has the names of its decoder's, but nothing to do with it."""

FP16_TOLERANCE: Final = Tolerance(difference=2e-2, relative_to_range=True, argmax_agreement=0.995, resolution=2.0**-10)
BF16_TOLERANCE: Final = replace(FP16_TOLERANCE, resolution=2.0**-7)

RECIPES: Final = {
    row.name: row
    for row in (
        Recipe(
            name="fp32",
            computes_in=ir.DataType.FLOAT,
            stores_in=ir.DataType.FLOAT,
            folds=FOLDS,
            passes=(),
            tolerance=Tolerance(difference=1e-4),
            target="cpu",
        ),
        Recipe(
            name="fp16",
            computes_in=ir.DataType.FLOAT16,
            stores_in=ir.DataType.FLOAT16,
            folds=FOLDS_OF_LOWER,
            passes=(RescaleResidual, RescaleValues, LowerPrecision),
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
    )
}


IO_DTYPES: Final = {"fp32": ir.DataType.FLOAT, "fp16": ir.DataType.FLOAT16}
"""The types that float inputs and outputs of a graph may have, by their names on the command line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewrite:
    """A graph that is to be rewritten, the network that it holds, and what measures the ranges of its values."""

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
    """Run `folds` and the recipe's passes over `model` in place and return every pass applied so far with its count.

    `measure` is called for passes that are calibrated, and again only after the graph has changed. Raises PassError
    when a pass changes another number of places than its formula says.
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
    """Run `folds` and the recipe's passes over graphs that hand keys and values on to one another, pass by pass.

    What one graph writes another reads, so that both must scale and store it alike: the ranges of values that SHARED
    names are the largest of the graphs that have them. Raises PassError as `apply_recipe` does.
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
    """The ranges of each graph, those of shared values being the largest in any."""
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
