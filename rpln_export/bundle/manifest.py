"""What a bundle holds beside its graphs: the configuration, the tokenizer, and the manifest that describes it all."""

import dataclasses
import importlib.metadata
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import onnx_ir as ir
from transformers import RobertaPreLayerNormConfig

from rpln_export.checkpoint.tokenizer import save_tokenizer
from rpln_export.forms.choice import Choice
from rpln_export.plan.export_plan import ExportPlan
from rpln_export.plan.graphs import GraphPlan
from rpln_graphs.rewriting.base import counts_from_model
from rpln_graphs.save import graph_from_model, precision_from_model
from rpln_model.composition import PLAIN
from rpln_model.config import label_count, padding_row, usable_length
from rpln_model.weights import GENERATION_CONFIG, local_folder
from rpln_runtime.manifest import Axis, Generation, Manifest, Source
from rpln_runtime.tasks import (
    BATCH,
    BATCH_CHOICES,
    CHOICES,
    ENCODER_SEQUENCE,
    MASK_AXIS,
    MASKED_TOKENS,
    PAST,
    SEQUENCE,
    TASKS,
    TOTAL,
)

TOOLS: Final = ("rpln-export", "torch", "transformers", "onnx", "onnx-ir", "onnxscript", "onnxruntime", "tokenizers")


def write_bundle_files(folder: Path, plan: ExportPlan, tokenizer: Any) -> None:
    """Write config.json and generation_config.json, which transformers and Optimum read, and the tokenizer's files."""
    own = plan.composition.config
    config = type(own).from_dict(own.to_dict())
    config.architectures = [_architecture(plan)]
    config.save_pretrained(folder)
    stated = local_folder(plan.source, revision=plan.revision) / GENERATION_CONFIG
    if plan.decodes and stated.is_file():
        shutil.copyfile(stated, folder / GENERATION_CONFIG)
    save_tokenizer(tokenizer, folder)


def _architecture(plan: ExportPlan) -> str:
    """The class that loads config.json: a lone decoder of an encoder-decoder task is a causal LM."""
    lone = plan.task.encoders and plan.composition.kind == PLAIN
    return TASKS["text-generation"].architecture if lone else plan.task.architecture


def describe(
    plan: ExportPlan,
    graphs: Sequence[ir.Model],
    source: Source,
    tokenizer: Any,
    *,
    generation: Generation | None,
    choice: Choice,
) -> Manifest:
    """The manifest of a bundle with the plan's `graphs` and those of `choice`; its validation is still empty."""
    fed = plan.composition.encoder or plan.config
    described = tuple(
        dataclasses.replace(
            graph_from_model(
                graph, variant=planned.variant.name, path=planned.path, values=value_limits(planned, plan)
            ),
            form=choice.form,
            rewritten=choice.rewritten[planned.variant.name],
        )
        for graph, planned in zip(graphs, plan.graphs, strict=True)
    )
    tensors = [tensor for graph in described for tensor in (*graph.inputs, *graph.outputs)]
    axes = {size for tensor in tensors for size in tensor.shape if isinstance(size, str)}
    weights: Counter[str] = Counter()
    passes: Counter[str] = Counter()
    for graph in graphs:
        weights.update(precision_from_model(graph))
        passes.update(counts_from_model(graph))
    for graph in choice.models.values():
        passes |= {name: count for name, count in counts_from_model(graph).items() if name not in passes}
    return Manifest(
        task=plan.task.name,
        graphs=described,
        axes={axis: limits for axis, limits in sorted(axis_limits(plan).items()) if axis in axes},
        usable_length=usable_length(fed),
        vocab_size=fed.vocab_size,
        type_vocab_size=fed.type_vocab_size,
        pad_token_id=padding_row(fed),
        mask_token_id=tokenizer.mask_token_id,
        problem_type=plan.config.problem_type,
        labels=labels_from_config(plan.config) if has_labels(plan) else (),
        precision=weights.most_common(1)[0][0],
        recipe=plan.recipe.name,
        passes=dict(passes),
        target=plan.target.name,
        source=source,
        versions=tool_versions(),
        validation={},
        generation=generation,
        optimization=choice.record,
    )


def has_labels(plan: ExportPlan) -> bool:
    """Whether the task's outputs are scores of the config's classes."""
    return any("num_labels" in tensor.axes for tensor in plan.task.outputs)


def labels_from_config(config: RobertaPreLayerNormConfig) -> tuple[str, ...]:
    """The names of the classes, in order."""
    names = {int(index): name for index, name in (config.id2label or {}).items()}
    return tuple(names[index] for index in range(label_count(config)))


def axis_limits(plan: ExportPlan) -> dict[str, Axis]:
    """The sizes that dynamic axes may have; without a maximum only memory bounds them."""
    usable = plan.limits.usable_length
    encoder = plan.composition.encoder
    pasts = [graph.variant.shortest_past for graph in plan.graphs if graph.variant.shortest_past is not None]
    return {
        BATCH: Axis(minimum=1, maximum=None),
        CHOICES: Axis(minimum=1, maximum=None),
        BATCH_CHOICES: Axis(minimum=1, maximum=None),
        SEQUENCE: Axis(minimum=1, maximum=usable),
        PAST: Axis(minimum=min(pasts, default=0), maximum=usable - 1),
        TOTAL: Axis(minimum=1, maximum=usable),
        MASK_AXIS: Axis(minimum=0, maximum=usable),
        MASKED_TOKENS: Axis(minimum=0, maximum=None),
        ENCODER_SEQUENCE: Axis(minimum=1, maximum=None if encoder is None else usable_length(encoder)),
    }


def value_limits(graph: GraphPlan, plan: ExportPlan) -> dict[str, int]:
    """How many values the integers fed to a graph may take, by input."""
    limits = plan.limits_of(graph)
    return {
        "input_ids": limits.vocab_size,
        "attention_mask": 2,
        "encoder_attention_mask": 2,
        "token_type_ids": limits.type_vocab_size,
        # RoBERTa counts positions from pad_token_id + 1, so its table has that many rows more than usable positions.
        "masked_positions": limits.usable_length,
        "position_ids": limits.usable_length + limits.pad_token_id + 1,
    }


def tool_versions() -> dict[str, str]:
    """The installed versions of what has a part in an export."""
    return {tool: version for tool in TOOLS if (version := _version(tool))}


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
