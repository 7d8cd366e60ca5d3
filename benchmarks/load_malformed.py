"""Twenty kinds of requests over HTTP that no server should answer, or fall over."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class Malformed:
    """A request: its body, its path (None: that of the model), and headers."""

    body: bytes
    path: str | None = None
    headers: Sequence[str] = ()


def _infer(**changes: Any) -> bytes:
    """Return a request whose only input is changed."""
    tensor = {"name": "text", "datatype": "BYTES", "shape": [1, 1], "data": ["A text."]} | changes
    return json.dumps({"inputs": [{key: value for key, value in tensor.items() if value is not None}]}).encode()


def _with_options(text: str) -> bytes:
    options = {"name": "options", "datatype": "BYTES", "shape": [1, 1], "data": [text]}
    return json.dumps({"inputs": [*json.loads(_infer())["inputs"], options]}).encode()


def _binary(raw: bytes, announced: int) -> Malformed:
    """Return a request in the binary form, whose header announces so many bytes of data."""
    head = _infer(data=None, parameters={"binary_data_size": announced})
    return Malformed(head + raw, headers=[f"Inference-Header-Content-Length: {len(head)}"])


MALFORMED: Final[dict[str, Callable[[], Malformed]]] = {
    "no body": lambda: Malformed(b""),
    "half of a body": lambda: Malformed(_infer()[:-20]),
    "no JSON": lambda: Malformed(b"text=A+text."),
    "bytes that are no UTF-8": lambda: Malformed(b"\xff" * 1000),
    "a list": lambda: Malformed(b"[]"),
    "no inputs": lambda: Malformed(b"{}"),
    "inputs that are a number": lambda: Malformed(b'{"inputs": 3}'),
    "an empty input": lambda: Malformed(b'{"inputs": [{}]}'),
    "another input": lambda: Malformed(_infer(name="words")),
    "another type": lambda: Malformed(_infer(datatype="INT64", data=[1])),
    "an unknown type": lambda: Malformed(_infer(datatype="TEXT")),
    "more shape than data": lambda: Malformed(_infer(shape=[2, 1])),
    "a negative shape": lambda: Malformed(_infer(shape=[-1, 1])),
    "no batch axis": lambda: Malformed(_infer(shape=[1])),
    "a number for a text": lambda: Malformed(_infer(data=[1.5])),
    "options that are no JSON": lambda: Malformed(_with_options("{")),
    "an unknown option": lambda: Malformed(_with_options('{"stripe": 3}')),
    "more bytes announced than sent": lambda: _binary(b"\x07\x00\x00\x00A text.", 1000),
    "a text that ends too early": lambda: _binary(b"\xff\xff\x00\x00A text.", 11),
    "no such model": lambda: Malformed(_infer(), path="/v2/models/nobody/infer"),
}
"""The kinds, each a function that makes the request."""
