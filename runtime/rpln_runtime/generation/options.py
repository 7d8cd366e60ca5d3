"""The options of generating text. Every value is checked when they are made."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from rpln_runtime.errors import InputError
from rpln_runtime.generation.positions import SCHEMES
from rpln_runtime.options import check_boolean, check_choice, check_integer

DEFAULT_NEW_TOKENS: Final = 20
"""The most new tokens where neither the user nor the checkpoint says it, as in transformers."""
SAMPLING: Final = ("temperature", "top_k", "top_p", "min_p", "seed")
"""The options that have an effect only with `do_sample=True`."""
BEAMS: Final = ("length_penalty", "early_stopping")
"""The options that have an effect only with `num_beams` of 2 or more."""


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
    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    num_return_sequences: int = 1
    stop_token_ids: Sequence[int] | None = None
    stop_strings: str | Sequence[str] = ()
    positions: str = "forward"
    return_full_text: bool | None = None

    def __post_init__(self) -> None:
        self._check_ranges()
        self._check_stops()
        self._check_combination()

    def _check_ranges(self) -> None:
        if self.max_new_tokens is not None:
            check_integer("max_new_tokens", self.max_new_tokens, minimum=1)
        if self.seed is not None:
            check_integer("seed", self.seed, minimum=0)
        if self.return_full_text is not None:
            check_boolean("return_full_text", self.return_full_text)
        check_boolean("do_sample", self.do_sample)
        check_integer("top_k", self.top_k, minimum=0)
        check_integer("num_beams", self.num_beams, minimum=1)
        check_integer("num_return_sequences", self.num_return_sequences, minimum=1)
        # Within these ranges, no result overflows fp32.
        _check_number("temperature", self.temperature, minimum=0.0001, maximum=10000)
        _check_number("repetition_penalty", self.repetition_penalty, minimum=0.0001, maximum=10000)
        _check_number("length_penalty", self.length_penalty, minimum=-10, maximum=10)
        _check_number("top_p", self.top_p, minimum=0, maximum=1)
        _check_number("min_p", self.min_p, minimum=0, maximum=1)
        if self.early_stopping != "never" and not isinstance(self.early_stopping, bool):
            raise InputError(f"early_stopping is {self.early_stopping!r}, expected True, False or 'never'.")
        check_choice("positions", self.positions, SCHEMES)

    def _check_stops(self) -> None:
        if self.stop_token_ids is not None and not _is_list(self.stop_token_ids):
            raise InputError(f"stop_token_ids is {self.stop_token_ids!r}, expected a list of token ids.")
        for token in self.stop_token_ids or ():
            check_integer("a token of stop_token_ids", token, minimum=0)
        if not isinstance(self.stop_strings, str) and not _is_list(self.stop_strings):
            raise InputError(f"stop_strings is {self.stop_strings!r}, expected a text or a list of texts.")
        for text in self.strings:
            if type(text) is not str or not text:
                raise InputError(f"stop_strings holds {text!r}, expected texts of one character or more.")

    def _check_combination(self) -> None:
        if self.do_sample and self.num_beams > 1:
            raise InputError(
                f"do_sample is True and num_beams is {self.num_beams}: choose sampling or beam search, not both."
            )
        if not self.do_sample:
            self._check_default(SAMPLING, "do_sample=True")
        if self.num_beams == 1:
            self._check_default(BEAMS, "num_beams of 2 or more")
        if not self.do_sample and self.num_return_sequences > self.num_beams:
            raise InputError(
                f"num_return_sequences is {self.num_return_sequences}, num_beams is {self.num_beams}: greedy search "
                "finds one sequence and beam search as many as it has beams. Raise num_beams, or pass do_sample=True."
            )

    def _check_default(self, names: Sequence[str], needed: str) -> None:
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        for name in names:
            if getattr(self, name) != defaults[name]:
                raise InputError(f"{name} is {getattr(self, name)!r}, which has no effect without {needed}.")

    @property
    def strings(self) -> tuple[str, ...]:
        """The stop strings as a tuple."""
        return (self.stop_strings,) if isinstance(self.stop_strings, str) else tuple(self.stop_strings)


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _check_number(name: str, value: object, *, minimum: float, maximum: float) -> None:
    if isinstance(value, int | float) and not isinstance(value, bool) and minimum <= value <= maximum:
        return
    raise InputError(f"{name} is {value!r}, expected a number from {minimum} to {maximum}.")
