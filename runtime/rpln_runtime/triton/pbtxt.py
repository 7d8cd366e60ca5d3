"""Messages written as config.pbtxt: protobuf's text format, as far as Triton's model configurations use it.

A message is a dict, a repeated field is a list, and the name of an enum's value is a `Word`. A map is written as it
travels: a list of messages with `key` and `value`. Reading them back is up to `checks.reading`, with Google's parser.
Source: https://protobuf.dev/reference/protobuf/textformat-spec
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeAlias

Message: TypeAlias = dict[str, Any]


class Word(str):
    """A value that is written without quotes."""

    __slots__ = ()


def entries(values: Mapping[str, Any]) -> list[Message]:
    """Return the map field that holds `values`."""
    return [{"key": key, "value": value} for key, value in values.items()]


def text_from_message(message: Message) -> str:
    """Write `message`, one field a line."""
    return "".join(f"{line}\n" for line in _lines(message))


def _lines(message: Message) -> Iterator[str]:
    for name, value in message.items():
        values = value if isinstance(value, list) else [value]
        if not any(isinstance(one, dict) for one in values):
            written = [_scalar(one) for one in values]
            yield f"{name}: [ {', '.join(written)} ]" if isinstance(value, list) else f"{name}: {written[0]}"
            continue
        for one in values:
            yield f"{name} {{"
            yield from (f"  {line}" for line in _lines(one))
            yield "}"


def _scalar(value: str | float) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str) and not isinstance(value, Word):
        return f'"{"".join(_ESCAPES.get(character) or _visible(character) for character in value)}"'
    return str(value)


def _visible(character: str) -> str:
    return character if character.isprintable() else "".join(f"\\{byte:03o}" for byte in character.encode())


_ESCAPES: Final = {"\\": r"\\", '"': r"\"", "\n": r"\n", "\r": r"\r", "\t": r"\t"}
