"""The options of generating text. Every value is checked when they are made."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, TypeGuard

from rpln_runtime.errors import InputError
from rpln_runtime.generation.positions import SCHEMES
from rpln_runtime.options import check_boolean, check_choice, check_integer

DEFAULT_NEW_TOKENS: Final = 20
"""The most new tokens where neither the user nor the checkpoint says it, as in transformers."""
SAMPLING: Final = ("temperature", "top_k", "top_p", "min_p", "seed")
"""The options that have an effect only with `do_sample=True`."""
BEAMS: Final = ("length_penalty", "early_stopping")
"""The options that have an effect only with `num_beams` of 2 or more."""
TOKEN_OPTIONS: Final = (
    "bad_words_ids",
    "suppress_tokens",
    "begin_suppress_tokens",
    "forced_bos_token_id",
    "forced_eos_token_id",
)
"""The options that hold ids of tokens, which must be in the vocabulary."""


@dataclass(frozen=True, kw_only=True)
class GenerationOptions:
    """Options of generating text. Names and defaults are those of transformers' `generate`, where it has them.

    Attributes:
        max_new_tokens: the most new tokens. None means what the checkpoint's generation_config.json says, or else 20,
            but no more than there are positions left.
        do_sample: whether to draw tokens by their probability. False takes the likeliest token (greedy search), or the
            likeliest sequences if `num_beams` is more than 1.
        temperature: what logits are divided by before sampling.
        top_k: how many of the likeliest tokens to sample from. 0 means all.
        top_p: the probability that the fewest likeliest tokens to sample from must have together.
        min_p: the least probability of a token to sample from, as a share of the likeliest token's.
        seed: the seed of the random numbers. With a seed, a prompt gets the same text in every batch.
        repetition_penalty: what the logits of earlier tokens, those of the prompt included, are divided by; negative
            logits are multiplied by it.
        no_repeat_ngram_size: no sequence of this many tokens comes twice in a prompt and its new text. 0 means that any
            may. The text that an encoder reads is no part of the prompt.
        bad_words_ids: sequences of tokens that the new text does not contain.
        min_length: the smallest number of tokens that a prompt and its new text have together: until then, no stop
            token is chosen.
        min_new_tokens: the smallest number of new tokens: until then, no stop token is chosen. With None, `min_length`
            has an effect.
        forced_bos_token_id: the token that follows a prompt of one token, such as the start token of an
            encoder-decoder.
        forced_eos_token_id: the token that is the last one where `max_new_tokens` ends a text, or a list of such
            tokens, of which one is chosen.
        suppress_tokens: tokens that are never chosen.
        begin_suppress_tokens: tokens that are not chosen first; behind a `forced_bos_token_id`, not second.
        num_beams: how many continuations of a prompt beam search follows at a time. 1 means no beam search.
        length_penalty: the score of a beam is the sum of its log-probabilities, divided by its number of new tokens to
            this power.
        early_stopping: when the search for a prompt ends. True: when `num_beams` sequences have ended. False: when the
            best open beam would not be better if it ended now. "never": when it could not be better at any length.
        num_return_sequences: how many answers a prompt gets: several samples, or the best beams.
        stop_token_ids: the ids that end a sequence. None means those of the checkpoint.
        stop_strings: one or more texts. A sequence ends with the token that completes one of them in the new text.
        positions: how positions are counted, "forward" or "transformers-generate"; see
            `rpln_runtime.generation.positions`.
        return_full_text: whether an answer begins with its prompt. None means that it does if the decoder continues
            prompts.

    Raises InputError for a value that is out of range, and for one that would have no effect with the others.
    """

    max_new_tokens: int | None = None
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int | None = None
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    bad_words_ids: Sequence[Sequence[int]] | None = None
    min_length: int = 0
    min_new_tokens: int | None = None
    forced_bos_token_id: int | None = None
    forced_eos_token_id: int | Sequence[int] | None = None
    suppress_tokens: Sequence[int] | None = None
    begin_suppress_tokens: Sequence[int] | None = None
    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    num_return_sequences: int = 1
    stop_token_ids: Sequence[int] | None = None
    stop_strings: str | Sequence[str] = ()
    positions: str = "forward"
    return_full_text: bool | None = None

    def __post_init__(self) -> None:
        for name in CHECKS:
            check_option(name, getattr(self, name))
        self._check_combination()

    def _check_combination(self) -> None:
        if self.do_sample and self.num_beams > 1:
            raise InputError(
                f"do_sample is True and num_beams is {self.num_beams}, but beam search does not sample: pass "
                "do_sample=False or num_beams=1."
            )
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        for name, needed in idle_options(vars(self)).items():
            if getattr(self, name) != defaults[name]:
                raise InputError(f"{name} is {getattr(self, name)!r}, which has no effect {needed}.")
        if not self.do_sample and self.num_return_sequences > self.num_beams:
            raise InputError(
                f"num_return_sequences is {self.num_return_sequences}, num_beams is {self.num_beams}: greedy search "
                "finds one sequence and beam search as many as it has beams. Raise num_beams, or pass do_sample=True."
            )

    @property
    def strings(self) -> tuple[str, ...]:
        """The stop strings as a tuple."""
        return (self.stop_strings,) if isinstance(self.stop_strings, str) else tuple(self.stop_strings)

    @property
    def last_tokens(self) -> tuple[int, ...]:
        """The tokens of `forced_eos_token_id`; empty if it is None."""
        forced = self.forced_eos_token_id
        return () if forced is None else (forced,) if isinstance(forced, int) else tuple(forced)

    def check_vocabulary(self, vocab_size: int) -> None:
        """Raise InputError for a token in TOKEN_OPTIONS that is not one of the `vocab_size` ids of the decoder."""
        for name in TOKEN_OPTIONS:
            for token in tokens_of_option(getattr(self, name)):
                check_integer(f"a token of {name}", token, minimum=0, maximum=vocab_size - 1)


def idle_options(options: Mapping[str, Any]) -> dict[str, str]:
    """Return the options that have no effect with the others, by name, and what that depends on."""
    idle: dict[str, str] = {}
    if not options.get("do_sample"):
        idle |= dict.fromkeys(SAMPLING, "without do_sample=True")
    if options.get("num_beams", 1) == 1:
        idle |= dict.fromkeys(BEAMS, "without num_beams of 2 or more")
    if options.get("min_new_tokens") is not None:
        idle["min_length"] = "with min_new_tokens"
    return idle


def tokens_of_option(value: Any) -> list[Any]:
    """Return the ids in the value of one of TOKEN_OPTIONS: an id, a list of ids, a list of lists of ids, or None."""
    if value is None:
        return []
    return [token for part in value for token in tokens_of_option(part)] if is_list(value) else [value]


def check_option(name: str, value: object) -> None:
    """Raise InputError if the option `name` may not have this `value`, whatever the other options are."""
    CHECKS[name](name, value)


Check: TypeAlias = Callable[[str, object], None]


def _integer(minimum: int) -> Check:
    return lambda name, value: check_integer(name, value, minimum=minimum)


def _number(minimum: float, maximum: float) -> Check:
    def check(name: str, value: object) -> None:
        # A bool is an int in Python.
        if isinstance(value, int | float) and not isinstance(value, bool) and minimum <= value <= maximum:
            return
        raise InputError(f"{name} is {value!r}, expected a number from {minimum} to {maximum}.")

    return check


def _or_none(check: Check) -> Check:
    return lambda name, value: None if value is None else check(name, value)


def _check_tokens(name: str, value: object) -> None:
    if not is_list(value):
        raise InputError(f"{name} is {value!r}, expected a list of token ids.")
    for token in value:
        check_integer(f"a token of {name}", token, minimum=0)


def _check_words(name: str, value: object) -> None:
    if not is_list(value):
        raise InputError(f"{name} is {value!r}, expected a list of lists of token ids.")
    for word in value:
        _check_tokens(name, word)
        if not len(word):
            raise InputError(f"{name} holds an empty list, expected lists of one token id or more.")


def _check_token_or_tokens(name: str, value: object) -> None:
    if is_list(value):
        _check_tokens(name, value)
    else:
        check_integer(name, value, minimum=0)


def _check_texts(name: str, value: object) -> None:
    if not isinstance(value, str) and not is_list(value):
        raise InputError(f"{name} is {value!r}, expected a text or a list of texts.")
    for text in (value,) if isinstance(value, str) else value:
        if type(text) is not str or not text:
            raise InputError(f"{name} holds {text!r}, expected texts of one character or more.")


def _check_early_stopping(name: str, value: object) -> None:
    if value != "never" and not isinstance(value, bool):
        raise InputError(f"{name} is {value!r}, expected True, False or 'never'.")


# Within these ranges, no result of a temperature, a penalty or a length overflows fp32.
CHECKS: Final[Mapping[str, Check]] = {
    "max_new_tokens": _or_none(_integer(1)),
    "do_sample": check_boolean,
    "temperature": _number(0.0001, 10000),
    "top_k": _integer(0),
    "top_p": _number(0, 1),
    "min_p": _number(0, 1),
    "seed": _or_none(_integer(0)),
    "repetition_penalty": _number(0.0001, 10000),
    "no_repeat_ngram_size": _integer(0),
    "bad_words_ids": _or_none(_check_words),
    "min_length": _integer(0),
    "min_new_tokens": _or_none(_integer(0)),
    "forced_bos_token_id": _or_none(_integer(0)),
    "forced_eos_token_id": _or_none(_check_token_or_tokens),
    "suppress_tokens": _or_none(_check_tokens),
    "begin_suppress_tokens": _or_none(_check_tokens),
    "num_beams": _integer(1),
    "length_penalty": _number(-10, 10),
    "early_stopping": _check_early_stopping,
    "num_return_sequences": _integer(1),
    "stop_token_ids": _or_none(_check_tokens),
    "stop_strings": _check_texts,
    "positions": lambda name, value: check_choice(name, value, SCHEMES),
    "return_full_text": _or_none(check_boolean),
}
"""A function for each option, which raises InputError for a value that it cannot have."""


def is_list(value: object) -> TypeGuard[Sequence[Any]]:
    """Return whether `value` is a list or a tuple of things, and not a text."""
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)
