"""Buckets: the lengths that rows are padded to, because Triton's dynamic batcher joins only requests of equal shapes.

Without them, 400 texts of different lengths are 400 batches.
"""

from collections.abc import Sequence
from itertools import takewhile
from typing import Final

from rpln_runtime.errors import InputError
from rpln_runtime.options import check_integer
from rpln_runtime.triton.digits import number_from_text

_SMALLEST: Final = 32


def lengths_from_text(text: str) -> tuple[int, ...]:
    """Return the lengths that `text` holds, with commas between them. Raises InputError for other text."""
    parts = text.split(",")
    lengths = tuple(length for part in parts if (length := number_from_text(part)) is not None)
    if len(lengths) < len(parts):
        raise InputError(f"buckets are {text!r}, expected lengths in tokens, such as 32,64,128.")
    return lengths


def default_buckets(limit: int) -> list[int]:
    """Return powers of two from 32 up to `limit` tokens, and `limit`: padding then at most doubles the work."""
    powers = (_SMALLEST << shift for shift in range(limit.bit_length()))
    return [*takewhile(lambda length: length < limit, powers), limit]


def check_buckets(buckets: Sequence[int], limit: int) -> None:
    """Raise InputError unless `buckets` are rising lengths that end with `limit`, the longest row of the model."""
    for bucket in buckets:
        check_integer("a bucket", bucket, minimum=1, maximum=limit)
    if list(buckets) != sorted(set(buckets)) or not buckets or buckets[-1] != limit:
        raise InputError(
            f"buckets are {', '.join(map(str, buckets))}: expected rising lengths in tokens that end with {limit}, the "
            "longest row of this model."
        )


def bucket_of(length: int, buckets: Sequence[int]) -> int:
    """Return the smallest bucket that is as long as `length`, or `length` where none is."""
    return next((bucket for bucket in buckets if bucket >= length), length)


def power_of_two(count: int) -> int:
    """Return the smallest power of two that is `count` or more; 1 for a count of 0."""
    return 1 << max(count - 1, 0).bit_length()
