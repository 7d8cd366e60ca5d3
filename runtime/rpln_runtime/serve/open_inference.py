"""The Open Inference Protocol over HTTP, with binary tensors: requests become items, and answers become tensors.

Tensors have the names and shapes that `rpln triton` gives them, so that a client cannot tell the servers apart.

Source: https://github.com/kserve/open-inference-protocol and, for binary tensors,
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

import itertools
import math
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
from starlette.responses import Response

from rpln_runtime.documents import shown
from rpln_runtime.postprocess.base import ItemField, item_from_parts
from rpln_runtime.serve.bundles import ServedBundle
from rpln_runtime.serve.exchange import document_of, json_text
from rpln_runtime.serve.refusals import Outcome, Refusal
from rpln_runtime.serve.work import check_answers
from rpln_runtime.triton.request import OPTIONS, Asked, options_from_text, text_from_bytes
from rpln_runtime.triton.response import COUNT, arrays_from_answers

HEADER: Final = "inference-header-content-length"
"""The header that says where the JSON of a body ends and its binary tensors begin."""
VERSION: Final = "1"
"""The only version of a model."""

_LENGTH: Final = re.compile("[0-9]{1,18}")
_SIZE: Final = "binary_data_size"
_SLICE: Final = 1 << 14
"""How many values become JSON at a time. Between two slices, other threads may run."""
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


def read_request(
    body: bytes, header: str | None, bundle: ServedBundle
) -> tuple[dict[str, Any], list[Asked], float | None]:
    """Return the JSON of a request, its items, and the seconds that the client gives it; None if it does not say.

    `header` is the value of HEADER. The outputs are checked, too, before anything runs. Raises Refusal.
    """
    document, binary = _document_and_tensors(body, header)
    seconds = _check_request(document, bundle)
    return document, _items(document, binary, bundle), seconds


def _document_and_tensors(body: bytes, header: str | None) -> tuple[dict[str, Any], bytes]:
    """Return the JSON of a body and its binary tensors."""
    if header is None:
        return document_of(body), b""
    if not (_LENGTH.fullmatch(header) and int(header) <= len(body)):
        raise Refusal(400, f"{HEADER} is {shown(header)}, expected a number of bytes up to {len(body)}.")
    return document_of(body[: int(header)]), body[int(header) :]


def _items(document: Mapping[str, Any], binary: bytes, bundle: ServedBundle) -> list[Asked]:
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
            raise Refusal(400, f"unexpected input {shown(name)}: the model takes {', '.join(known)}, each once.")
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
    sizes = [size for one in inputs if (size := _binary_size(one)) is not None]
    if sum(sizes) != len(binary):
        raise Refusal(400, f"the binary_data_size of the inputs are {shown(sizes)}, but {len(binary)} bytes were sent.")
    ends = list(itertools.accumulate(sizes))
    return [binary[end - size : end] for end, size in zip(ends, sizes, strict=True)]


def _binary_size(one: Mapping[str, Any]) -> int | None:
    """Return how many bytes an input has behind the JSON; None if its data are in the JSON."""
    if _SIZE not in (parameters := _parameters(one)):
        return None
    size = parameters[_SIZE]
    if type(size) is not int or size < 0:
        raise Refusal(400, f"{_SIZE} is {shown(size)}, expected a number of bytes.")
    return size


def _rows(one: Mapping[str, Any], rest: Iterator[bytes], *, several: bool) -> list[list[bytes]]:
    """Return the elements of a tensor of texts, row by row."""
    name, shape = one["name"], one.get("shape")
    if one.get("datatype") != "BYTES":
        raise Refusal(400, f"{name} has the datatype {shown(one.get('datatype'))}, expected 'BYTES'.")
    if not isinstance(shape, list) or len(shape) != 2 or any(type(size) is not int or size < 1 for size in shape):
        raise Refusal(400, f"{name} has the shape {shown(shape)}, expected [items, {'texts' if several else 1}].")
    if shape[1] != 1 and not several:
        raise Refusal(400, f"{name} has the shape {shown(shape)}, expected [items, 1].")
    values = list(_listed(one) if _binary_size(one) is None else _binary(next(rest), name))
    if len(values) != math.prod(shape):
        raise Refusal(400, f"{name} has {len(values)} elements, but its shape {shown(shape)} has {math.prod(shape)}.")
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
            raise Refusal(400, f"{one['name']} has an element that is {shown(value)}, expected a text.")


def response_of(document: Mapping[str, Any], outcomes: Sequence[Outcome], bundle: ServedBundle) -> Response:
    """Return the answers as the tensors that the request asks for, each in JSON or binary. Raises Refusal."""
    answers = [outcome.answer for outcome in outcomes]
    check_answers(answers, padded=True)
    arrays = arrays_from_answers(answers, bundle.columns)
    outputs, blobs = [], []
    for name, in_binary in _wanted(document, arrays).items():
        array = arrays[name]
        output: dict[str, Any] = {"name": name, "datatype": _NAMES[array.dtype.kind], "shape": array.shape}
        if in_binary:
            blobs.append(_bytes(array))
            outputs.append(json_text({**output, "parameters": {_SIZE: len(blobs[-1])}}))
        else:
            outputs.append(f'{json_text(output)[:-1]},"data":{_values(array)}}}')
    named = {"id": document["id"]} if "id" in document else {}
    answer = json_text({"model_name": bundle.name, "model_version": VERSION, **named})
    head = f'{answer[:-1]},"outputs":[{",".join(outputs)}]}}'.encode()
    if not blobs:
        return Response(head, media_type="application/json")
    return Response(b"".join([head, *blobs]), media_type="application/octet-stream", headers={HEADER: str(len(head))})


def _values(array: np.ndarray) -> str:
    """Return the elements of an array as a list of JSON."""
    flat = array.ravel()
    slices = (flat[start : start + _SLICE].tolist() for start in range(0, len(flat), _SLICE))
    texts = (json_text([one.decode() if isinstance(one, bytes) else one for one in values]) for values in slices)
    return f"[{','.join(text[1:-1] for text in texts)}]"


def _check_request(document: Mapping[str, Any], bundle: ServedBundle) -> float | None:
    """Return the seconds that the client gives the request; None if it does not say. Raises Refusal."""
    _wanted(document, [*(column.name for column in bundle.columns), COUNT])
    if "id" in document and not isinstance(document["id"], str):
        raise Refusal(400, f"the id is {shown(document['id'])}, expected a text.")
    timeout = _parameters(document).get("timeout")
    if timeout is None:
        return None
    if type(timeout) is not int or timeout < 0:
        raise Refusal(400, f"timeout is {shown(timeout)}, expected microseconds.")
    return timeout / 1e6 or None


def _wanted(document: Mapping[str, Any], known: Sequence[str] | Mapping[str, Any]) -> dict[str, bool]:
    """Return the outputs that a request asks for by name, all of `known` if it names none: whether each is binary."""
    everywhere = _flag(_parameters(document), "binary_data_output", default=False)
    outputs = document.get("outputs")
    if outputs in (None, []):
        return dict.fromkeys(known, everywhere)
    if not isinstance(outputs, list) or not all(isinstance(one, dict) for one in outputs):
        raise Refusal(400, "outputs is no list of objects.")
    for one in outputs:
        if one.get("name") not in list(known):
            raise Refusal(400, f"unexpected output {shown(one.get('name'))}: the model gives {', '.join(known)}.")
        if "classification" in _parameters(one):
            raise Refusal(400, f"{one['name']} is no tensor of classes: drop the parameter classification.")
    return {one["name"]: _flag(_parameters(one), "binary_data", default=everywhere) for one in outputs}


def _flag(parameters: Mapping[str, Any], name: str, *, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise Refusal(400, f"{name} is {shown(value)}, expected true or false.")
    return value


def _parameters(document: Mapping[str, Any]) -> Mapping[str, Any]:
    parameters = document.get("parameters", {})
    if not isinstance(parameters, dict):
        raise Refusal(400, f"parameters is {shown(parameters)}, expected an object.")
    return parameters


def _bytes(array: np.ndarray) -> bytes:
    """Return the elements of an array as the binary extension has them."""
    if array.dtype.kind != "O":
        return array.astype(array.dtype.newbyteorder("<")).tobytes()
    return b"".join(struct.pack("<I", len(value)) + value for value in array.ravel())
