"""The checkpoint's model in eager torch, refused where it lacks weights that the task needs."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rpln_export.checkpoint.adapter import merge_adapter, supplied_by_adapter
from rpln_export.checkpoint.quiet import quiet_transformers
from rpln_export.checkpoint.sentences import sentence_encoder_from_plan
from rpln_export.checkpoint.ties import PROJECTION, tie_as_chosen
from rpln_export.checkpoint.unexpected import check_unexpected
from rpln_export.errors import PlanError
from rpln_export.plan.export_plan import ExportPlan
from rpln_model import HEADS, RobertaPreLayerNormModel, check_finite
from rpln_model.base import BASE_MODEL_PREFIX
from rpln_model.errors import CheckpointError
from rpln_runtime.manifest import Source


def load_model(plan: ExportPlan) -> tuple[Any, tuple[str, ...]]:
    """Return the task's model with the checkpoint's weights, in fp32 and eval mode, and the names of those left out.

    An adapter is merged into the model. Weights are left out only where the plan ignores those that the network has no
    place for. Raises PlanError for such weights otherwise, for an adapter that does not fit, and when the checkpoint
    lacks the head that the task's outputs depend on, unless the plan allows a random head; and rpln_model's
    CheckpointError when weights below the head are missing, broken, or not finite.
    """
    with quiet_transformers():
        model, info = HEADS[plan.task.architecture].from_pretrained(
            plan.source.network,
            config=plan.composition.config,
            revision=plan.source.revision,
            output_loading_info=True,
            ignore_adapter=plan.source.adapter is not None,
        )
    left_out = check_unexpected(info["unexpected_keys"], plan)
    found = set(info["missing_keys"]) - supplied_by_adapter(plan)
    missing = [name for name in model.state_dict() if name in found and not _is_unused(name, plan)]
    if body := [name for name in missing if not _is_in_head(name)]:
        raise CheckpointError(f"{plan.name} is incomplete: it lacks {', '.join(body)}. Fetch it or save it again.")
    if missing and not plan.allow_random_head:
        raise PlanError(_without_head(missing, plan))
    tie_as_chosen(model, plan)
    if plan.source.adapter:
        model = merge_adapter(model, plan.source.adapter, plan)
    if plan.sentences and plan.sentences.poolings:
        assert isinstance(model, RobertaPreLayerNormModel)
        model = sentence_encoder_from_plan(model, plan.sentences)
    check_finite(model)
    return model, left_out


def _without_head(missing: Sequence[str], plan: ExportPlan) -> str:
    """Return the refusal of a checkpoint that lacks these weights of the head."""
    architectures = plan.composition.config.architectures or ["nothing"]
    cure = f"Choose the --task it was trained for (its config says {', '.join(architectures)}),"
    if all(name.endswith(PROJECTION) for name in missing):
        cure = (
            "Its config, or --no-tie, says that this is not the table of word embeddings (tie_word_embeddings). Add "
            "--tie to use that table for both,"
        )
    return (
        f"{plan.name} lacks weights of {plan.task.architecture}: {', '.join(missing)}. {cure} or add "
        "--allow-random-head to export random weights in their place."
    )


def source_from_plan(plan: ExportPlan) -> Source:
    """Return the checkpoint's name and the SHA-256 of its weight files, in the order of their names.

    The files of an adapter come after those of the network: its weights, and the description that says how they are
    merged. Those of layers behind the pooling come last.
    """
    adapter, sentences = plan.source.adapter, plan.sentences
    added = (*(adapter.files if adapter else ()), *(sentences.weight_files if sentences else ()))
    sha256 = sha256_of_weights((*plan.source.network_files, *added))
    return Source(name=plan.name, sha256=sha256, adapter=str(adapter) if adapter else None)


def sha256_of_weights(files: Iterable[Path]) -> str:
    """Return the SHA-256 over the files of a checkpoint's weights, in hexadecimal.

    Raises CheckpointError for a file that cannot be read.
    """
    digest = hashlib.sha256()
    for path in files:
        try:
            with path.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read ({error.strerror}). Check its permissions.") from error
    return digest.hexdigest()


def _is_in_head(name: str) -> bool:
    """Return whether a weight lies above the layers. In an encoder-decoder only the decoder has a head."""
    own = name.removeprefix("decoder.").removeprefix(f"{BASE_MODEL_PREFIX}.")
    return not own.startswith(("embeddings.", "encoder.", "LayerNorm.", "enc_to_dec_proj."))


def _is_unused(name: str, plan: ExportPlan) -> bool:
    """Return whether a weight belongs to a pooler that no output reads; most masked-LM checkpoints lack it."""
    read = any(tensor.name == "pooler_output" for tensor in plan.outputs)
    return name.startswith(("pooler.", "encoder.pooler.")) and not read
