"""What a caller may ask of a generation; every value is checked when the options are made."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from rpln_runtime.errors import InputError
from rpln_runtime.generation.positions import SCHEMES
from rpln_runtime.options import check_boolean, check_choice, check_integer

DEFAULT_NEW_TOKENS: Final = 20
SAMPLING: Final = ("temperature", "top_k", "top_p", "min_p", "seed")
BEAMS: Final = ("length_penalty", "early_stopping")


@dataclass(frozen=True, kw_only=True)
class GenerationOptions:
    """Options of text-generation and text2text-generation; names and defaults are those of transformers' `generate`.

    Attributes:
        max_new_tokens: the most tokens to add to a prompt. None: what the checkpoint's generation_config.json says,
            else 20; of either, as many as there are positions left.
        do_sample: draw tokens by their probability; otherwise the likeliest one is taken (greedy search).
        temperature: what logits are divided by before sampling.
        top_k: sample among so many of the likeliest tokens; 0: among all.
        top_p: sample among the fewest likeliest tokens whose probabilities add up to this.
        min_p: sample among tokens of at least this share of the likeliest one's probability.
        seed: makes sampling repeatable: a prompt then gets the same text, whatever batch it is in.
        repetition_penalty: divides (negative ones: multiplies) the logits of tokens that were there before.
        num_beams: how many continuations beam search follows at once; 1: no beam search.
        length_penalty: a beam's score is its log-probability over its number of new tokens to this power.
        early_stopping: when a prompt's beams are done: True, as soon as `num_beams` have ended; False, when the best
            open one would not win if it ended now; "never", when it could not win at any length.
        num_return_sequences: how many answers a prompt gets: by sampling, or the best beams.
        stop_token_ids: the tokens that end a sequence. None: the model's own.
        stop_strings: a sequence ends with the token that completes one of these in the new text.
        positions: how positions are counted, see `rpln_runtime.generation.positions`.
        return_full_text: whether an answer begins with its prompt. None: for text-generation it does.

    Raises InputError for a value out of range, and for one that would have no effect beside the others.
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
        # Within these, fp32 holds what comes of them.
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
                f"do_sample is True and num_beams is {self.num_beams}: choose sampling, or beam search without it."
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
        """The stop strings, also where there is but one."""
        return (self.stop_strings,) if isinstance(self.stop_strings, str) else tuple(self.stop_strings)


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _check_number(name: str, value: object, *, minimum: float, maximum: float) -> None:
    if isinstance(value, int | float) and not isinstance(value, bool) and minimum <= value <= maximum:
        return
    raise InputError(f"{name} is {value!r}, expected a number from {minimum} to {maximum}.")
