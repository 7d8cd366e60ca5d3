"""The Open Inference Protocol over HTTP, with binary tensors: requests become items, and answers become tensors.

Tensors have the names and shapes that `rpln triton` gives them, so that a client cannot tell the servers apart.

Source: https://github.com/kserve/open-inference-protocol and, for binary tensors,
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

import itertools
import json
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
from starlette.responses import Response

from rpln_runtime.postprocess.base import ItemField, item_from_parts
from rpln_runtime.serve.bundles import ServedBundle
from rpln_runtime.serve.exchange import document_of
from rpln_runtime.serve.refusals import Outcome, Refusal
from rpln_runtime.triton.request import OPTIONS, Asked, options_from_text, text_from_bytes
from rpln_runtime.triton.response import COUNT, arrays_from_answers

HEADER: Final = "inference-header-content-length"
"""The header that says where the JSON of a body ends and its binary tensors begin."""
VERSION: Final = "1"
"""The only version of a model."""

_NAMES: Final = {"O": "BYTES", "i": "INT64", "f": "FP32"}
"""The protocol's name of a dtype, by its kind."""
_TYPES: Final = {"TYPE_STRING": "BYTES", "TYPE_INT64": "INT64", "TYPE_FP32": "FP32"}


def metadata(bundle: ServedBundle) -> dict[str, Any]:
    """Return what the protocol says of a model."""
    inputs = [(field.name, -1 if field.several else 1) for field in bundle.fields]
    outputs = [(column.name, _TYPES[column.data_type], [-1] * (2 + column.wide)) for column in bundle.columns]
    return {
        "name": bundle.name,
        "versions": [VERSION],
        "platform": "rpln_runtime",
        "inputs": [
            {"name": name, "datatype": "BYTES", "shape": [-1, width]} for name, width in (*inputs, (OPTIONS, 1))
        ],
        "outputs": [
            {"name": name, "datatype": datatype, "shape": shape}
            for name, datatype, shape in (*outputs, (COUNT, "INT64", [-1, 1]))
        ],
    }


def request_of(body: bytes, header: str | None) -> tuple[dict[str, Any], bytes]:
    """Return the JSON of a body and its binary tensors. `header` is the value of HEADER. Raises Refusal."""
    if header is None:
        return document_of(body), b""
    if not (header.isascii() and header.isdigit() and int(header) <= len(body)):
        raise Refusal(400, f"{HEADER} is {header!r}, expected a number of bytes up to {len(body)}.")
    return document_of(body[: int(header)]), body[int(header) :]


def items_of(document: Mapping[str, Any], binary: bytes, bundle: ServedBundle) -> list[Asked]:
    """Return the items of a request. Raises Refusal for tensors that the model does not have."""
    inputs = document.get("inputs")
    if not isinstance(inputs, list) or not all(isinstance(one, dict) for one in inputs):
        raise Refusal(400, "the request has no list of inputs.")
    known = {field.name: field for field in (*bundle.fields, ItemField(name=OPTIONS, optional=True))}
    rest = iter(_parts(binary, inputs))
    columns: dict[str, list[list[bytes]]] = {}
    for one in inputs:
        name = one.get("name")
        if not isinstance(name, str) or name not in known or name in columns:
            raise Refusal(400, f"unexpected input {name!r}: the model takes {', '.join(known)}, each once.")
        columns[name] = _rows(one, rest, several=known[name].several)
    missing = [name for name, field in known.items() if name not in columns and not field.optional]
    if missing:
        raise Refusal(400, f"the input {missing[0]!r} is missing: the model takes {', '.join(known)}.")
    if len({len(rows) for rows in columns.values()}) > 1:
        raise Refusal(400, "the inputs have different numbers of rows, expected a row of each for every item.")
    options = columns.pop(OPTIONS, None)
    return [
        Asked(
            item_from_parts({name: _part(name, row, known[name]) for name, row in zip(columns, rows, strict=True)}),
            {} if options is None else options_from_text(options[place][0]),
        )
        for place, rows in enumerate(zip(*columns.values(), strict=True))
    ]


def _part(name: str, row: Sequence[bytes], field: ItemField) -> Any:
    texts = [text_from_bytes(value, name) for value in row]
    return texts if field.several else texts[0]


def _parts(binary: bytes, inputs: Sequence[Mapping[str, Any]]) -> list[bytes]:
    """Return the binary data of each input that has some."""
    sizes = [size for one in inputs if (size := _parameters(one).get("binary_data_size")) is not None]
    if any(type(size) is not int or size < 0 for size in sizes) or sum(sizes) != len(binary):
        raise Refusal(400, f"the binary_data_size of the inputs are {sizes}, but {len(binary)} bytes were sent.")
    ends = list(itertools.accumulate(sizes))
    return [binary[end - size : end] for end, size in zip(ends, sizes, strict=True)]


