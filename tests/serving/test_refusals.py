"""A wrong request gets a status that its protocol has, a sentence and a line in the log, and harms no other."""

import json
import random
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.runtime.bundles import CORPUS, USABLE_LENGTH
from tests.serving.comparison import same
from tests.serving.conftest import WRITER
from tests.serving.server import Answer, Server

TAG, INFER, EMBED, WRITE = (
    "/predict/token-classification",
    "/v2/models/token-classification/infer",
    "/v1/embeddings",
    "/v1/completions",
)
HEADER = "inference-header-content-length"
ROUNDS = 12
"""How often each kind is sent. docs/serving.md says how many kinds there are, and what came of 205 rounds of 49."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A wrong request, the status that it gets, and what its sentence must have."""

    path: str
    status: int
    says: str
    body: Any = None
    method: str = "POST"
    headers: dict[str, str] = field(default_factory=dict)

    def ask(self, server: Server, **headers: str) -> Answer:
        return server.ask(self.path, self.body, method=self.method, headers={**self.headers, **headers})


def tensor(**changes: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1, 1], "data": ["A text."], **changes}]}


def with_options(options: Any) -> dict[str, Any]:
    (text,) = tensor()["inputs"]
    return {"inputs": [text, {"name": "options", "datatype": "BYTES", "shape": [1, 1], "data": [options]}]}


