"""What one request may ask of a server at most, and leave there.

What a user asks of a `pipeline` on their own machine has no limits. The bytes of a request do not limit its work: the
few bytes of `"top_k": 5000000` may cost minutes.
"""

import warnings
from collections.abc import Mapping
from typing import Any, Final

from rpln_runtime.errors import InputError

MOST_IN_ANSWERS: Final[Mapping[str, int]] = {
    "top_k": 1_000,
    "max_answer_len": 1_000,
    "targets": 1_000,
    "ignore_labels": 1_000,
}
"""The largest number, or the most entries of a list, that an option of a task with answers may have."""

MOST_IN_GENERATION: Final[Mapping[str, int]] = {
    "bad_words_ids": 256,
    "stop_strings": 64,
    "stop_token_ids": 64,
}
"""The most entries of options of generating text that are looked at for each new token."""

SEQUENCES: Final = ("num_beams", "num_return_sequences")
"""The options of generating text that say how many sequences of a prompt run together: at most a batch."""

MOST_DECODED: Final = 10_000
"""The most texts of the answers to a request that are decoded one by one, each in about a tenth of a millisecond."""

MOST_LETTERS: Final = 1_000
"""The most letters of a sentence for a client, which may quote what the client sent."""


def cut_sentence(sentence: str) -> str:
    """Return a sentence for a client, cut if it is long."""
    return sentence if len(sentence) <= MOST_LETTERS else f"{sentence[:MOST_LETTERS]} ..."


def check_request_options(options: Mapping[str, Any], most: Mapping[str, int]) -> None:
    """Raise InputError for an option of a request that is larger, or has more entries, than `most` allows.

    Values of other types than numbers and lists are left to the checks of the options.
    """
    for name, limit in most.items():
        value = options.get(name)
        if isinstance(value, list) and len(value) > limit:
            raise InputError(f"{name} has {len(value):,} entries, and a server takes at most {limit:,} in a request.")
        if isinstance(value, int) and value > limit:
            raise InputError(f"{name} is {value:,}, and a server takes at most {limit:,} in a request.")


def check_decoded(count: int) -> None:
    """Raise InputError for a request whose answers have `count` decoded texts, if that is more than MOST_DECODED."""
    if count > MOST_DECODED:
        raise InputError(
            f"the masks times top_k are {count:,} tokens to fill in, and a server takes at most {MOST_DECODED:,} "
            "together: send fewer masks, or lower top_k."
        )


def check_sequences(options: Mapping[str, Any], batch_size: int) -> None:
    """Raise InputError for options of a request that ask for more than `batch_size` sequences of a prompt."""
    for name in SEQUENCES:
        value = options.get(name)
        if isinstance(value, int) and value > batch_size:
            raise InputError(
                f"{name} is {value:,}, and this server runs at most {batch_size:,} sequences together (--batch-size)."
            )


def ignore_warnings() -> None:
    """Let the post-processing warn of nothing in this process.

    Python keeps the text of every warning for ever, and such a text holds what a client sent.
    """
    warnings.filterwarnings("ignore", module=r"rpln_runtime\.postprocess\.")