def _rows(one: Mapping[str, Any], rest: Iterator[bytes], *, several: bool) -> list[list[bytes]]:
    """Return the elements of a tensor of texts, row by row."""
    name, shape = one["name"], one.get("shape")
    if one.get("datatype") != "BYTES":
        raise Refusal(400, f"{name} has the datatype {one.get('datatype')!r}, expected 'BYTES'.")
    if not isinstance(shape, list) or len(shape) != 2 or any(type(size) is not int or size < 1 for size in shape):
        raise Refusal(400, f"{name} has the shape {shape!r}, expected [items, {'texts' if several else 1}].")
    if shape[1] != 1 and not several:
        raise Refusal(400, f"{name} has the shape {shape!r}, expected [items, 1].")
    values = list(_binary(next(rest), name)) if "binary_data_size" in _parameters(one) else list(_listed(one))
    if len(values) != math.prod(shape):
        raise Refusal(400, f"{name} has {len(values)} elements, but its shape {shape} has {math.prod(shape)}.")
    return [values[start : start + shape[1]] for start in range(0, len(values), shape[1])]


def _binary(data: bytes, name: str) -> Iterator[bytes]:
    """Yield the elements of a binary tensor of texts, each behind its length."""
    place = 0
    while place < len(data):
        start = place + 4
        size = int.from_bytes(data[place:start], "little")
        place = start + size
        if place > len(data):
            raise Refusal(400, f"{name} ends within an element: expected 4 bytes of length before each.")
        yield data[start:place]


def _listed(one: Mapping[str, Any]) -> Iterator[bytes]:
    """Yield the elements of a tensor in JSON, whose lists may be nested as its shape is."""
    data = one.get("data")
    if not isinstance(data, list):
        raise Refusal(400, f"{one['name']} has no list of data.")
    for value in data:
        if isinstance(value, list):
            yield from _listed({"name": one["name"], "data": value})
        elif isinstance(value, str):
            yield value.encode()
        else:
            raise Refusal(400, f"{one['name']} has an element that is {value!r}, expected a text.")


def response_of(document: Mapping[str, Any], outcomes: Sequence[Outcome], bundle: ServedBundle) -> Response:
    """Return the answers as the tensors that the request asks for, each in JSON or binary. Raises Refusal."""
    arrays = arrays_from_answers([outcome.answer for outcome in outcomes], bundle.columns)
    everywhere = _parameters(document).get("binary_data_output", False)
    wanted = _wanted(document, arrays)
    outputs, blobs = [], []
    for name, parameters in wanted.items():
        array = arrays[name]
        output: dict[str, Any] = {"name": name, "datatype": _NAMES[array.dtype.kind], "shape": array.shape}
        if parameters.get("binary_data", everywhere) is True:
            blobs.append(_bytes(array))
            output["parameters"] = {"binary_data_size": len(blobs[-1])}
        else:
            output["data"] = [value.decode() if isinstance(value, bytes) else value for value in array.ravel().tolist()]
        outputs.append(output)
    named = {"id": document["id"]} if "id" in document else {}
    answer = {"model_name": bundle.name, "model_version": VERSION, **named, "outputs": outputs}
    head = json.dumps(answer, ensure_ascii=False, separators=(",", ":")).encode()
    if not blobs:
        return Response(head, media_type="application/json")
    return Response(b"".join([head, *blobs]), media_type="application/octet-stream", headers={HEADER: str(len(head))})


def check_request(document: Mapping[str, Any], bundle: ServedBundle) -> float | None:
    """Return the seconds that the client gives the request; None if it does not say. Raises Refusal.

    The outputs are checked before anything runs.
    """
    _wanted(document, [*(column.name for column in bundle.columns), COUNT])
    if "id" in document and not isinstance(document["id"], str):
        raise Refusal(400, f"the id is {document['id']!r}, expected a text.")
    timeout = _parameters(document).get("timeout")
    if timeout is None:
        return None
    if type(timeout) is not int or timeout < 0:
        raise Refusal(400, f"timeout is {timeout!r}, expected microseconds.")
    return timeout / 1e6 or None


def _wanted(document: Mapping[str, Any], known: Sequence[str] | Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the parameters of the outputs that a request asks for, by name; all of `known` if it names none."""
    outputs = document.get("outputs") or [{"name": name} for name in known]
    if not isinstance(outputs, list) or not all(isinstance(one, dict) for one in outputs):
        raise Refusal(400, "outputs is no list of objects.")
    for one in outputs:
        if one.get("name") not in list(known):
            raise Refusal(400, f"unexpected output {one.get('name')!r}: the model gives {', '.join(known)}.")
        if "classification" in _parameters(one):
            raise Refusal(400, f"{one['name']} is no tensor of classes: drop the parameter classification.")
    return {one["name"]: _parameters(one) for one in outputs}


def _parameters(document: Mapping[str, Any]) -> Mapping[str, Any]:
    parameters = document.get("parameters", {})
    if not isinstance(parameters, dict):
        raise Refusal(400, f"parameters is {parameters!r}, expected an object.")
    return parameters


def _bytes(array: np.ndarray) -> bytes:
    """Return the elements of an array as the binary extension has them."""
    if array.dtype.kind != "O":
        return array.astype(array.dtype.newbyteorder("<")).tobytes()
    return b"".join(struct.pack("<I", len(value)) + value for value in array.ravel())
