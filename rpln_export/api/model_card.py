"""The model card of a bundle: README.md, as the Hugging Face hub shows it, made from manifest and report."""

from pathlib import Path
from typing import Final

from huggingface_hub import ModelCard, ModelCardData
from yaml import YAMLError

from rpln_export.api.bundle import Bundle
from rpln_export.bundle.markdown import markdown_from_template
from rpln_export.bundle.pages.running import cpp_program, python_arguments
from rpln_export.checkpoint.finding import find_checkpoint
from rpln_runtime.errors import RplnError

LIBRARY: Final = "onnx"
"""The library that the hub names for a bundle."""
_CACHED: Final = "models--"


def model_card(bundle: Bundle, repo_id: str) -> str:
    """Return the card of `bundle` for the repository `repo_id`: metadata in YAML, and a page in Markdown.

    The base model is named if the checkpoint is in the cache of the hub, and the licence if the checkpoint is found and
    its own card names one. Raises ReportError for a bundle whose report cannot be read.
    """
    report, manifest = bundle.report, bundle.manifest
    checkpoint = _checkpoint(bundle)
    base_model = None if checkpoint is None else _hub_id(checkpoint)
    data = ModelCardData(
        base_model=base_model,
        library_name=LIBRARY,
        license=None if checkpoint is None else _license(checkpoint),
        pipeline_tag=report.task,
        tags=["onnx", "roberta-prelayernorm", "rpln-export", report.recipe],
    )
    page = markdown_from_template(
        "model_card.md.jinja",
        report=report,
        manifest=manifest,
        repo_id=repo_id,
        base_model=base_model,
        arguments=python_arguments(report.task),
        program=cpp_program(report.task, "bundle"),
        measured=[row for row in report.optimization.candidates if row.speedup is not None],
    )
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{page}"))


def _checkpoint(bundle: Bundle) -> Path | None:
    """Return the checkpoint that the bundle was made from; None if it is not at hand."""
    try:
        return find_checkpoint(bundle.path, bundle.manifest)
    except RplnError:
        return None


def _hub_id(checkpoint: Path) -> str | None:
    """Return the hub id of a snapshot in the cache of the hub, whose folder is models--OWNER--NAME/snapshots/REVISION.

    None for a checkpoint that lies elsewhere.
    """
    repository = checkpoint.parents[1].name if len(checkpoint.parents) > 1 else ""
    if checkpoint.parent.name != "snapshots" or not repository.startswith(_CACHED):
        return None
    return repository.removeprefix(_CACHED).replace("--", "/")


def _license(checkpoint: Path) -> str | None:
    """Return the licence that the card of a checkpoint names; None if it has no card, or one that cannot be read."""
    try:
        card = ModelCard.load(checkpoint / "README.md")
    except (OSError, ValueError, YAMLError):
        return None
    found = card.data.get("license")
    return found if isinstance(found, str) else None
