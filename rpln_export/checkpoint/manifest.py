"""What a runtime must know of a checkpoint: the manifest of graphs that compute its network."""

from collections.abc import Mapping
from typing import Any

from rpln_export.checkpoint.loading import Checkpoint
from rpln_export.checkpoint.tokenizer import feeds_token_types
from rpln_export.plan.export_plan import ExportPlan
from rpln_export.plan.labels import has_labels, labels_from_config
from rpln_model.config import padding_row, usable_length
from rpln_runtime.manifest import Graph, Manifest, Optimization, Sentences


def manifest_from_checkpoint(
    plan: ExportPlan,
    checkpoint: Checkpoint,
    graphs: tuple[Graph, ...],
    *,
    precision: str,
    passes: Mapping[str, int],
    versions: Mapping[str, str],
    optimization: Optimization | None,
) -> Manifest:
    """Return the manifest of `graphs`, which compute the network of `checkpoint`, without files and validation."""
    tokenized_for = plan.composition.encoder or plan.config  # the network that reads the tokenizer's ids
    tensors = [tensor for graph in graphs for tensor in (*graph.inputs, *graph.outputs)]
    axes = {size for tensor in tensors for size in tensor.shape if isinstance(size, str)}
    return Manifest(
        task=plan.task.name,
        graphs=graphs,
        axes={axis: limits for axis, limits in sorted(plan.axes.items()) if axis in axes},
        usable_length=usable_length(tokenized_for),
        vocab_size=tokenized_for.vocab_size,
        type_vocab_size=tokenized_for.type_vocab_size,
        pad_token_id=padding_row(tokenized_for),
        mask_token_id=checkpoint.tokenizer.mask_token_id,
        problem_type=plan.config.problem_type,
        labels=labels_from_config(plan.config, plan.name) if has_labels(plan.task) else (),
        precision=precision,
        recipe=plan.recipe.name,
        passes=dict(passes),
        target=plan.target.name,
        source=checkpoint.source,
        versions=dict(versions),
        validation={},
        generation=plan.generation,
        sentences=_sentences(plan, checkpoint.tokenizer),
        optimization=optimization,
        truncation_side=checkpoint.tokenizer.truncation_side,
        token_types=feeds_token_types(checkpoint.tokenizer),
    )


def _sentences(plan: ExportPlan, tokenizer: Any) -> Sentences | None:
    """Return how texts become vectors. Without a length of its own, the checkpoint has that of its tokenizer."""
    sentences = plan.sentences
    if sentences is None:
        return None
    lengths = [sentences.max_length or int(tokenizer.model_max_length), usable_length(plan.config)]
    return Sentences(
        poolings=sentences.poolings,
        max_length=min(lengths) if sentences.truncates else None,
        prompts=dict(sentences.prompts),
        default_prompt=sentences.default_prompt,
        include_prompt=sentences.include_prompt,
    )
