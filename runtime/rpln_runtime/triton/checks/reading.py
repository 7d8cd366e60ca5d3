"""Reads config.pbtxt with Triton's own protobufs and Google's parser, which the extra `triton` brings.

The parser does not say where a field stands, so `_nodes` reads the text once more, for the lines alone.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, MutableSequence, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

from rpln_runtime.errors import MissingExtraError
from rpln_runtime.installing import extras_command
from rpln_runtime.triton.errors import RepositoryError
from rpln_runtime.triton.pbtxt import Word

MOST_BYTES: Final = 1 << 22
"""The most bytes of a configuration that is read."""

FieldPath: TypeAlias = tuple[str, ...]
"""A place in a configuration: names of fields, and `[KEY]` for an element of a repeated message.

KEY is the `key` of a map, the name of a tensor, step or warm-up request in quotes, or a number that counts from 0.
"""

MESSAGE: Final = Word("{ ... }")
"""The value of a field that holds other fields."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A configuration as a flat table.

    Attributes:
        values: what each field holds: text, a number, a bool, the name of an enum's value, a list of these, or MESSAGE.
        defaults: the same of fields that hold their default, which counts as if they were not there.
        lines: the line of each of these fields, counted from 1.
    """

    values: Mapping[FieldPath, Any]
    defaults: Mapping[FieldPath, Any]
    lines: Mapping[FieldPath, int]

    def line_of(self, path: FieldPath) -> int | None:
        """Return the line of a field, or of the message that it is missing in; None outside of any message."""
        return next((line for end in range(len(path), 0, -1) if (line := self.lines.get(path[:end]))), None)

    def elements(self, name: str) -> list[str]:
        """Return the keys of the elements of a repeated message, with their brackets."""
        return [path[1] for path in self.values if len(path) == 2 and path[0] == name]


def shown_path(path: FieldPath) -> str:
    """Return a path as it stands in messages, such as `instance_group[0].count`."""
    return "".join(part if part.startswith("[") else f".{part}" for part in path).removeprefix(".")


def read_config(file: Path, where: str) -> Config:
    """Return what `file`, which messages name `where`, holds.

    Raises RepositoryError for a file that cannot be read, with the line that the parser refuses, and MissingExtraError
    without the protobufs.
    """
    try:
        with file.open("rb") as stream:
            content = stream.read(MOST_BYTES + 1)
        text = content.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise RepositoryError(f"{where}: it cannot be read ({error})") from error
    if len(content) > MOST_BYTES:
        raise RepositoryError(f"{where}: it has more than {MOST_BYTES:,} bytes, which no configuration needs")
    return config_from_text(text, where)


def config_from_text(text: str, where: str) -> Config:
    """Return what `text` holds. Raises as `read_config` does."""
    message = _model_config()()
    from google.protobuf import text_format

    try:
        text_format.Parse(text, message)
    except text_format.ParseError as error:
        problem = str(error).partition(" : ")[2]  # which the place stands before
        raise RepositoryError(f"{where}, line {error.GetLine()}: {problem.rstrip('.')}") from error
    fields = list(_fields(message, _nodes(_tokens(text)), ()))
    return Config(
        values={path: value.held for path, value, _ in fields if not value.is_default},
        defaults={path: value.held for path, value, _ in fields if value.is_default},
        lines={path: line for path, _, line in fields},
    )


class _Value(NamedTuple):
    held: Any
    is_default: bool = False


_MESSAGE: Final = _Value(MESSAGE)


def _fields(message: Any, nodes: Sequence["_Node"], at: FieldPath) -> Iterator[tuple[FieldPath, _Value, int]]:
    """Yield the path, value and line of each field that `nodes` wrote to `message`."""
    for name in dict.fromkeys(node.name for node in nodes):
        field, value = message.DESCRIPTOR.fields_by_name[name], getattr(message, name)
        written = [node for node in nodes if node.name == name]
        if field.message_type is None:
            yield (*at, name), _plain(field, value), written[0].line
        elif not isinstance(value, MutableSequence):
            yield (*at, name), _MESSAGE, written[0].line
            yield from _fields(value, written[0].nodes or (), (*at, name))
        else:
            blocks = [node for node in written if node.nodes is not None]
            for key, one, node in zip(_keys(value), value, blocks, strict=True):
                yield from _element(one, node, (*at, name, key))


def _element(message: Any, node: "_Node", at: FieldPath) -> Iterator[tuple[FieldPath, _Value, int]]:
    """Yield the fields of an element of a repeated message, but for the name or key that is in its path.

    The value of a map's entry stands for the entry.
    """
    parts = [part for part in node.nodes or () if part.name != _key_field(message)]
    if set(message.DESCRIPTOR.fields_by_name) == {"key", "value"}:
        field = message.DESCRIPTOR.fields_by_name["value"]
        if field.message_type is None:
            yield at, _Value(_named(field, message.value)), node.line
            return
        message, parts = message.value, next((part.nodes or [] for part in parts if part.name == "value"), [])
    yield at, _MESSAGE, node.line
    yield from _fields(message, parts, at)


def _keys(elements: Sequence[Any]) -> Iterator[str]:
    """Yield the part of the path of each element. The second one of a name or key has `, 2` behind it."""
    seen: Counter[str] = Counter()
    for place, element in enumerate(elements):
        field = _key_field(element)
        key = str(place) if field is None else json.dumps(getattr(element, field), ensure_ascii=False)
        seen[key] += 1
        yield f"[{key}]" if seen[key] == 1 else f"[{key}, {seen[key]}]"


def _key_field(element: Any) -> str | None:
    """Return the field that tells elements of a list apart; None where their places do."""
    known = element.DESCRIPTOR.fields_by_name
    # Instance groups have a name, too, but nothing refers to it.
    return None if "kind" in known else next((name for name in ("key", "model_name", "name") if name in known), None)


def _plain(field: Any, value: Any) -> _Value:
    """Return what a field holds, which is no message."""
    if isinstance(value, MutableSequence):
        return _Value([_named(field, one) for one in value], is_default=not value)
    return _Value(_named(field, value), is_default=value == field.default_value and not field.has_presence)


def _named(field: Any, value: Any) -> Any:
    """Return the name of an enum's value, or its number where it has no name; other values as they are."""
    if field.enum_type is None:
        return value
    known = field.enum_type.values_by_number.get(value)
    return Word(value if known is None else known.name)


