"""Generated text comes in pieces, over gRPC and over HTTP, which join to what the runtime generates."""

import itertools
import json
import queue
import shlex
import subprocess
import urllib.request
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import pytest
import torch
import tritonclient.grpc

from rpln_runtime import Generator, generator
from rpln_runtime.triton import RepositoryError, check_repository, write_repository
from tests.runtime.bundles import make_tokenizer
from tests.runtime.decoders import (
    decoder_plan,
    encoder_plan,
    make_causal_lm,
    make_decoder_bundle,
    make_encoder_decoder,
)
from tests.triton.clients import RefusedError, grpc_inputs, texts
from tests.triton.server import Server, triton_server

PROMPTS = ["Ada", "The capital of", "Is this", ""]
LONGEST = 12


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a decoder, and a decoder with its encoder."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folders = {name: tmp_path_factory.mktemp(name) for name in ("writer", "translator")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's exporter warns of its own internals
        tokenizer = make_tokenizer(folders["writer"])
        model = make_causal_lm(len(tokenizer))
        make_decoder_bundle(folders["writer"], model, tokenizer, [decoder_plan(model, "with-past")])
        tokenizer = make_tokenizer(folders["translator"])
        model = make_encoder_decoder(len(tokenizer))
        plans = [decoder_plan(model, "with-past"), encoder_plan(model)]
        make_decoder_bundle(folders["translator"], model, tokenizer, plans)
    torch.set_num_threads(threads)
    return folders


@pytest.mark.parametrize("name", ["writer", "translator"])
def test_what_is_written_passes_the_check(bundles: dict[str, Path], tmp_path: Path, name: str) -> None:
    write_repository(bundles[name], tmp_path / "repository", name=name)
    assert check_repository(tmp_path / "repository") == [name]


def test_a_generator_has_two_instances_for_its_queue(bundles: dict[str, Path], tmp_path: Path) -> None:
    write_repository(bundles["writer"], tmp_path / "repository", name="writer")
    config = tmp_path / "repository" / "writer" / "configs" / "cpu.pbtxt"
    text = config.read_text(encoding="utf-8")
    config.write_text(text.replace("count: 2", "count: 1"), encoding="utf-8")
    with pytest.raises(RepositoryError, match=r"cpu\.pbtxt, line \d+: .*count is 1: expected 2 to 64"):
        check_repository(tmp_path / "repository")


