"""Loading: a checkpoint's model, its tokenizer, and where both come from."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rpln_export.checkpoint.byte_pairs import byte_pairs_from_tokenizer
from rpln_export.checkpoint.model import load_model, source_from_plan
from rpln_export.checkpoint.sentences import lower_texts
from rpln_export.checkpoint.tokenizer import load_tokenizer
from rpln_export.plan.export_plan import ExportPlan
from rpln_graphs.text import BytePairs
from rpln_model.config import usable_length
from rpln_runtime.manifest import Source
from rpln_runtime.postprocess import POSTPROCESS
from rpln_runtime.tasks import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A checkpoint that was read.

    Attributes:
        model: the task's model in eager torch, in fp32 and eval mode.
        tokenizer: a fast tokenizer of transformers.
        notes: sentences about what the tokenizer does otherwise than a version of transformers, or than its file.
        source: the checkpoint's name and the SHA-256 of its weights.
        left_out: the names of weights that the network has no place for, where the plan ignores them.
        byte_pairs: the tokenizer as a graph from texts needs it; None where the plan asks for no such graph.
    """

    model: Any
    tokenizer: Any
    notes: tuple[str, ...]
    source: Source
    left_out: tuple[str, ...]
    byte_pairs: BytePairs | None

    @property
    def parameters(self) -> int:
        """The number of the model's parameters; shared ones count once."""
        return sum(parameter.numel() for parameter in self.model.parameters())


def load_checkpoint(plan: ExportPlan) -> Checkpoint:
    """Return the plan's checkpoint, read into memory.

    Raises PlanError for a tokenizer or a head that is missing or does not fit, and rpln_model's CheckpointError or
    ConfigError for broken weights.
    """
    tokenizer, notes = load_tokenizer(
        plan.tokenizer,
        revision=plan.source.revision,
        vocab_size=plan.vocab_size,
        type_vocab_size=plan.config.type_vocab_size if _takes_pairs(plan.task) else 1,
    )
    if plan.sentences and plan.sentences.lower_case:
        lower_texts(tokenizer)
    model, left_out = load_model(plan)
    return Checkpoint(
        model=model,
        left_out=left_out,
        tokenizer=tokenizer,
        notes=(*notes, *_notes_on_prompts(plan), *_notes_on_length(plan, tokenizer)),
        source=source_from_plan(plan),
        byte_pairs=byte_pairs_from_tokenizer(tokenizer, plan) if plan.with_tokenizer else None,
    )


def _notes_on_prompts(plan: ExportPlan) -> Iterator[str]:
    """Yield a sentence if texts get a prompt by default, but not in the graph from texts."""
    if plan.with_tokenizer and plan.sentences and plan.sentences.prompts.get(plan.sentences.default_prompt or ""):
        yield (
            "The graph from texts puts no prompt before them: begin each text with the prompt "
            f"{plan.sentences.default_prompt!r}, which is the default."
        )


def _notes_on_length(plan: ExportPlan, tokenizer: Any) -> Iterator[str]:
    """Yield a sentence if transformers cuts texts to fewer tokens than the network takes, and the bundle does not."""
    length, limit = tokenizer.model_max_length, usable_length(plan.config)
    follows = plan.sentences is not None and plan.sentences.truncates
    states = isinstance(length, int | float)  # transformers takes any value, and fails where it cuts a text
    if plan.task.postprocess is not None and not follows and states and length < limit:
        yield (
            f"model_max_length of the tokenizer is {int(length)}, to which transformers cuts texts where it is asked "
            f"to cut them; the bundle gives the network up to {limit} tokens, as many as it has positions for."
        )


def _takes_pairs(task: Task) -> bool:
    """Return whether an item of the task is a pair of texts, or may be one."""
    return task.postprocess is not None and len(POSTPROCESS[task.postprocess].fields) > 1
