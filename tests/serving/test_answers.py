"""The server answers, by every protocol, what the runtime in Python answers."""

import base64
import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http

from rpln_runtime import generator, pipeline
from tests.runtime.bundles import CORPUS
from tests.runtime.comparison import LONG_TEXT
from tests.serving.comparison import TOLERANCE, same
from tests.serving.conftest import TRANSLATOR, VECTORS, WRITER
from tests.serving.server import Server
from tests.triton.clients import NAMES, texts
from tests.triton.conftest import POSITIONS
from tests.triton.test_answers import ASKED, check, columns_from_answer

ENCODERS = [name for name in ASKED if name != POSITIONS]
"""The bundles that answer texts. A server does not see whether a graph is told where the masks are."""
PROMPTS = ["The old man", "She", ""]
LONGEST = 12


@pytest.fixture(scope="module")
def triton(server: Server) -> Iterator[Any]:
    client = tritonclient.http.InferenceServerClient(server.address)
    yield client
    client.close()


def tensors(arrays: dict[str, np.ndarray], *, binary: bool) -> list[Any]:
    inputs = []
    for name, array in arrays.items():
        tensor = tritonclient.http.InferInput(name, array.shape, NAMES[array.dtype.name])
        tensor.set_data_from_numpy(array, binary_data=binary)
        inputs.append(tensor)
    return inputs


@pytest.mark.parametrize("name", ENCODERS)
def test_every_task_answers_as_its_pipeline(server: Server, folders: dict[str, Path], name: str) -> None:
    answer = pipeline(folders[name], provider="cpu", threads=1)
    for asking in ASKED[name]:
        found = server.ask(f"/predict/{name}", {"inputs": asking.item, "parameters": asking.options})
        assert found.status == 200, found.body
        same(found.document, answer(asking.item, **asking.options))


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "JSON"])
@pytest.mark.parametrize("name", ENCODERS)
def test_tritonclient_gets_the_tensors_of_a_triton_repository(
    triton: Any, folders: dict[str, Path], name: str, binary: bool
) -> None:
    answer = pipeline(folders[name], provider="cpu", threads=1)
    for asking in ASKED[name]:
        expected = columns_from_answer(answer(asking.item, **asking.options))
        outputs = [
            tritonclient.http.InferRequestedOutput(column, binary_data=binary) for column in (*expected, "count")
        ]
        found = triton.infer(name, tensors(asking.arrays, binary=binary), outputs=outputs, request_id="7")
        assert found.get_response()["id"] == "7"
        for column, values in expected.items():
            check(found.as_numpy(column)[0], values)
        assert found.as_numpy("count").tolist() == [[len(next(iter(expected.values())))]]


def test_items_of_a_request_may_have_different_options_and_lengths(triton: Any, folders: dict[str, Path]) -> None:
    chosen: list[dict[str, Any]] = [{}, {"ignore_labels": ["B-PER", "B-LOC"]}, {"aggregation_strategy": "simple"}, {}]
    asked = [*CORPUS[:3], LONG_TEXT]
    arrays = {"text": texts(*asked), "options": texts(*map(json.dumps, chosen))}
    found = triton.infer("token-classification", tensors(arrays, binary=True))  # without outputs: all of them, binary
    answer = pipeline(folders["token-classification"], provider="cpu", threads=1)
    for row, (text, options) in enumerate(zip(asked, chosen, strict=True)):
        expected = columns_from_answer(answer(text, **options))
        count = found.as_numpy("count")[row, 0]
        assert count == len(expected["label"])
        for column, values in expected.items():
            check(found.as_numpy(column)[row, :count], values)


def test_a_list_of_items_gets_a_list_of_answers(server: Server, folders: dict[str, Path]) -> None:
    answer = pipeline(folders["text-classification"], provider="cpu", threads=1)
    choices: list[dict[str, Any]] = [{}, {"top_k": 2}]
    for options in choices:
        found = server.ask("/predict/text-classification", {"inputs": CORPUS, "parameters": options})
        same(found.document, answer(CORPUS, **options))


def test_tritonclient_finds_health_and_tensors(triton: Any, folders: dict[str, Path]) -> None:
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert "binary_tensor_data" in triton.get_server_metadata()["extensions"]
    for name in folders:
        assert triton.is_model_ready(name)
        assert triton.is_model_ready(name, "1")
        assert triton.get_model_metadata(name)["name"] == name
    described = triton.get_model_metadata("question-answering")
    assert [one["name"] for one in described["inputs"]] == ["question", "context", "options"]
    assert [one["name"] for one in described["outputs"]] == ["answer", "score", "start", "end", "count"]


