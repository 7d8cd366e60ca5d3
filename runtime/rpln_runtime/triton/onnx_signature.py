"""Names, types and shapes of an ONNX file's inputs and outputs, read off the wire: no onnx package, no weights loaded.

Source: onnx.proto of https://github.com/onnx/onnx and https://protobuf.dev/programming-guides/encoding
"""

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Final, TypeAlias

from rpln_runtime.triton.errors import RepositoryError
from rpln_runtime.triton.pbtxt import Message, Word

Bytes: TypeAlias = mmap.mmap | bytes

_TYPES: Final = {
    1: "TYPE_FP32",
    6: "TYPE_INT32",
    7: "TYPE_INT64",
    8: "TYPE_STRING",
    9: "TYPE_BOOL",
    10: "TYPE_FP16",
    11: "TYPE_FP64",
    16: "TYPE_BF16",
}
_MODEL_GRAPH: Final = 7
_SIDES: Final = {11: "input", 12: "output"}
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_SIZES: Final = {_FIXED64: 8, _FIXED32: 4}


def onnx_signature(path: Path) -> dict[str, list[Message]]:
    """The tensors of `input` and of `output` as a configuration writes them, the batch among their dims; -1 is dynamic.

    Raises RepositoryError for a file that is no ONNX model.
    """
    sides: dict[str, list[Message]] = {side: [] for side in _SIDES.values()}
    try:
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            for start, end in _submessages(data, 0, len(data), _MODEL_GRAPH):
                for number, first, last in _fields(data, start, end):
                    if number in _SIDES:
                        sides[_SIDES[number]].append(_tensor(data[first:last]))
    except (OSError, ValueError, IndexError) as error:
        raise RepositoryError(
            f"{path} cannot be read as an ONNX model ({error}). Write the repository anew."
        ) from error
    if not all(sides.values()):
        raise RepositoryError(f"{path} is no ONNX model with inputs and outputs. Write the repository anew.")
    return sides


def _tensor(info: bytes) -> Message:
    """A ValueInfoProto: name, and type with its tensor type, element type and shape."""
    (name,) = (info[start:end].decode() for start, end in _submessages(info, 0, len(info), 1))
    element, dims = 0, []
    for start, end in _path(info, 0, len(info), 2, 1):
        element = next(value for number, value, _ in _varints(info, start, end) if number == 1)
        for first, last in _path(info, start, end, 2, 1):
            sizes = [value for number, value, _ in _varints(info, first, last) if number == 1]
            dims.append(sizes[0] if sizes else -1)
    return {"name": name, "data_type": Word(_TYPES.get(element, f"element type {element}")), "dims": dims}


def _path(data: Bytes, start: int, end: int, *numbers: int) -> Iterator[tuple[int, int]]:
    """Where the messages lie that one gets to by the fields `numbers`."""
    if not numbers:
        yield start, end
        return
    for first, last in _submessages(data, start, end, numbers[0]):
        yield from _path(data, first, last, *numbers[1:])


def _submessages(data: Bytes, start: int, end: int, wanted: int) -> Iterator[tuple[int, int]]:
    return ((first, last) for number, first, last in _fields(data, start, end) if number == wanted)


def _fields(data: Bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Number, first byte and the one past the last of each field that has a length; others are passed over."""
    return ((number, first, last) for number, kind, first, last in _walk(data, start, end) if kind == _BYTES)


def _varints(data: Bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Number and value of each field that is an integer."""
    return ((number, first, last) for number, kind, first, last in _walk(data, start, end) if kind == _VARINT)


def _walk(data: Bytes, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Number, wire type, and two numbers: where the field lies, or the value of an integer."""
    place = start
    while place < end:
        key, place = _varint(data, place)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, place = _varint(data, place)
            yield number, kind, value, place
            continue
        length = _SIZES.get(kind)
        if kind == _BYTES:
            length, place = _varint(data, place)
        if length is None or place + length > end:
            raise ValueError(f"no field at byte {place}")
        yield number, kind, place, place + length
        place += length


def _varint(data: Bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7
