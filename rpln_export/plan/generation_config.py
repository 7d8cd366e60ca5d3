"""generation_config.json: how the checkpoint's texts are generated where the user says nothing.

Older checkpoints have no such file, and the same fields in config.json. FIELDS_OF_MANIFEST, OPTIONS, EXACT and NEUTRAL
are one table, which says what becomes of each field.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from dataclasses import fields as fields_of_class
from pathlib import Path
from typing import Any, Final

from transformers import GenerationConfig

from rpln_export.errors import PlanError
from rpln_model.weights import CONFIG, GENERATION_CONFIG
from rpln_runtime.documents import DocumentError, read_document
from rpln_runtime.errors import InputError
from rpln_runtime.generation.defaults import check_defaults
from rpln_runtime.generation.options import GenerationOptions
from rpln_runtime.limits import OTHER, range_of_field

FIELDS_OF_MANIFEST: Final = (
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
    "decoder_start_token_id",
    "max_new_tokens",
    "max_length",
)
"""The fields that `rpln_export.plan.generation` reads."""
TOKEN_IDS: Final = frozenset(name for name in FIELDS_OF_MANIFEST if name.endswith("_token_id"))
"""Those that are ids of tokens, which a config.json has in its own right."""
OPTIONS: Final = (
    "do_sample",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "no_repeat_ngram_size",
    "bad_words_ids",
    "min_length",
    "min_new_tokens",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "suppress_tokens",
    "begin_suppress_tokens",
    "num_beams",
    "length_penalty",
    "early_stopping",
    "num_return_sequences",
    "stop_strings",
)
"""The fields that are options of the runtime's generator, under the same names."""
EXACT: Final = (
    *("transformers_version", "_from_model_config", "_commit_hash", "_name_or_path"),
    *("use_cache", "cache_implementation", "cache_config", "max_cache_len", "prefill_chunk_size", "low_memory"),
    *("compile_config", "disable_compile", "continuous_batching_config"),
    *("output_attentions", "output_hidden_states", "output_scores", "output_logits", "return_dict_in_generate"),
    *("is_assistant", "num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_confidence_threshold"),
    *("assistant_lookbehind", "target_lookbehind", "assistant_early_exit", "assistant_ensemble_weight"),
    *("prompt_lookup_num_tokens", "max_matching_ngram_size", "speculation_type", "use_mtp"),
    "remove_invalid_values",
)
"""The fields that change no token: they say how tokens are computed, and what else transformers returns."""
NEUTRAL: Final[Mapping[str, Any]] = {
    "encoder_repetition_penalty": 1,
    "encoder_no_repeat_ngram_size": 0,
    "typical_p": 1,
    "epsilon_cutoff": 0,
    "eta_cutoff": 0,
    "num_beam_groups": 1,
    "diversity_penalty": 0,
    "guidance_scale": 1,
    "penalty_alpha": 0,
    "renormalize_logits": False,
    "token_healing": False,
}
"""The values with which fields that are not supported change no token. Other fields have none, but for null."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StatedGeneration:
    """What a checkpoint says about generating text.

    Attributes:
        fields: the fields that are not null.
        file: the name of the file that they are in.
    """

    fields: Mapping[str, Any] = field(default_factory=dict)
    file: str = GENERATION_CONFIG


def read_generation_config(folder: Path) -> StatedGeneration:
    """Return the fields of generation_config.json in `folder`; without that file, those of config.json.

    transformers reads them in this order, too, in both 4.57 and 5. Raises PlanError for a file that is not a JSON
    object.
    """
    if (folder / GENERATION_CONFIG).is_file():
        document = _object_in(folder / GENERATION_CONFIG, cure="or remove it to use config.json")
        return StatedGeneration(fields={name: value for name, value in document.items() if value is not None})
    if (folder / CONFIG).is_file():
        document = _object_in(folder / CONFIG, cure="or save the checkpoint again")
        return StatedGeneration(fields=_fields_of_config(document), file=CONFIG)
    return StatedGeneration()


def _object_in(path: Path, *, cure: str) -> dict[str, Any]:
    try:
        document = read_document(path, OTHER)
    except DocumentError as error:
        raise PlanError(f"{path} is not valid JSON ({error}). Correct it, {cure}.") from error
    if not isinstance(document, dict):
        raise PlanError(f"{path} is not a JSON object. Correct it, {cure}.")
    return document


def _fields_of_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a config.json says about generating text; empty if it says nothing but the ids of tokens.

    For an encoder-decoder, a field counts in the config itself, or else in that of its decoder. Older versions of
    transformers wrote all fields there, with their defaults. So options that have them are left out.
    """
    known = GenerationConfig().to_dict().keys() - set(EXACT)
    found: dict[str, Any] = {}
    for fields in _configs_of_decoder(config):
        found |= {name: fields[name] for name in known & fields.keys() - found.keys() if fields[name] is not None}
    usual: dict[str, Any] = {option.name: option.default for option in fields_of_class(GenerationOptions)}
    usual |= NEUTRAL
    stated = {name: found[name] for name in sorted(found) if name not in usual or found[name] != usual[name]}
    return stated if stated.keys() - TOKEN_IDS else {}


def _configs_of_decoder(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the configs in which a config.json may state fields of generating text, the one that counts first."""
    yield config
    if isinstance(config.get("decoder"), dict):
        yield config["decoder"]


def options_from_stated(stated: StatedGeneration, *, vocab_size: int) -> dict[str, Any]:
    """Return the options of generating text that a checkpoint sets.

    `vocab_size` is that of the decoder. Raises PlanError, which names the field, for values that the runtime's
    generator would refuse.
    """
    fields = stated.fields
    unsupported = unsupported_fields(fields)
    options = {name: fields[name] for name in OPTIONS if name in fields and name not in unsupported}
    limits = range_of_field("defaults")
    try:
        check_defaults(options, vocab_size=vocab_size)
        for name, value in options.items():
            if type(value) is int and not limits.minimum <= value <= limits.maximum:
                raise InputError(f"{name} is {value}, expected at most {limits.maximum}.")
    except InputError as error:
        raise PlanError(f"{stated.file} cannot be followed: {error} Correct it there.") from error
    return options


def unsupported_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a generation config with which transformers may write other texts than the runtime."""
    known = {*FIELDS_OF_MANIFEST, *OPTIONS, *EXACT}
    found = {name: value for name, value in fields.items() if name not in known and value != NEUTRAL.get(name)}
    if fields.get("do_sample") is True and fields.get("num_beams", 1) != 1:
        found["num_beams"] = fields["num_beams"]  # the runtime samples without beams
    return found