@pytest.mark.parametrize("name", [VECTORS, "feature-extraction"])
def test_embeddings_are_vectors_of_the_pipeline(server: Server, folders: dict[str, Path], name: str) -> None:
    embed = pipeline(folders[name], provider="cpu", threads=1)
    options = {} if name == VECTORS else {"pooling": "mean"}
    numbers = server.ask("/v1/embeddings", {"model": name, "input": CORPUS}).document
    coded = server.ask("/v1/embeddings", {"model": name, "input": CORPUS[0], "encoding_format": "base64"}).document
    for row, text in zip(numbers["data"], CORPUS, strict=True):
        np.testing.assert_allclose(row["embedding"], embed(text, **options), atol=TOLERANCE)
    vector = np.frombuffer(base64.b64decode(coded["data"][0]["embedding"]), "<f4")
    np.testing.assert_allclose(vector, embed(CORPUS[0], **options), atol=TOLERANCE)
    assert coded["usage"]["prompt_tokens"] == coded["usage"]["total_tokens"] > 2


@pytest.mark.parametrize("name", [WRITER, TRANSLATOR])
def test_new_text_is_that_of_the_generator(server: Server, folders: dict[str, Path], triton: Any, name: str) -> None:
    write = generator(folders[name], provider="cpu", threads=1, max_new_tokens=LONGEST)
    head = {"return_full_text": False} if write.continues_prompts else {}
    prompts = PROMPTS if write.continues_prompts else PROMPTS[:2]
    body = {"model": name, "prompt": prompts, "max_tokens": LONGEST, "temperature": 0}
    whole = server.ask("/v1/completions", body).document
    expected = write.completions(prompts, **head)
    assert [one["text"] for one in whole["choices"]] == [texts[0].text for texts in expected]
    reasons = ["stop" if texts[0].ended else "length" for texts in expected]
    assert [one["finish_reason"] for one in whole["choices"]] == reasons
    assert whole["usage"]["completion_tokens"] == sum(texts[0].written for texts in expected)
    for prompt, (text,), reason in zip(prompts, expected, reasons, strict=True):
        streamed = server.ask("/v1/completions", {**body, "prompt": prompt, "stream": True})
        assert streamed.headers["content-type"].startswith("text/event-stream")
        *events, done = re.findall(r"data: (.*)\n\n", streamed.body.decode())
        choices = [json.loads(event)["choices"][0] for event in events]
        assert "".join(one["text"] for one in choices) == text.text
        assert (choices[-1]["finish_reason"], done) == (reason, "[DONE]")
    options = {"max_new_tokens": LONGEST}
    asked = server.ask(f"/predict/{name}", {"inputs": prompts, "parameters": options}).document
    assert asked == write(prompts)
    arrays = {"text": texts(*prompts), "options": texts(*[json.dumps(options)] * len(prompts))}
    found = triton.infer(name, tensors(arrays, binary=True)).as_numpy("text")
    assert [one[0].decode() for one in found] == [one[0]["generated_text"] for one in write(prompts)]


def test_samples_with_a_seed_are_those_of_the_generator(server: Server, folders: dict[str, Path]) -> None:
    write = generator(folders[WRITER], provider="cpu", threads=1)
    body = {"model": WRITER, "prompt": "She", "max_tokens": 8, "temperature": 0.7, "seed": 3, "n": 2, "echo": True}
    found = server.ask("/v1/completions", body).document
    options: dict[str, Any] = {"do_sample": True, "temperature": 0.7, "top_k": 0, "seed": 3, "num_return_sequences": 2}
    expected = write("She", max_new_tokens=8, **options)
    assert [one["text"] for one in found["choices"]] == [one["generated_text"] for one in expected]


def test_the_line_that_is_printed_at_the_start_works(server: Server, folders: dict[str, Path]) -> None:
    for name in folders:
        assert re.search(rf"^  {re.escape(name)} ", server.opening, re.MULTILINE)
    command = shlex.split(server.opening.splitlines()[-1])
    assert command[0] == "curl"
    done = subprocess.run([*command, "-sf"], check=True, capture_output=True)
    assert json.loads(done.stdout)


def test_pages_describe_the_endpoints_and_load_nothing(server: Server) -> None:
    paths = server.ask("/openapi.json").document["paths"]
    assert {"/v2/models/{name}/infer", "/v1/embeddings", "/v1/completions", "/predict/{name}"} <= paths.keys()
    html = server.ask("/docs").body.decode()
    for path in paths:
        assert path in html
    assert not re.search(r"https?://|<script", html)
    assert [row["id"] for row in server.ask("/v1/models").document["data"]]


def test_metrics_count_requests_and_batches(server: Server) -> None:
    def count(name: str) -> float:
        lines = server.ask("/metrics").body.decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))

    requests, items = 'rpln_requests_total{endpoint="predict",status="200"}', 'rpln_batch_items_sum{model="fill-mask"}'
    before = count(requests), count(items)
    server.ask("/predict/fill-mask", {"inputs": ["<mask>", "a <mask>"]})
    assert (count(requests), count(items)) == (before[0] + 1, before[1] + 2)
