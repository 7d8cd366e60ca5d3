"""The work of a request: what is too much for a server is refused, with the number and the limit.

Options have limits of their own, in `rpln_runtime.request_limits`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from rpln_runtime.errors import InputError
from rpln_runtime.postprocess.base import Postprocess
from rpln_runtime.postprocess.question_answering import QuestionAnswering
from rpln_runtime.request_limits import check_decoded, check_sequences
from rpln_runtime.serve.bundles import ServedBundle
from rpln_runtime.serve.queues import bytes_of
from rpln_runtime.serve.refusals import Refusal
from rpln_runtime.serve.request_options import bytes_of_options
from rpln_runtime.serve.settings import ServeSettings
from rpln_runtime.tokenization import Encoding
from rpln_runtime.triton.request import Asked

MOST_ROWS: Final = 1024
"""The most rows that an item makes: windows over a long text, or choices. No more rows of several items are in memory
at a time."""
MOST_SPANS: Final = 100_000
"""The most windows of an item times `top_k`, for each of which some spans are read."""
MOST_NUMBERS: Final = 1 << 22
"""The most numbers of a response, which have some 80 MB as JSON."""


def check_tokens(postprocess: Postprocess[Any], encodings: Sequence[Encoding]) -> None:
    """Raise InputError for an item that makes too many rows, or whose answer has too many texts to decode."""
    if len(encodings) > MOST_ROWS:
        raise InputError(
            f"the item makes {len(encodings):,} rows, expected at most {MOST_ROWS:,}: shorten the text, or let windows "
            "share fewer tokens."
        )
    if isinstance(postprocess, QuestionAnswering) and (spans := len(encodings) * postprocess.top_k) > MOST_SPANS:
        raise InputError(
            f"the windows of the item times top_k are {spans:,} spans, expected at most {MOST_SPANS:,}: lower top_k, "
            "or shorten the context."
        )
    check_decoded(sum(map(postprocess.decoded_texts, encodings)))


def check_request(asked: Sequence[Asked], bundle: ServedBundle, settings: ServeSettings, *, batch_size: int) -> None:
    """Raise Refusal for a request with too many items, too much text, or options that it may not have.

    `batch_size` is the most items of the bundle that run together.
    """
    most = min(settings.items, settings.queue)
    if not asked:
        raise Refusal(400, "the request has no items: expected at least one.")
    if len(asked) > most:
        raise Refusal(413, f"the request has {len(asked)} items, expected at most {most}: send several requests.")
    bytes_by_options: dict[int, int] = {}  # many items may share their options
    for place, one in enumerate(asked):
        where = f"item {place}" if len(asked) > 1 else "the item"
        if id(one.options) not in bytes_by_options:
            try:
                bundle.check_options(one.options)
                check_sequences(one.options, batch_size)
            except InputError as error:
                raise Refusal(400, f"{where}: {error}") from error
            bytes_by_options[id(one.options)] = bytes_of_options(one.options)
        _check_texts(one, bytes_by_options[id(one.options)], settings.text_bytes, where)


def _check_texts(asked: Asked, option_bytes: int, most: int, where: str) -> None:
    times = _times(asked.item)
    if times > MOST_ROWS:
        raise Refusal(413, f"{where} has {times:,} texts to choose from, expected at most {MOST_ROWS:,}: send fewer.")
    if (size := _bytes_to_tokenize(asked.item, times) + _bytes_between(asked) + option_bytes) > most:
        what = "text and options" if option_bytes else "text"
        raise Refusal(413, f"{where} has {size:,} bytes of {what}, expected at most {most:,}: split it.")


def _times(item: Any) -> int:
    """Return how often each single text of an item is tokenized: with each of several others, such as choices."""
    parts = item.values() if isinstance(item, Mapping) else ()
    return math.prod(len(part) for part in parts if isinstance(part, list))


def _bytes_to_tokenize(item: Any, times: int) -> int:
    parts = item.values() if isinstance(item, Mapping) else (item,)
    return sum(bytes_of(part) * (1 if isinstance(part, list) else max(times, 1)) for part in parts)


def _bytes_between(asked: Asked) -> int:
    """Return how many bytes stand between the words of an item that comes in words."""
    return len(asked.item) * bytes_of(asked.options.get("delimiter", " ")) if isinstance(asked.item, list) else 0


def check_answers(answers: Sequence[Any], *, padded: bool = False) -> None:
    """Raise Refusal for answers that are too large for a response; `padded` says that all are as long as the longest.

    One number counts for each number of an array, and for each part of a list.
    """
    sizes = [answer.size if isinstance(answer, np.ndarray) else len(answer) for answer in answers]
    if (count := max(sizes) * len(sizes) if padded else sum(sizes)) > MOST_NUMBERS:
        raise Refusal(
            413,
            f"the answers have {count:,} numbers, expected at most {MOST_NUMBERS:,}: send fewer texts, or let them be "
            "pooled.",
        )
