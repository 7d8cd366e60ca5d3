"""How a bundle generates: the checkpoint's token ids, its lengths and options, and where its positions begin."""

from typing import Any

from rpln_export.errors import PlanError
from rpln_export.plan.generation_config import StatedGeneration, options_from_stated
from rpln_model.checkpoints import check_generation_fields
from rpln_model.composition import Composition
from rpln_model.config import padding_row
from rpln_model.weights import GENERATION_CONFIG
from rpln_runtime.limits import range_of_field
from rpln_runtime.manifest import Generation
from rpln_runtime.tasks import Task


def generation_from_checkpoint(
    source: str, composition: Composition, task: Task, stated: StatedGeneration
) -> Generation:
    """Return the ids that sequences begin with, end with and are filled with, how long they get, and other options.

    `stated` are the fields of generation_config.json, which go before the ids in config.json, as in transformers'
    `generate`. Raises PlanError for ids, lengths and options that cannot be, and CheckpointError for other fields that
    transformers refuses.
    """
    config, chosen = composition.decoder, stated.fields

    def token_id(name: str) -> Any:
        return _first_known(chosen.get(name), getattr(composition.config, name, None), getattr(config, name, None))

    ends = token_id("eos_token_id")
    generation = Generation(
        pad_token_id=_first_known(token_id("pad_token_id"), padding_row(config)),
        bos_token_id=token_id("bos_token_id"),
        eos_token_ids=tuple(ends if isinstance(ends, list) else [] if ends is None else [ends]),
        # As in transformers: without a start token, the token that begins every text takes its place.
        start_token_id=_first_known(
            chosen.get("decoder_start_token_id"), composition.start_token_id, token_id("bos_token_id")
        )
        if task.encoders
        else None,
        first_position=padding_row(config) + 1,
        pad_position=padding_row(config),
        max_new_tokens=_length(stated, "max_new_tokens"),
        max_length=_length(stated, "max_length"),
        defaults=options_from_stated(stated, vocab_size=config.vocab_size),
    )
    _check_ids(generation, source, vocab_size=config.vocab_size)
    check_generation_fields(chosen, path=stated.file)
    return generation


def _length(stated: StatedGeneration, name: str) -> int | None:
    """Return the entry called `name`, or None if it is left open. Raises PlanError unless a manifest can hold it."""
    value = stated.fields.get(name)
    limits = range_of_field(name)
    if value is not None and not (type(value) is int and limits.minimum <= value <= limits.maximum):
        raise PlanError(
            f"{name} is {value!r}, expected an integer from {limits.minimum} to {limits.maximum}. Correct it in "
            f"{stated.file}."
        )
    return value


def _check_ids(generation: Generation, source: str, *, vocab_size: int) -> None:
    """Raise PlanError for ids that the decoder has no embedding for, with which a run would fail later or never end."""
    ids = {
        "pad_token_id": (generation.pad_token_id,),
        "bos_token_id": (generation.bos_token_id,),
        "eos_token_id": generation.eos_token_ids,
        "decoder_start_token_id": (generation.start_token_id,),
    }
    for name, values in ids.items():
        for value in values:
            if value is not None and not (type(value) is int and 0 <= value < vocab_size):
                raise PlanError(
                    f"{name} of {source} is {value!r}, but its decoder has embeddings for the ids 0 to "
                    f"{vocab_size - 1}. Correct it in {GENERATION_CONFIG}, or in config.json if it is set there."
                )


def _first_known(*values: Any) -> Any:
    """Return the first of `values` that is not None, or None if there is none."""
    return next((value for value in values if value is not None), None)