@pytest.fixture(scope="module")
def server(environment: Path, bundles: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    repositories = tmp_path_factory.mktemp("repositories")
    for name, folder in bundles.items():
        write_repository(folder, repositories / name, name=name, options={"max_new_tokens": LONGEST})
    work = tmp_path_factory.mktemp("server")
    with triton_server(environment, sorted(repositories.iterdir()), work) as server:
        yield server


@pytest.fixture(scope="module")
def generators(bundles: dict[str, Path]) -> dict[str, Generator]:
    options: dict[str, Any] = {"max_new_tokens": LONGEST, "provider": "cpu", "threads": 1}
    return {name: generator(folder, **options) for name, folder in bundles.items()}


class Stream:
    """A gRPC stream, to which requests are sent. Pieces come back with the id of their request."""

    def __init__(self, server: Server) -> None:
        self._client = tritonclient.grpc.InferenceServerClient(server.grpc)
        self._responses: queue.Queue[tuple[Any, Any]] = queue.Queue()
        self._client.start_stream(callback=lambda result, error: self._responses.put((result, error)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()

    def ask(self, model: str, text: str, options: Mapping[str, Any] | None = None, *, key: str = "") -> None:
        arrays = {"text": texts(text)} | ({"options": texts(json.dumps(options))} if options else {})
        self._client.async_stream_infer(model, grpc_inputs(arrays), request_id=key, enable_empty_final_response=True)

    def next(self) -> tuple[str, int, str, bool]:
        """Return the next piece: request, sequence, text, and whether it ends the request, when it has no text."""
        result, error = self._responses.get(timeout=30)
        if error is not None:
            raise RefusedError(error.message())
        response = result.get_response()
        if response.parameters["triton_final_response"].bool_param:
            return response.id, 0, "", True
        return response.id, int(result.as_numpy("sequence")[0, 0]), result.as_numpy("text")[0, 0].decode(), False

    def texts(self, count: int) -> dict[str, dict[int, str]]:
        """Return the text of each sequence of `count` requests, when all have ended."""
        found: dict[str, dict[int, str]] = defaultdict(lambda: defaultdict(str))
        ended = 0
        while ended < count:
            key, sequence, piece, last = self.next()
            ended += last
            found[key][sequence] += piece
        return found

    def cancel(self) -> None:
        self._client.stop_stream(cancel_requests=True)
        self._client.close()


@pytest.mark.parametrize("model", ["writer", "translator"])
@pytest.mark.parametrize("text", PROMPTS)
def test_pieces_joined_are_what_the_runtime_generates(
    server: Server, generators: dict[str, Generator], model: str, text: str
) -> None:
    with Stream(server) as stream:
        stream.ask(model, text, key="one")
        pieces = list(itertools.takewhile(lambda piece: not piece[3], iter(stream.next, None)))
    expected = list(generators[model].stream(text))
    assert [piece for _, _, piece, _ in pieces] == expected
    assert model == "translator" or len(expected) > 1  # a single piece would not be a stream


def test_prompts_that_come_together_are_answered_apart(server: Server, generators: dict[str, Generator]) -> None:
    asked = {f"{index}": PROMPTS[index % len(PROMPTS)] for index in range(24)}
    before = server.statistics("writer")["execution_count"]
    with Stream(server) as stream:
        for key, text in asked.items():
            stream.ask("writer", text, key=key)
        found = stream.texts(len(asked))
    expected = {text: "".join(generators["writer"].stream(text)) for text in PROMPTS}
    assert {key: sequences[0] for key, sequences in found.items()} == {
        key: expected[text] for key, text in asked.items()
    }
    assert server.statistics("writer")["execution_count"] - before < len(asked)


@pytest.mark.parametrize(
    "options",
    [
        {"do_sample": True, "seed": 3, "num_return_sequences": 3},
        {"num_beams": 3, "num_return_sequences": 2},
        {"max_new_tokens": 2, "stop_strings": "z"},
    ],
    ids=["samples", "beams", "short"],
)
@pytest.mark.parametrize("model", ["writer", "translator"])
def test_options_of_a_request(
    server: Server, generators: dict[str, Generator], model: str, options: dict[str, Any]
) -> None:
    with Stream(server) as stream:
        stream.ask(model, "Ada", options)
        found = stream.texts(1)[""]
    answers = [answer["generated_text"] for answer in generators[model]("Ada", **options)]
    head = "Ada" if model == "writer" else ""
    # A sequence that ended at once has no pieces.
    assert [head + found[sequence] for sequence in range(len(answers))] == answers
    assert found.keys() <= set(range(len(answers)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top": 3}, "option 'top'"),
        ({"max_new_tokens": 1000}, "max_new_tokens is 1000"),
        ({"temperature": 2.0}, "temperature"),
        ({"stop_token_ids": 5}, "stop_token_ids is 5, expected a list"),
        ({"stop_strings": "a" * 70_000}, "texts and options .* 70,023 bytes.* 65,536"),
        ({"num_beams": 9}, "num_beams is 9, and this server runs at most 8"),
    ],
)
def test_an_error_reaches_the_client_that_asked(
    server: Server, generators: dict[str, Generator], options: dict[str, Any], message: str
) -> None:
    with Stream(server) as wrong, Stream(server) as right:
        right.ask("writer", "Ada", key="right")
        wrong.ask("writer", "Ada", options)
        with pytest.raises(RefusedError, match=message):
            wrong.texts(1)
        assert right.texts(1)["right"][0] == "".join(generators["writer"].stream("Ada"))


def test_a_prompt_of_too_many_bytes_fails_alone(server: Server, generators: dict[str, Generator]) -> None:
    with Stream(server) as wrong, Stream(server) as right:
        wrong.ask("writer", "a" * 10_000_000)
        right.ask("writer", "Ada", key="right")
        with pytest.raises(RefusedError, match=r"10,000,000 bytes, and at most 65,536"):
            wrong.texts(1)
        assert right.texts(1)["right"][0] == "".join(generators["writer"].stream("Ada"))


def test_over_http_pieces_are_events(server: Server, generators: dict[str, Generator]) -> None:
    body = json.dumps({"text": "Ada", "options": json.dumps({"max_new_tokens": 5})}).encode()
    url = f"http://{server.http}/v2/models/writer/generate_stream"
    with urllib.request.urlopen(urllib.request.Request(url, data=body), timeout=30) as response:
        events = [json.loads(line.removeprefix(b"data: ")) for line in response if line.strip()]
    assert "".join(event["text"] for event in events) == "".join(generators["writer"].stream("Ada", max_new_tokens=5))


def test_the_command_of_the_readme_is_answered(server: Server, bundles: dict[str, Path], tmp_path: Path) -> None:
    write_repository(bundles["writer"], tmp_path / "repository", name="writer")
    readme = (tmp_path / "repository" / "README.md").read_text(encoding="utf-8")
    (command,) = [line for line in readme.splitlines() if line.startswith("curl")]
    arguments = [part.replace("localhost:8000", server.http) for part in shlex.split(command)]
    events = subprocess.check_output([*arguments, "--silent"], text=True).split("\n\n")
    assert all(json.loads(event.removeprefix("data: "))["model_name"] == "writer" for event in events if event)
    assert 'whl[gpu]"' in readme
    assert "without a GPU, write `[cpu]` instead of `[gpu]`, and add `--model-config-name=cpu`" in readme
    assert "| 65,536 | `--max-text-bytes`, or `max_text_bytes` in `writer` |" in readme
    assert "private" not in readme


def test_clients_that_go_leave_the_others_alone(server: Server, generators: dict[str, Generator]) -> None:
    expected = "".join(generators["writer"].stream("Ada"))
    for _ in range(5):
        gone = Stream(server)
        gone.ask("writer", "Ada", {"max_new_tokens": 60, "stop_token_ids": []})
        gone.next()
        with Stream(server) as stream:
            stream.ask("writer", "Ada")
            gone.cancel()
            assert stream.texts(1)[""][0] == expected