class _Token(NamedTuple):
    """A part of the text, which begins on `line`."""

    text: str
    line: int


class _Node(NamedTuple):
    """A field as it stands in the text; `nodes` are None where it holds no message."""

    name: str
    line: int
    nodes: "list[_Node] | None"


_TOKEN: Final = re.compile(
    r"""(?P<blank>[\s,;]+|\#[^\n]*) | (?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*') | [\w.+-]+ | [:{}<>\[\]]""",
    re.VERBOSE,
)
_OPENING, _CLOSING = ("{", "<"), ("}", ">", "]")


def _tokens(text: str) -> Iterator[_Token]:
    line = 1
    for match in _TOKEN.finditer(text):
        # A string after a string belongs to the same value, so that strings are told by their quote alone.
        if match["blank"] is None:
            yield _Token('"' if match["string"] else match[0], line)
        line += match[0].count("\n")


def _nodes(tokens: Iterator[_Token]) -> list[_Node]:
    """Return the fields up to the end of their message. The text is one that Google's parser took."""
    nodes: list[_Node] = []
    for name, line in tokens:
        if name in _CLOSING:
            break
        if name == '"':
            continue
        value = next(tokens).text
        if value == ":":
            value = next(tokens).text
        if value in _OPENING:
            nodes.append(_Node(name, line, _nodes(tokens)))
        elif value == "[":
            nodes += _listed(name, line, tokens)
        else:
            nodes.append(_Node(name, line, None))
    return nodes


def _listed(name: str, line: int, tokens: Iterator[_Token]) -> list[_Node]:
    """Return a field for each message of a list, or one for a list of other values."""
    nodes = []
    for token in tokens:
        if token.text == "]":
            break
        if token.text in _OPENING:
            nodes.append(_Node(name, token.line, _nodes(tokens)))
    return nodes or [_Node(name, line, None)]


@cache
def _model_config() -> Any:
    """Return the class of `inference.ModelConfig`, with each of its maps as a list of entries.

    A map keeps the last of several values of a key, as Triton does. A list keeps them all, so that they are noticed.
    """
    try:
        from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
        from tritonclient.grpc import model_config_pb2
    except ImportError as error:
        raise MissingExtraError(
            f"A repository is checked with the protobufs of tritonclient, which are not installed ({error}). Run: "
            f"{extras_command('triton')}"
        ) from error
    file = descriptor_pb2.FileDescriptorProto()
    model_config_pb2.DESCRIPTOR.CopyToProto(file)
    messages = list(file.message_type)
    while messages:
        message = messages.pop()
        message.options.ClearField("map_entry")
        messages += message.nested_type
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("inference.ModelConfig"))
