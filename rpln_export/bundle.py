"""What a bundle holds beside its graphs: the configuration, the tokenizer, and the manifest that describes it all."""

import importlib.metadata
from pathlib import Path
from typing import Any, Final

import onnx_ir as ir
from transformers import RobertaPreLayerNormConfig

from rpln_export.plan import ExportPlan
from rpln_export.tokenizer import save_tokenizer
from rpln_graphs.passes.base import Network, counts_from_model
from rpln_graphs.save import graph_from_model, precision_from_model
from rpln_graphs.stress import Limits
from rpln_model.config import label_count, padding_row, usable_length
from rpln_runtime.manifest import Axis, Manifest, Source
from rpln_runtime.tasks import BATCH, BATCH_CHOICES, CHOICES, SEQUENCE

TOOLS: Final = ("rpln-export", "torch", "transformers", "onnx", "onnx-ir", "onnxscript", "onnxruntime", "tokenizers")


def write_bundle_files(folder: Path, plan: ExportPlan, tokenizer: Any) -> None:
    """Write config.json, as transformers and Optimum read it, and the tokenizer's files."""
    config = RobertaPreLayerNormConfig.from_dict(plan.config.to_dict())
    config.architectures = [plan.task.architecture]
    config.save_pretrained(folder)
    save_tokenizer(tokenizer, folder)


def describe(plan: ExportPlan, graph: ir.Model, source: Source, tokenizer: Any, *, path: str) -> Manifest:
    """The manifest of a bundle whose one graph is stored at `path`; its validation is still empty."""
    config = plan.config
    described = graph_from_model(graph, variant=plan.variant.name, path=path)
    axes = {
        size for tensor in (*described.inputs, *described.outputs) for size in tensor.shape if isinstance(size, str)
    }
    return Manifest(
        task=plan.task.name,
        graphs=(described,),
        axes={axis: Axis(minimum=1, maximum=axis_maximum(axis, config)) for axis in sorted(axes)},
        usable_length=usable_length(config),
        vocab_size=config.vocab_size,
        type_vocab_size=config.type_vocab_size,
        pad_token_id=padding_row(config),
        mask_token_id=tokenizer.mask_token_id,
        problem_type=config.problem_type,
        labels=labels_from_config(config) if has_labels(plan) else (),
        precision=next(iter(precision_from_model(graph))),
        recipe=plan.recipe.name,
        passes=counts_from_model(graph),
        target=plan.recipe.target,
        source=source,
        versions=tool_versions(),
        validation={},
    )


def has_labels(plan: ExportPlan) -> bool:
    """Whether the task's outputs are scores of the config's classes."""
    return any("num_labels" in tensor.axes for tensor in plan.task.outputs)


def labels_from_config(config: RobertaPreLayerNormConfig) -> tuple[str, ...]:
    """The names of the classes, in order."""
    names = {int(index): name for index, name in (config.id2label or {}).items()}
    return tuple(names[index] for index in range(label_count(config)))


def axis_maximum(axis: str, config: RobertaPreLayerNormConfig) -> int | None:
    """The largest size a dynamic axis may take; None where only memory bounds it."""
    limits = {BATCH: None, CHOICES: None, BATCH_CHOICES: None, SEQUENCE: usable_length(config)}
    return limits[axis]


def network_from_config(config: RobertaPreLayerNormConfig) -> Network:
    """What the passes' formulas depend on. No variant feeds encoder states yet, so no graph has cross-attention."""
    return Network(layers=config.num_hidden_layers, cross_attention=False)


def stress_limits(config: RobertaPreLayerNormConfig) -> Limits:
    """What bounds the stress set's inputs."""
    return Limits(
        usable_length=usable_length(config),
        vocab_size=config.vocab_size,
        type_vocab_size=config.type_vocab_size,
        pad_token_id=padding_row(config),
        sizes={name: getattr(config, name) for name in ("hidden_size", "num_hidden_layers", "num_attention_heads")},
    )


def tool_versions() -> dict[str, str]:
    """The installed versions of what has a part in an export."""
    return {tool: version for tool in TOOLS if (version := _version(tool))}


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
