"""Which graphs a task is exported as, and what goes in and out of each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from transformers import RobertaPreLayerNormConfig

from rpln_export.choices import choose, choose_all
from rpln_export.errors import PlanError
from rpln_graphs.variants import VARIANTS, Variant
from rpln_model.composition import Composition
from rpln_runtime.tasks import ALL_LOGITS, LAST_LOGITS, Task, Tensor

GRAPH_NAME: Final = "model.onnx"
"""The file of a bundle's only graph, or of its only decoder."""

LOGITS: Final = {"last": LAST_LOGITS, "all": ALL_LOGITS}


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphPlan:
    """One graph of an export: what it is for, its file in the bundle, and all its inputs and outputs, in order."""

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
) -> tuple[GraphPlan, ...]:
    """The graphs asked for, or the task's default one, and the encoder's."""
    steps = _chosen_variants(task, variants)
    before = [] if not task.encoders else [VARIANTS["cross" if composition.encoder is None else "encoder"]]
    optional = choose_all(task.optional_outputs, outputs, f"output of {task.name}")
    given = (*_logits(task, logits), *optional)
    graphs = []
    for variant in (*steps, *before):
        own = (
            variant.inputs
            if variant.standalone
            else (*_graph_inputs(task, inputs, composition.decoder, variant), *variant.inputs)
        )
        made = () if variant.standalone else given
        graphs.append(
            GraphPlan(
                variant=variant,
                path=GRAPH_NAME if steps == [variant] else variant.path,
                inputs=variant.shaped(own),
                outputs=(*variant.shaped(made), *variant.outputs),
            )
        )
    return tuple(graphs)


def _chosen_variants(task: Task, names: Sequence[str]) -> list[Variant]:
    offered = {name: VARIANTS[name] for name in task.variants}
    chosen = [choose(offered, name, f"variant of {task.name}") for name in dict.fromkeys(names or task.variants[:1])]
    for one, other in (("prefill", "decode"), ("decode", "prefill")):
        if offered.get(one) in chosen and offered[other] not in chosen:
            raise PlanError(f"the variant {one} is of no use without {other}: ask for both, --variants prefill,decode.")
    return chosen


def _logits(task: Task, which: str | None) -> tuple[Tensor, ...]:
    """The task's outputs; a decoder's logits are those of the last position unless all are asked for."""
    if which is None:
        return task.outputs
    if LAST_LOGITS not in task.outputs:
        raise PlanError(f"--logits is a choice of decoders: {task.name} needs every logit that it gives.")
    chosen = choose(LOGITS, which, "choice of logits")
    return tuple(chosen if tensor.name == chosen.name else tensor for tensor in task.outputs)


def _graph_inputs(
    task: Task, names: Sequence[str], config: RobertaPreLayerNormConfig, variant: Variant
) -> tuple[Tensor, ...]:
    """The task's inputs, the optional ones asked for, and token_type_ids where the network tells types apart."""
    chosen = list(choose_all(task.optional_inputs, names, f"input of {task.name}"))
    asked = {tensor.name for tensor in chosen}
    if config.type_vocab_size > 1 and "token_type_ids" not in asked:
        chosen[:0] = choose_all(task.optional_inputs, ["token_type_ids"], "input")
    left_out = {tensor.name for tensor in variant.inputs} | ({"input_ids"} if "inputs_embeds" in asked else set())
    return tuple(tensor for tensor in (*task.inputs, *chosen) if tensor.name not in left_out)