KINDS = {
    "no body": Kind(path=TAG, status=400, says="not JSON", body=b""),
    "no JSON": Kind(path=TAG, status=400, says="not JSON", body=b'{"inputs": '),
    "bytes": Kind(path=TAG, status=400, says="not JSON", body=b"\xff\xfe\x00"),
    "half a surrogate pair": Kind(path=TAG, status=400, says="surrogate", body=b'{"inputs": "\\ud800"}'),
    "a number that is none": Kind(path=TAG, status=400, says="NaN", body=b'{"inputs": NaN}'),
    "too deep": Kind(path=TAG, status=400, says="64", body=b"[" * 5000),
    "a list": Kind(path=TAG, status=400, says="JSON object", body=[]),
    "another key": Kind(path=TAG, status=400, says="expected 'inputs'", body={"input": "x"}),
    "no text": Kind(path=TAG, status=400, says="expected an item", body={"inputs": 5}),
    "no texts": Kind(path=TAG, status=400, says="item 1: .*expected a str", body={"inputs": ["x", None]}),
    "no items": Kind(path=TAG, status=400, says="no items", body={"inputs": []}),
    "an unknown option": Kind(
        path=TAG, status=400, says="unknown option", body={"inputs": "x", "parameters": {"a\nb": 1}}
    ),
    "an option of another type": Kind(
        path=TAG, status=400, says="ignore_labels", body={"inputs": "x", "parameters": {"ignore_labels": 5}}
    ),
    "an option that cannot be hashed": Kind(
        path=TAG,
        status=400,
        says="aggregation_strategy",
        body={"inputs": "x", "parameters": {"aggregation_strategy": []}},
    ),
    "too many items": Kind(path=TAG, status=413, says="257 items.* 256", body={"inputs": ["x"] * 257}),
    "too large a text": Kind(path=TAG, status=413, says="65,540 bytes .* 65,536", body={"inputs": "\u00e9" * 32770}),
    "an option that is no whole number": Kind(
        path=TAG,
        status=400,
        says="stride is 1.5, expected a whole number or null",
        body={"inputs": "x", "parameters": {"stride": 1.5}},
    ),
    "a number as a text": Kind(
        path="/predict/text-classification",
        status=400,
        says="top_k is '5', expected a whole number or 'best' or null",
        body={"inputs": "x", "parameters": {"top_k": "5"}},
    ),
    "a number for a list": Kind(
        path="/predict/fill-mask",
        status=400,
        says="targets is 3, expected a text or a list of texts or null",
        body={"inputs": "<mask>", "parameters": {"targets": 3}},
    ),
    "an option of a generator of another type": Kind(
        path=f"/predict/{WRITER}",
        status=400,
        says="positions is \\[\\], expected a text",
        body={"inputs": "x", "parameters": {"positions": []}},
    ),
    "an option of an item of another type": Kind(
        path=INFER,
        status=400,
        says="the item: delimiter is None, expected a text",
        body=with_options('{"delimiter": null}'),
    ),
    "too large a number": Kind(
        path="/predict/text-classification",
        status=400,
        says="top_k is 1,001.* 1,000",
        body={"inputs": "x", "parameters": {"top_k": 1001}},
    ),
    "too long a list": Kind(
        path="/predict/fill-mask",
        status=400,
        says="targets has 1,001 .* 1,000",
        body={"inputs": "<mask>", "parameters": {"targets": ["a"] * 1001}},
    ),
    "too large options": Kind(
        path=TAG,
        status=400,
        says="70,017 bytes.* 65,536",
        body={"inputs": "x", "parameters": {"delimiter": "x" * 70_000}},
    ),
    "too large a text with its options": Kind(
        path=TAG,
        status=413,
        says="70,017 bytes of text and options.* 65,536",
        body={"inputs": "x" * 10_000, "parameters": {"delimiter": "x" * 60_000}},
    ),
    "too many windows": Kind(
        path=TAG,
        status=400,
        says="rows.* 1,024",
        body={"inputs": "x " * 2000, "parameters": {"stride": USABLE_LENGTH - 3}},
    ),
    "too many choices": Kind(
        path="/predict/multiple-choice",
        status=413,
        says="1,025 texts .* 1,024",
        body={"inputs": {"prompt": "", "choices": [""] * 1025}},
    ),
    "too large a text for no choice": Kind(
        path="/predict/multiple-choice",
        status=413,
        says="bytes of text",
        body={"inputs": {"prompt": "x" * 100_000, "choices": []}},
    ),
    "too large a text for each of several choices": Kind(
        path="/predict/multiple-choice",
        status=413,
        says="100,010 bytes .* 65,536",
        body={"inputs": {"prompt": "x" * 10_000, "choices": ["y"] * 10}},
    ),
    "too many spans": Kind(
        path="/predict/question-answering",
        status=400,
        says="spans.* 100,000",
        body={"inputs": {"question": "Who?", "context": "x " * 4000}, "parameters": {"top_k": 1000}},
    ),
    "too many masks": Kind(
        path="/predict/fill-mask",
        status=400,
        says="11,000 .* 10,000",
        body={"inputs": "<mask>" * 11, "parameters": {"top_k": 1000}},
    ),
    "too large a body": Kind(path=TAG, status=413, says="300,000 bytes", body=b" " * 3_000_000),
    "a compressed body": Kind(path=TAG, status=415, says="gzip", body=b"x", headers={"content-encoding": "gzip"}),
    "no such model": Kind(path="/predict/nothing", status=404, says="'nothing'.*writer", body={"inputs": "x"}),
    "no such path": Kind(path="/v3", status=404, says="GET /v3", method="GET"),
    "another method": Kind(path=TAG, status=405, says="GET", method="GET"),
    "no such version": Kind(path=INFER.replace("/infer", "/versions/2/infer"), status=404, says="versions/2", body={}),
    "no mask": Kind(path="/predict/fill-mask", status=400, says="no <mask>", body={"inputs": "x"}),
    "a text that is too long": Kind(
        path="/predict/text-classification", status=400, says="limit", body={"inputs": "long " * 200}
    ),
    "too large a body below /v1": Kind(path=EMBED, status=413, says="300,000 bytes", body=b" " * 300_001),
    "a compressed body below /v1": Kind(
        path=EMBED, status=415, says="gzip", body=b"x", headers={"content-encoding": "gzip"}
    ),
    "no such path below /v1": Kind(path="/v1/chat/completions", status=404, says="POST /v1/chat", body={}),
    "another method below /v1": Kind(path=EMBED, status=405, says="GET /v1/embeddings", method="GET"),
    "too large a body without a use": Kind(
        path="/v1/models", status=413, says="300,000 bytes", body=b" " * 300_001, method="GET"
    ),
    "no inputs": Kind(path=INFER, status=400, says="inputs", body={"inputs": {}}),
    "an unknown input": Kind(path=INFER, status=400, says="'texts'", body=tensor(name="texts")),
    "an input twice": Kind(path=INFER, status=400, says="once", body={"inputs": tensor()["inputs"] * 2}),
    "a missing input": Kind(path=INFER, status=400, says="'text' is missing", body={"inputs": []}),
    "another datatype": Kind(path=INFER, status=400, says="'INT64'", body=tensor(datatype="INT64", data=[1])),
    "another shape": Kind(path=INFER, status=400, says="shape", body=tensor(shape=[1, 2], data=["x", "y"])),
    "a negative shape": Kind(path=INFER, status=400, says="shape", body=tensor(shape=[-1, -1])),
    "too little data": Kind(path=INFER, status=400, says="1 elements", body=tensor(shape=[2, 1])),
    "no data": Kind(path=INFER, status=400, says="no list of data", body=tensor(data="x")),
    "data of another type": Kind(path=INFER, status=400, says="expected a text", body=tensor(data=[5])),
    "options that are no JSON": Kind(path=INFER, status=400, says="options is not JSON", body=with_options("{")),
    "an unknown output": Kind(
        path=INFER, status=400, says="'logits'", body={**tensor(), "outputs": [{"name": "logits"}]}
    ),
    "a timeout of another type": Kind(
        path=INFER, status=400, says="microseconds", body={**tensor(), "parameters": {"timeout": "1s"}}
    ),
    "a length of the JSON that is too large": Kind(
        path=INFER, status=400, says="bytes", body=b"{}", headers={HEADER: "9"}
    ),
    "fewer bytes than it says": Kind(
        path=INFER, status=400, says="binary_data_size", body=tensor(parameters={"binary_data_size": 9}), headers={}
    ),
    "a length of the JSON of another script": Kind(
        path=INFER, status=400, says="bytes", body=b"{}", headers={HEADER: "\u00b2"}
    ),
    "a length of the JSON of many digits": Kind(
        path=INFER, status=400, says="bytes", body=b"{}", headers={HEADER: "9" * 5000}
    ),
    "no number of bytes": Kind(
        path=INFER,
        status=400,
        says="binary_data_size is None",
        body=tensor(parameters={"binary_data_size": None}),
    ),
    "a number of bytes as a text": Kind(
        path=INFER, status=400, says="binary_data_size is '6'", body=tensor(parameters={"binary_data_size": "6"})
    ),
    "a negative number of bytes": Kind(
        path=INFER, status=400, says="binary_data_size is -6", body=tensor(parameters={"binary_data_size": -6})
    ),
    "a shape of booleans": Kind(path=INFER, status=400, says="shape", body=tensor(shape=[True, True])),
    "an output that may be binary": Kind(
        path=INFER,
        status=400,
        says="binary_data is 'yes'",
        body={**tensor(), "outputs": [{"name": "score", "parameters": {"binary_data": "yes"}}]},
    ),
    "an element that is cut": Kind(
        path=INFER,
        status=400,
        says="within an element",
        body=(cut := json.dumps(tensor(parameters={"binary_data_size": 6})).encode()) + b"\x09\0\0\0ab",
        headers={HEADER: str(len(cut))},
    ),
    "a text that is no UTF-8": Kind(
        path=INFER,
        status=400,
        says="not UTF-8",
        body=(head := json.dumps(tensor(parameters={"binary_data_size": 5})).encode()) + b"\x01\0\0\0\xff",
        headers={HEADER: str(len(head))},
    ),
    "token ids": Kind(path=EMBED, status=400, says="token ids", body={"model": "feature-extraction", "input": [1, 2]}),
    "a model of another task": Kind(
        path=EMBED, status=400, says="fill-mask", body={"model": "fill-mask", "input": "x"}
    ),
    "an unknown encoding": Kind(
        path=EMBED, status=400, says="base64", body={"model": "feature-extraction", "input": "x", "encoding_format": []}
    ),
    "an unknown field": Kind(
        path=WRITE, status=400, says="'tools'", body={"model": WRITER, "prompt": "x", "tools": []}
    ),
    "a field that does nothing here": Kind(
        path=WRITE, status=400, says="logprobs", body={"model": WRITER, "prompt": "x", "logprobs": 5}
    ),
    "no tokens": Kind(
        path=WRITE, status=400, says="max_new_tokens", body={"model": WRITER, "prompt": "x", "max_tokens": 0}
    ),
    "too many texts for a prompt": Kind(
        path=WRITE, status=400, says="num_return_sequences is 9.* 8", body={"model": WRITER, "prompt": "x", "n": 9}
    ),
    "too many stop strings": Kind(
        path=WRITE,
        status=400,
        says="stop_strings has 65.* 64",
        body={"model": WRITER, "prompt": "x", "stop": ["a"] * 65},
    ),
    "a temperature that is no number": Kind(
        path=WRITE, status=400, says="temperature is False", body={"model": WRITER, "prompt": "x", "temperature": False}
    ),
    "a stream that is refused": Kind(
        path=WRITE,
        status=400,
        says="max_new_tokens",
        body={"model": WRITER, "prompt": "x", "max_tokens": 0, "stream": True},
    ),
    "a stream of two": Kind(
        path=WRITE, status=400, says="one prompt", body={"model": WRITER, "prompt": ["x", "y"], "stream": True}
    ),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_refusal_has_a_status_a_sentence_and_a_line_in_the_log(server: Server, name: str) -> None:
    kind = KINDS[name]
    answer = kind.ask(server, **{"x-request-id": (request := f"kind-{list(KINDS).index(name)}")})
    assert answer.status == kind.status, answer.body
    error = answer.document["error"]
    sentence = error["message"] if kind.path.startswith("/v1") else error
    assert re.search(kind.says, sentence), sentence
    assert answer.headers["x-request-id"] == request
    (line,) = [line for line in server.text_of_log().splitlines() if f" {request} " in line]
    assert f" {kind.status}: " in line
    assert "Traceback" not in line


def test_good_requests_among_wrong_ones_are_answered_right(server: Server) -> None:
    """Send every kind many times from many clients, and good requests between them."""
    expected = {text: server.ask(TAG, {"inputs": text}).document for text in CORPUS}
    work: list[Kind | str] = [*KINDS.values()] * ROUNDS + list(CORPUS) * 20
    random.Random(0).shuffle(work)

    def check(one: Kind | str) -> None:
        if isinstance(one, Kind):
            assert one.ask(server).status == one.status
        else:
            same(server.ask(TAG, {"inputs": one}).document, expected[one])

    with ThreadPoolExecutor(16) as clients:
        list(clients.map(check, [*work, *CORPUS]))


def test_no_client_writes_a_line_of_its_own_into_the_log(server: Server) -> None:
    server.ask("/predict/a%0Aforged", {"inputs": "x"})
    server.ask(TAG, {"inputs": "x", "parameters": {"a\nforged": 1}}, headers={"x-request-id": "two words"})
    assert not any(line.startswith(("forged", "two words")) for line in server.text_of_log().splitlines())


def test_clients_that_speak_no_http_or_leave_harm_nobody(server: Server) -> None:
    host, _, port = server.address.rpartition(":")
    body = json.dumps({"inputs": ["A text. " * 500] * 64}).encode()
    head = b"POST /predict/token-classification HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n"
    for sent in (b"\x16\x03\x01", b"GET /\r\n\r\n", head % len(body) + body, head % 9999 + b"{", head % -1):
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(sent)
    assert server.ask(TAG, {"inputs": "A text."}).status == 200


def test_a_timeout_of_the_client_is_kept(server: Server) -> None:
    asked = {**tensor(data=["A text. " * 2000]), "parameters": {"timeout": 1}}
    answer = server.ask(INFER, asked)
    assert (answer.status, "in time" in answer.document["error"]) == (504, True)
