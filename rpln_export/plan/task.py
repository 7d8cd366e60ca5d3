"""The task of an export: the one that was asked for, or that of the checkpoint's config, and whether the two fit."""

from transformers import PretrainedConfig

from rpln_export.errors import PlanError
from rpln_export.plan.choices import choose
from rpln_model.composition import PLAIN, Composition
from rpln_runtime.tasks import TASKS, Task


def task_from_choice(name: str | None, composition: Composition, source: str, *, is_decoder: bool) -> Task:
    """Return the row of TASKS called `name`, or, for None, the one that the config of `source` names.

    With `is_decoder`, the config in `composition` is changed to that of a decoder. Raises PlanError for an unknown
    task, and for a network that cannot do the task.
    """
    task = choose(TASKS, name, "task") if name else _task_from_config(composition.config, source)
    if is_decoder:
        _make_decoder(composition, task)
    _check_network(composition, task, source)
    return task


def _task_from_config(config: PretrainedConfig, source: str) -> Task:
    architectures = config.architectures or []
    found = [row for row in TASKS.values() if row.architecture in architectures]
    if not found:
        raise PlanError(
            f"the config of {source} names no task (architectures: {architectures or 'none'}). "
            f"Name one with --task: {', '.join(TASKS)}."
        )
    return found[0]


def _make_decoder(composition: Composition, task: Task) -> None:
    """Change the config to that of a decoder. Raises PlanError for a task that generates no text."""
    if not task.generates:
        raise PlanError(
            f"--is-decoder makes a decoder, which continues texts, but {task.name} continues none. Leave it out, or "
            "choose --task text-generation."
        )
    composition.decoder.is_decoder = True


def _check_network(composition: Composition, task: Task, source: str) -> None:
    """Raise PlanError if the network is not of the kind that the task needs: plain, a decoder, an encoder-decoder."""
    config = composition.decoder
    if composition.kind != PLAIN and not task.encoders:
        raise PlanError(
            f"{source} is an encoder and a decoder, but {task.name} takes a single network. Choose --task "
            "text2text-generation."
        )
    if task.generates and not config.is_decoder:
        raise PlanError(
            f"{source} is no decoder: is_decoder is not set in its config, so each token sees the tokens after "
            f"it. To make it continue texts, add --is-decoder. Otherwise choose another --task than {task.name}."
        )
    if config.add_cross_attention and not task.encoders:
        raise PlanError(
            f"{source} has cross-attention (add_cross_attention), but {task.name} has no encoder to feed it. Choose "
            "--task text2text-generation."
        )
    if task.encoders and not config.add_cross_attention:
        raise PlanError(
            f"{source} is a decoder without cross-attention, so it cannot read from an encoder. Choose --task "
            "text-generation, or a checkpoint with add_cross_attention."
        )
