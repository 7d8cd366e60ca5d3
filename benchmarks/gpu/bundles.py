"""BUNDLES: what is exported before the GPU is there, one row for each bundle."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from click.testing import CliRunner

from benchmarks.encoder_bundles import write_checkpoint
from benchmarks.gpu.networks import NETWORKS, hankel_model, small
from rpln_runtime.tasks import TASKS

FORMS: Final[Mapping[str, tuple[str, ...]]] = {
    "standard": ("--optimize", "standard"),
    "fused": ("--optimize", "fused"),
    "packed": ("--optimize", "packed"),
}
"""The forms of encoders, and the options that export them."""
TASK_OPTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "feature-extraction": ("--pooling", "none"),  # so that the outputs are those of transformers' own class
}
"""Options that a task needs to be compared."""
CUDA: Final = ("--target", "cuda", "--engine", "none")
ENCODERS: Final = tuple(task.name for task in TASKS.values() if task.postprocess is not None)
DECODERS: Final = ("text-generation", "text2text-generation")


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchBundle:
    """A bundle.

    Attributes:
        name: the name of its folder.
        task: the task that it is exported for.
        network: the name of the network in NETWORKS; None for the embedded checkpoint of the task.
        form: what its graphs are like, as FORMS calls it.
        options: the options of the export.
    """

    name: str
    task: str
    network: str | None
    form: str
    options: tuple[str, ...]


def _row(task: str, form: str, *, network: str | None = None, precision: str = "fp16") -> BenchBundle:
    return BenchBundle(
        name="-".join((network or task, precision, form)),
        task=task,
        network=network,
        form=form,
        options=("--precision", precision, *FORMS[form], *CUDA, *TASK_OPTIONS.get(task, ())),
    )


BUNDLES: Final = (
    *(_row(task, form) for task in ENCODERS for form in ("standard", "fused")),
    *(_row(task, "standard", precision=precision) for task in DECODERS for precision in ("fp32", "fp16")),
    *(_row(NETWORKS["tagger"].task, form, network="tagger") for form in FORMS),
    _row(NETWORKS["writer"].task, "standard", network="writer"),
)


def bundle_named(name: str) -> BenchBundle:
    """Return the row called `name`."""
    return next(row for row in BUNDLES if row.name == name)


def export_bundle(row: BenchBundle, folder: Path, checkpoints: Path, *, rehearsal: bool) -> Path:
    """Export a bundle into `folder`, unless it is there already; its network is kept in `checkpoints`.

    Raises RuntimeError, with what the command printed, for an export that fails.
    """
    from rpln_export.cli import export_command

    destination = folder / row.name
    if destination.exists():
        return destination
    checkpoint: tuple[str, ...] = ()
    if row.network is not None:
        network = small(NETWORKS[row.network]) if rehearsal else NETWORKS[row.network]
        source = checkpoints / row.network
        checkpoint = (str(source if source.exists() else write_checkpoint(hankel_model(network), source)),)
    arguments = [*checkpoint, "--task", row.task, *row.options, "-o", str(destination)]
    result = CliRunner().invoke(export_command, arguments)
    if result.exit_code:
        raise RuntimeError(f"rpln-export {' '.join(arguments)} failed: {result.output}")
    return destination
