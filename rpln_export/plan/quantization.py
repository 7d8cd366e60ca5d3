"""The choices of a quantized export: what its gate asks for, and where int8 runs."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from transformers import RobertaPreLayerNormConfig

from rpln_export.errors import PlanError
from rpln_export.extras import require_extra
from rpln_export.plan.choices import choose
from rpln_export.plan.engines import EngineRequest
from rpln_export.plan.gate import check_gate
from rpln_export.plan.targets import Target
from rpln_graphs.forms import forms_with_embeddings
from rpln_graphs.passes.quantize_weights import QuantizeWeights
from rpln_graphs.recipes import RECIPES, Recipe
from rpln_runtime.tasks import Task

DEFAULT_AGREEMENT: Final = 0.99
"""The share of equal decisions that the gate asks for unless the user does."""
AGREEMENT_OF_WORDS: Final = 0.9
"""The same for tasks that generate text: each decision is one among thousands of words, several of which often fit."""

WEIGHT_ONLY: Final = ("int8-weight-only", "int4", "int8-weight-only-tensorrt", "int4-tensorrt")
"""The recipes that leave activations as they are. Steps of a decoder read few rows, so that weights are what counts."""
TENSORRT: Final = "tensorrt"
"""The target whose graphs TensorRT compiles."""
COMPILED: Final = {
    "int8": "int8-tensorrt",
    "int8-static": "int8-tensorrt",
    "int8-weight-only": "int8-weight-only-tensorrt",
    "int4": "int4-tensorrt",
}
"""The recipes that stand for others where TensorRT compiles the graph: it takes no zero points but 0, and its kernels
unpack weights as they multiply only if these are laid out as they want it."""


def recipe_from_choice(precision: str, task: Task, *, target: str | None, engines: EngineRequest) -> Recipe:
    """Return the row of RECIPES called `precision`; of int8 and int4, the row that suits the task and what runs it.

    `target` is the row of TARGETS that the user named, if any. Raises PlanError for a name that is no row's.
    """
    recipe = choose(RECIPES, precision, "precision")
    if recipe.name == "int8" and task.generates:
        recipe = RECIPES[WEIGHT_ONLY[0]]
    compiled = engines.asked_for if target is None else target == TENSORRT
    return RECIPES[COMPILED[recipe.name]] if compiled and recipe.name in COMPILED else recipe


def with_quantized_embeddings(recipe: Recipe) -> Recipe:
    """Return the recipe with forms that have the table of words in 8 bits, too.

    Raises PlanError unless the recipe quantizes, and leaves everything else in fp32.
    """
    if not recipe.quantizes or recipe.lowers:
        raise PlanError(
            f"--quantize-embeddings goes with --int8 and --int4 for CPUs, but this export is in {recipe.name}. Leave "
            "it out."
        )
    return replace(recipe, forms=forms_with_embeddings(recipe.forms))


@dataclass(frozen=True, slots=True, kw_only=True)
class GatePlan:
    """What is asked of the accuracy of quantized graphs.

    Attributes:
        min_agreement: the least share of decisions that they must make as the fp32 network does.
        data: the user's file of examples with right answers; None if there is none.
        max_drop: the most points that the task's metric on these may be worse by; None where it is only shown.
    """

    min_agreement: float = DEFAULT_AGREEMENT
    data: Path | None = None
    max_drop: float | None = None


def gate_from_choices(
    recipe: Recipe, task: Task, *, min_agreement: float | None, data: Path | None, max_drop: float | None
) -> GatePlan:
    """Return what the gate asks for. Raises PlanError for numbers that make no sense, and for a gate without need."""
    given = {"--min-agreement": min_agreement, "--eval": data, "--max-drop": max_drop}
    named = [option for option, value in given.items() if value is not None]
    if named and not recipe.quantizes:
        raise PlanError(
            f"{named[0]} goes with --int8, --int4 and --fp8, but this export is in {recipe.name}. Leave it out."
        )
    check_gate(min_agreement=min_agreement, data=data, max_drop=max_drop)
    if data is not None:
        require_extra("eval")
    default = AGREEMENT_OF_WORDS if task.generates else DEFAULT_AGREEMENT
    return GatePlan(min_agreement=default if min_agreement is None else min_agreement, data=data, max_drop=max_drop)


def check_quantization(recipe: Recipe, task: Task, target: Target) -> None:
    """Refuse what cannot be computed in int8. Raises PlanError."""
    if not recipe.quantizes:
        return
    if task.generates and recipe.name not in WEIGHT_ONLY:
        raise PlanError(
            f"{recipe.name} is for encoders, but {task.name} generates text. Use --int8 weight-only or --int4."
        )
    if target.name != recipe.target:
        raise PlanError(
            f"{recipe.name} does not go with --target {target.name}: its graphs are written for {recipe.target}. "
            "Choose another target or another precision."
        )


def check_blocks(recipe: Recipe, configs: Iterable[RobertaPreLayerNormConfig]) -> None:
    """Refuse networks none of whose weights gives blocks that kernels take. Raises PlanError."""
    kinds = [kind for form in recipe.forms.values() for kind in form.passes if issubclass(kind, QuantizeWeights)]
    sizes = [(config.hidden_size, config.intermediate_size) for config in configs]
    shapes = [shape for hidden, inner in sizes for shape in ((hidden, hidden), (hidden, inner), (inner, hidden))]
    if kinds and all(kind.size_of_blocks(shape) is None for kind in kinds for shape in shapes):
        found = " and ".join(
            f"a hidden_size of {hidden} with an intermediate_size of {inner}" for hidden, inner in sizes
        )
        raise PlanError(
            f"{recipe.name} stores weights in blocks, and {found} give none that kernels take. Export in another "
            "precision, such as --fp16."
        )
