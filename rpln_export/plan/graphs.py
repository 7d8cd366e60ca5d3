"""The graphs that a task is exported as, each with its inputs and outputs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from transformers import RobertaPreLayerNormConfig

from rpln_export.errors import PlanError
from rpln_export.plan.choices import choose, choose_all
from rpln_graphs.variants import VARIANTS, Variant
from rpln_model.composition import Composition
from rpln_runtime.manifest import Graph
from rpln_runtime.tasks import (
    ALL_LOGITS,
    LAST_LOGITS,
    LOGITS_AT_POSITIONS,
    MASKED_LOGITS,
    MASKED_POSITIONS,
    Task,
    Tensor,
)

GRAPH_NAME: Final = "model.onnx"
"""The file of a bundle's only graph, or of its only decoder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Logits:
    """Logits of some of the tokens, which replace the task's own, and the inputs that the graph needs for them."""

    outputs: tuple[Tensor, ...] = ()
    inputs: tuple[Tensor, ...] = ()


_ALL: Final = Logits(outputs=(ALL_LOGITS,))
LOGITS: Final[dict[Tensor, dict[str, Logits]]] = {
    LAST_LOGITS: {"last": Logits(outputs=(LAST_LOGITS,)), "all": _ALL},
    ALL_LOGITS: {
        "all": _ALL,
        "masked": Logits(outputs=(MASKED_LOGITS,)),
        "positions": Logits(outputs=(LOGITS_AT_POSITIONS,), inputs=(MASKED_POSITIONS,)),
    },
}
"""The choices of --logits, by the task's own logits; the first is the default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphPlan:
    """One graph of an export: its variant, its file in the bundle, and all its inputs and outputs, in order."""

    variant: Variant
    path: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


def graph_plans(
    task: Task,
    composition: Composition,
    *,
    variants: Sequence[str],
    inputs: Sequence[str],
    outputs: Sequence[str],
    logits: str | None,
    pooled: bool = False,
) -> tuple[GraphPlan, ...]:
    """Return the graphs that were asked for, or the task's default one, and after them the encoder's, if there is one.

    If they are `pooled`, they give one vector for each text in place of the task's own outputs. Raises PlanError for a
    variant, an input, an output or a choice of logits that the task does not offer.
    """
    chosen = _chosen_variants(task, variants)
    optional = choose_all(task.optional_outputs, outputs, f"output of {task.name}")
    asked = _logits(task, logits)
    if MASKED_LOGITS in asked.outputs and "inputs_embeds" in inputs:
        raise PlanError(
            "--logits masked finds mask tokens by their id, but with inputs_embeds there are no ids. Choose --logits "
            "positions."
        )
    graphs = []
    for variant in chosen:
        shared_inputs = (*_graph_inputs(task, inputs, composition.decoder, variant), *asked.inputs)
        own_outputs = task.outputs_instead if pooled else asked.outputs or task.outputs
        shared_outputs = (*own_outputs, *optional)
        graphs.append(
            GraphPlan(
                variant=variant,
                path=GRAPH_NAME if chosen == [variant] else variant.path,
                inputs=variant.shaped((*shared_inputs, *variant.inputs)),
                outputs=(*variant.shaped(shared_outputs), *variant.outputs),
            )
        )
    return (*graphs, *_encoder_plans(task, composition))


def compiled_variants(task: Task) -> tuple[str, ...]:
    """Return the variants of a decoder that TensorRT compiles; empty for other tasks, whose default is compiled.

    TensorRT's axes are at least 1, so that one graph cannot serve the prompt and the steps.
    """
    rows = [VARIANTS[name] for name in task.variants]
    return tuple(row.name for row in rows if row.cache and not row.not_compiled)


def logits_of_graph(graph: Graph, task: Task) -> str | None:
    """Return the choice of --logits that a bundle's graph was exported with; None where the task offers none."""
    offered = next((LOGITS[tensor] for tensor in task.outputs if tensor in LOGITS), {})
    axes = {tensor.name: tensor.shape[:-1] for tensor in graph.outputs}
    return next((name for name, logits in offered.items() if logits.outputs[0].axes[:-1] == axes["logits"]), None)


def _chosen_variants(task: Task, names: Sequence[str]) -> list[Variant]:
    """Return the variants called `names`, each once, or the task's default one.

    Raises PlanError for a variant that the task does not offer, and for one of two that need each other.
    """
    offered = {name: VARIANTS[name] for name in task.variants}
    chosen = [choose(offered, name, f"variant of {task.name}") for name in dict.fromkeys(names or task.variants[:1])]
    for one, other in (("prefill", "decode"), ("decode", "prefill")):
        if offered.get(one) in chosen and offered[other] not in chosen:
            raise PlanError(f"the variant {one} is of no use without {other}. Ask for both: --variants prefill,decode.")
    return chosen


def _encoder_plans(task: Task, composition: Composition) -> Iterator[GraphPlan]:
    """Yield the graph that runs once, before a decoder's steps, if the task has one."""
    if task.encoders:
        variant = VARIANTS["cross" if composition.encoder is None else "encoder"]
        yield GraphPlan(variant=variant, path=variant.path, inputs=variant.inputs, outputs=variant.outputs)


def _logits(task: Task, which: str | None) -> Logits:
    """Return the logits that were asked for, or the default ones of the task."""
    offered = next((LOGITS[tensor] for tensor in task.outputs if tensor in LOGITS), {})
    if which is None:
        return next(iter(offered.values()), Logits())
    if not offered:
        raise PlanError(
            f"--logits is an option of decoders and of fill-mask, but {task.name} needs all of its logits. Leave it "
            "out."
        )
    return choose(offered, which, "choice of logits")


def _graph_inputs(
    task: Task, names: Sequence[str], config: RobertaPreLayerNormConfig, variant: Variant
) -> tuple[Tensor, ...]:
    """Return the task's inputs, those that were asked for, and token_type_ids where the network has several types."""
    chosen = list(choose_all(task.optional_inputs, names, f"input of {task.name}"))
    asked = {tensor.name for tensor in chosen}
    if config.type_vocab_size > 1 and "token_type_ids" not in asked:
        chosen[:0] = choose_all(task.optional_inputs, ["token_type_ids"], "input")
    left_out = {tensor.name for tensor in variant.inputs} | ({"input_ids"} if "inputs_embeds" in asked else set())
    return tuple(tensor for tensor in (*task.inputs, *chosen) if tensor.name not in left_out)
