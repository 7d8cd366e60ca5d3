"""Finds the files that an ONNX file keeps its weights in ("external data"), without the onnx package.

Only those parts of the protobuf message are read that can hold a tensor; the weights are skipped. Numbers of fields are
those of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
"""

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Final, TypeAlias

Buffer: TypeAlias = memoryview

_MESSAGES: Final[dict[str, dict[int, str]]] = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
"""For each message, the fields that are messages which may hold a tensor."""
_KEY, _VALUE = 1, 2
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
"""The wire types of protobuf. Groups, which ONNX does not have, are refused."""


class NotOnnxError(ValueError):
    """Raised for a file that is no ONNX model."""


def external_files(path: Path) -> set[str]:
    """Return the paths, relative to the folder of the ONNX file `path`, of the files that hold its tensors.

    Raises NotOnnxError for a file that is no message of protobuf.
    """
    if not path.stat().st_size:
        return set()
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
        memoryview(content) as view,
    ):
        return set(_locations(view))


def _locations(view: Buffer) -> Iterator[str]:
    """Yield the locations in a model. It keeps a list of messages to read: graphs may lie deep inside each other."""
    messages = [("model", 0, len(view))]
    while messages:
        kind, start, stop = messages.pop()
        if kind == "entry":
            entry = {number: bytes(view[begin:end]) for number, begin, end in _fields(view, start, stop)}
            if entry.get(_KEY) == b"location":
                yield entry.get(_VALUE, b"").decode(errors="replace")
            continue
        parts = _MESSAGES[kind]
        fields = _fields(view, start, stop)
        messages += [(parts[number], begin, end) for number, begin, end in fields if number in parts]


def _fields(view: Buffer, at: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """Yield the number of each field of a message that holds bytes, with where these begin and end."""
    while at < stop:
        tag, at = _varint(view, at, stop)
        number, wire = tag >> 3, tag & 7
        if tag >= 1 << 32:
            raise NotOnnxError(f"the field that ends at byte {at} has a number of more than 29 bits")
        if wire == _VARINT:
            _, at = _varint(view, at, stop)
        elif wire == _BYTES:
            size, at = _varint(view, at, stop)
            if size <= stop - at:
                yield number, at, at + size
            at += size
        elif wire in (_FIXED64, _FIXED32):
            at += 8 if wire == _FIXED64 else 4
        else:
            raise NotOnnxError(f"its byte {at} begins no field of protobuf")
        if at > stop:
            raise NotOnnxError(f"a field ends at byte {at}, behind the end of its message, {stop}")


def _varint(view: Buffer, at: int, stop: int) -> tuple[int, int]:
    """Return the number that begins at `at`, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= stop:
            raise NotOnnxError(f"it ends at byte {stop} inside a number")
        byte = view[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise NotOnnxError(f"the number that ends at byte {at} has more than 64 bits")
