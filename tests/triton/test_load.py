"""Under load, requests of mixed lengths are joined, and no answer is wrong or lost, whatever other clients do."""

import contextlib
import json
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc

from rpln_runtime import pipeline
from rpln_runtime.triton import write_repository
from tests.runtime.bundles import CORPUS, USABLE_LENGTH
from tests.triton.clients import RefusedError, grpc_inputs, infer_grpc, infer_http, texts
from tests.triton.networks import ToyBundle
from tests.triton.server import Server, triton_server

JOINED, APART = "joined", "apart"
REQUESTS = 400
SECONDS = 4
WORDS = " ".join(CORPUS).split()
KILLED_CLIENT = """
import sys, urllib.request
while True:
    urllib.request.urlopen(urllib.request.Request(sys.argv[1], data=sys.argv[2].encode())).read()
"""


@pytest.fixture(scope="module")
def server(
    environment: Path, bundle_of: Callable[[str], ToyBundle], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """Return a server of a tagger with buckets, and of one in which every length is its own bucket."""
    repositories = tmp_path_factory.mktemp("repositories")
    for name, buckets in ((JOINED, (16, 32, 64)), (APART, range(1, USABLE_LENGTH + 1))):
        folder = bundle_of("token-classification").folder
        write_repository(folder, repositories / name, name=name, buckets=buckets)
    work = tmp_path_factory.mktemp("server")
    with triton_server(environment, sorted(repositories.iterdir()), work) as server:
        yield server


@pytest.fixture(scope="module")
def expected(bundle_of: Callable[[str], ToyBundle]) -> dict[str, list[bytes]]:
    """Return texts of mixed lengths, and the label of each of their tokens."""
    drawn = random.Random(0)
    texts = {" ".join(drawn.choices(WORDS, k=drawn.randint(1, 14))) for _ in range(100)}
    tag = pipeline(bundle_of("token-classification").folder, provider="cpu", threads=1)
    return {text: [token["entity"].encode() for token in tag(text)] for text in sorted(texts)}


def test_requests_of_mixed_lengths_are_joined(server: Server, expected: dict[str, list[bytes]]) -> None:
    executions = {}
    for name in (JOINED, APART):
        asked = random.Random(1).choices(list(expected), k=REQUESTS)
        before = server.statistics(f"{name}_model")
        answers = ask_at_once(server, name, asked)
        after = server.statistics(f"{name}_model")
        assert answers == [expected[text] for text in asked]
        assert after["inference_count"] - before["inference_count"] == REQUESTS
        executions[name] = after["execution_count"] - before["execution_count"]
    assert executions[JOINED] * 2 < executions[APART], executions
    sizes = [row["batch_size"] for row in server.statistics(f"{JOINED}_model")["batch_stats"]]
    assert 4 <= max(sizes) <= 32


def ask_at_once(server: Server, name: str, asked: Sequence[str]) -> list[list[bytes]]:
    """Send all requests without waiting, and return the labels of each."""
    answers: dict[int, Any] = {}
    done = threading.Semaphore(0)

    def keep(place: int, result: Any, error: Any) -> None:
        answers[place] = error or result.as_numpy("label")[0].tolist()
        done.release()

    with tritonclient.grpc.InferenceServerClient(server.grpc) as client:
        for place, text in enumerate(asked):
            client.async_infer(
                name, grpc_inputs({"text": texts(text)}), lambda result, error, place=place: keep(place, result, error)
            )
        assert all(done.acquire(timeout=30) for _ in asked)
    return [answers[place] for place in range(len(asked))]


def test_no_answer_is_wrong_or_lost(server: Server, expected: dict[str, list[bytes]]) -> None:
    before = server.statistics(JOINED)["inference_stats"]["success"]["count"]
    memory = memory_of_steps(server)
    end = time.monotonic() + SECONDS
    bad_clients = [speak_nonsense, ask_nonsense, ask_too_much, go_away, go_away_over_grpc]
    with killed_clients(server, 2), ThreadPoolExecutor(len(bad_clients) + 3) as pool:
        good = [pool.submit(ask_on, server, infer, expected, end) for infer in (infer_http, infer_grpc, infer_grpc)]
        bad = [pool.submit(repeat, client, server, end) for client in bad_clients]
        answered = sum(future.result() for future in good)
        turns = [future.result() for future in bad]
    assert answered >= 50
    assert min(turns) >= 2
    # Requests of the killed clients are counted, too.
    assert server.statistics(JOINED)["inference_stats"]["success"]["count"] - before >= answered
    # Texts of 10 MB leave nothing behind; tokenizing one of them took a gigabyte.
    assert memory_of_steps(server) - memory < 1 << 26
    assert server.get("health/ready")[0] == 200
    assert ask_at_once(server, JOINED, list(expected)) == list(expected.values())


def memory_of_steps(server: Server) -> int:
    """Return how many bytes the processes of the steps have of their own."""
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    lines = [line for child in children for line in Path(f"/proc/{child}/status").read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) << 10


def ask_on(server: Server, infer: Any, expected: dict[str, list[bytes]], end: float) -> int:
    """Ask until `end`, check each answer, and return how many there were."""
    drawn, count = random.Random(), 0
    while time.monotonic() < end:
        text = drawn.choice(list(expected))
        assert infer(server, JOINED, {"text": texts(text)})["label"][0].tolist() == expected[text]
        count += 1
    return count


def repeat(client: Callable[[Server], None], server: Server, end: float) -> int:
    count = 0
    while time.monotonic() < end:
        client(server)
        count += 1
        time.sleep(0.02)
    return count


def speak_nonsense(server: Server) -> None:
    for body in (b"", b"{", b"[]", b'{"inputs": 3}', b"\xff" * 1000, json.dumps({"inputs": [{}]}).encode()):
        assert server.post(f"models/{JOINED}/infer", body)[0] >= 400


def ask_nonsense(server: Server) -> None:
    wrong: list[dict[str, np.ndarray]] = [
        {"text": np.array([[b"caf\xe9"]], np.object_)},
        {"text": np.array([[1]])},
        {"text": texts(["two", "texts"])},
        {"text": texts("A text."), "options": texts('{"ignore_labels": 5}')},
        {"text": texts("A text."), "options": texts("[" * 5000)},
        {"words": texts("A text.")},
    ]
    for arrays in wrong:
        with pytest.raises(RefusedError):
            infer_grpc(server, JOINED, arrays)


def ask_too_much(server: Server) -> None:
    with pytest.raises(RefusedError, match=r"10,000,000 bytes, and at most 65,536"):
        infer_grpc(server, JOINED, {"text": texts("word " * 2_000_000)})
    with pytest.raises(RefusedError, match=r"rows .* 32 "):
        infer_http(server, JOINED, {"text": texts("word " * 5_000)})
    with pytest.raises(RefusedError, match="batch-size must be <= 32"):
        infer_grpc(server, JOINED, {"text": texts(*["A text."] * 1000)})


def go_away(server: Server) -> None:
    """Close one connection in the middle of a request, and one before its answer."""
    host, port = server.http.split(":")
    body = json.dumps(
        {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1, 1], "data": ["A text."]}]}
    ).encode()
    head = f"POST /v2/models/{JOINED}/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    for content in (head + body[:20], head + body):
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(content)


def go_away_over_grpc(server: Server) -> None:
    client = tritonclient.grpc.InferenceServerClient(server.grpc)
    calls = [
        client.async_infer(
            JOINED, grpc_inputs({"text": texts("A text that nobody waits for.")}), lambda result, error: None
        )
        for _ in range(5)
    ]
    for call in calls[:3]:
        call.cancel()
    client.close()


@contextlib.contextmanager
def killed_clients(server: Server, count: int) -> Iterator[None]:
    """Kill clients, which are processes of their own, while they ask."""
    body = json.dumps({"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1, 1], "data": ["A text."]}]})
    command = [sys.executable, "-c", KILLED_CLIENT, f"http://{server.http}/v2/models/{JOINED}/infer", body]
    clients = [subprocess.Popen(command) for _ in range(count)]
    timers = [threading.Timer(SECONDS * (place + 1) / (count + 1), client.kill) for place, client in enumerate(clients)]
    for timer in timers:
        timer.start()
    yield
    for timer, client in zip(timers, clients, strict=True):
        timer.join()
        assert client.wait() < 0
