"""How a bundle generates: the checkpoint's token ids, its lengths, and where its positions begin."""

from typing import Any

from rpln_export.errors import PlanError
from rpln_model.composition import Composition
from rpln_model.config import padding_row
from rpln_model.weights import GENERATION_CONFIG, local_folder
from rpln_runtime.documents import DocumentError, read_document
from rpln_runtime.limits import OTHER
from rpln_runtime.manifest import Generation
from rpln_runtime.tasks import Task


def generation_from_checkpoint(
    source: str, composition: Composition, task: Task, *, revision: str | None
) -> Generation | None:
    """Return the ids that sequences begin with, end with and are filled with, and how long they get.

    Returns None for a task that generates nothing. Raises PlanError for ids and lengths that cannot be.
    """
    if not task.generates:
        return None
    chosen, config = _generation_config(source, revision), composition.decoder

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
        max_new_tokens=_length(chosen, "max_new_tokens"),
        max_length=_length(chosen, "max_length"),
    )
    _check_ids(generation, source, vocab_size=config.vocab_size)
    return generation


def _generation_config(source: str, revision: str | None) -> dict[str, Any]:
    """Return the entries of generation_config.json, which go before those of config.json; empty without that file.

    transformers' `generate` reads them in this order. Raises PlanError for a file that is not a JSON object.
    """
    path = local_folder(source, revision=revision) / GENERATION_CONFIG
    if not path.is_file():
        return {}
    try:
        document = read_document(path, OTHER)
    except DocumentError as error:
        raise PlanError(f"{path} is not valid JSON ({error}). Correct it, or remove it to use config.json.") from error
    if not isinstance(document, dict):
        raise PlanError(f"{path} is not a JSON object. Correct it, or remove it to use config.json.")
    return {name: value for name, value in document.items() if value is not None}


def _length(chosen: dict[str, Any], name: str) -> int | None:
    """Return the entry called `name`, or None if it is left open. Raises PlanError unless it is a positive integer."""
    value = chosen.get(name)
    if value is not None and not (type(value) is int and value > 0):
        raise PlanError(f"{name} is {value!r}, but must be a positive integer. Correct it in {GENERATION_CONFIG}.")
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
