"""The items of a call: one that is refused is named by its place among them."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from rpln_runtime.errors import InputError

_Encoded = TypeVar("_Encoded")


def encode_each(encode: Callable[[Any], _Encoded], items: Sequence[Any]) -> list[_Encoded]:
    """Return what `encode` makes of each of the `items` of a call.

    Raises its InputError for an item that it refuses. Of several items, the message begins with the place of this one,
    as in "inputs[1]".
    """
    if len(items) == 1:
        return [encode(items[0])]
    return [_encoded(encode, item, place) for place, item in enumerate(items)]


def _encoded(encode: Callable[[Any], _Encoded], item: Any, place: int) -> _Encoded:
    try:
        return encode(item)
    except InputError as error:
        raise InputError(f"inputs[{place}]: {error}") from error
