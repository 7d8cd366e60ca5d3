"""Lengths that rows are padded to: Triton's dynamic batcher joins requests of equal shapes only.

Of 400 texts of mixed lengths, as they are, it makes 400 batches.
"""

from collections.abc import Sequence
from itertools import takewhile
from typing import Final

from rpln_runtime.errors import InputError
from rpln_runtime.options import check_integer

_SMALLEST: Final = 32


def default_buckets(limit: int) -> list[int]:
    """Powers of two from 32 up to `limit` tokens, and `limit` itself: padding costs less than twice the work."""
    powers = (_SMALLEST << shift for shift in range(limit.bit_length()))
    return [*takewhile(lambda length: length < limit, powers), limit]


def check_buckets(buckets: Sequence[int], limit: int) -> None:
    """Raise InputError unless `buckets` are lengths in rising order, the last one `limit`, the model's own."""
    for bucket in buckets:
        check_integer("a bucket", bucket, minimum=1, maximum=limit)
    if list(buckets) != sorted(set(buckets)) or not buckets or buckets[-1] != limit:
        raise InputError(
            f"buckets are {', '.join(map(str, buckets))}: expected rising lengths in tokens that end with {limit}, the "
            "longest row of this model."
        )


def bucket_of(length: int, buckets: Sequence[int]) -> int:
    """The smallest of `buckets` that holds `length`, or `length` where none does."""
    return next((bucket for bucket in buckets if bucket >= length), length)


def power_of_two(count: int) -> int:
    """The smallest power of two that is `count` or more; 1 for none."""
    return 1 << max(count - 1, 0).bit_length()
