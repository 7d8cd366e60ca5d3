"""config.pbtxt as Python values, both ways: protobuf's text format as far as Triton's model configurations use it.

A message is a dict, a repeated field a list, the name of an enum's value a `Word`. A map is what it is on the wire, a
list of messages with `key` and `value`.
Source: https://protobuf.dev/reference/protobuf/textformat-spec
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeAlias

from rpln_runtime.triton.errors import RepositoryError

Message: TypeAlias = dict[str, Any]
Schema: TypeAlias = Mapping[str, Any]
"""Fields by name: str, int, float or bool, a set of Words, or a message's own schema; a list of one where repeated."""


class Word(str):
    """A value that stands without quotes."""

    __slots__ = ()


def entries(values: Mapping[str, Any]) -> list[Message]:
    """The map field that holds `values`."""
    return [{"key": key, "value": value} for key, value in values.items()]


def text_from_message(message: Message) -> str:
    """Write `message`, a field a line."""
    return "".join(f"{line}\n" for line in _lines(message))


def message_from_text(text: str, schema: Schema, where: str) -> Message:
    """Read a message. Raises RepositoryError that names `where` and the line of what `schema` has no place for."""
    reader = _Reader(text, where)
    message = reader.message(schema, "")
    if reader.kind != "end":
        raise reader.error(f"found {reader.text!r} after the last field")
    return message


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
_CHARACTERS: Final = {"\\": "\\", '"': '"', "'": "'", "n": "\n", "r": "\r", "t": "\t"}
_TOKEN: Final = re.compile(
    r"""(?P<space>(?:\s+|\#[^\n]*)+)
      | (?P<string>"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')
      | (?P<number>-?\.?[0-9][\w.]*)
      | (?P<word>[A-Za-z_]\w*)
      | (?P<sign>[{}\[\]:,;])""",
    re.VERBOSE,
)
_ESCAPE: Final = re.compile(rb"\\(?:([0-7]{1,3})|(.))", re.DOTALL)


class _Reader:
    """A place in a text: the token that is read next, its kind and its line."""

    def __init__(self, text: str, where: str) -> None:
        self._rest = text
        self._where = where
        self._line = 1
        self.kind = self.text = ""
        self._next()

    def message(self, schema: Schema, name: str) -> Message:
        """The fields up to a brace that closes `name`, or to the end."""
        message: Message = {}
        while self.kind == "word":
            field = self._next()
            if field not in schema:
                raise self.error(f"{name or 'a configuration'} has no field {field!r}: expected {', '.join(schema)}")
            self._field(message, field, schema[field])
            if self.text in {",", ";"}:
                self._next()
        return message

    def error(self, problem: str) -> RepositoryError:
        return RepositoryError(
            f"{self._where}, line {self._line}: {problem}. Correct it, or write the repository anew."
        )

    def _field(self, message: Message, name: str, kind: Any) -> None:
        if isinstance(kind, list):
            message.setdefault(name, []).extend(self._values(name, kind[0]))
        elif name in message:
            raise self.error(f"{name} is given twice")
        else:
            message[name] = self._value(name, kind, separated=self._skip(":"))

    def _values(self, name: str, kind: Any) -> Iterator[Any]:
        separated = self._skip(":")
        if not self._skip("["):
            yield self._value(name, kind, separated=separated)
            return
        while not self._skip("]"):
            yield self._value(name, kind, separated=True)
            if self.text != "]" and not self._skip(","):
                raise self.error(f"found {self.text!r} among the values of {name}, expected a comma or ]")

    def _value(self, name: str, kind: Any, *, separated: bool) -> Any:
        if isinstance(kind, Mapping):
            if not self._skip("{"):
                raise self.error(f"{name} begins with {self.text!r}, expected a brace")
            message = self.message(kind, name)
            if not self._skip("}"):
                raise self.error(f"found {self.text!r} in {name}, expected a field or a closing brace")
            return message
        if not separated:
            raise self.error(f"found {self.text!r} after {name}, expected a colon")
        if kind is str and self.kind == "string":
            return self._string()
        value = _VALUES[kind](self.text) if kind in _VALUES else _word(self.text, kind)
        if value is None:
            expected = _NAMES.get(kind) or f"one of {', '.join(sorted(kind))}"
            raise self.error(f"{name} is {self.text or 'missing'}, expected {expected}")
        self._next()
        return value

    def _string(self) -> str:
        """One string, which may be written as several in a row."""
        parts = []
        while self.kind == "string":
            parts.append(_ESCAPE.sub(_unescaped, self._next()[1:-1].encode()))
        try:
            return b"".join(parts).decode()
        except UnicodeDecodeError as error:
            raise self.error(f"a string is no UTF-8 ({error.reason})") from error

    def _skip(self, sign: str) -> bool:
        found = self.kind == "sign" and self.text == sign
        if found:
            self._next()
        return found

    def _next(self) -> str:
        """Go to the next token and return the text of this one."""
        before = self.text
        if (space := _TOKEN.match(self._rest)) and space.lastgroup == "space":
            self._line += space[0].count("\n")
            self._rest = self._rest[space.end() :]
        match = _TOKEN.match(self._rest)
        if match is None and self._rest:
            raise self.error(f"found {self._rest[0]!r}, which begins no value")
        self.kind, self.text = (str(match.lastgroup), match[0]) if match else ("end", "")
        self._rest = self._rest[len(self.text) :]
        return before


def _unescaped(match: re.Match[bytes]) -> bytes:
    if match[1]:
        return bytes([int(match[1], 8) & 0xFF])
    character = match[2].decode(errors="replace")
    return _CHARACTERS.get(character, match[0].decode(errors="replace")).encode()


def _integer(text: str) -> int | None:
    try:
        return int(text, 0)
    except ValueError:
        return None


def _float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _word(text: str, words: frozenset[str]) -> Word | None:
    return Word(text) if text in words else None


_VALUES: Final[dict[Any, Any]] = {
    str: lambda _: None,
    int: _integer,
    float: _float,
    bool: {"true": True, "false": False}.get,
}
_NAMES: Final[dict[Any, str]] = {str: "a string", int: "an integer", float: "a number", bool: "true or false"}
