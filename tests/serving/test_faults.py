"""Overload, processes that end, and a stop: requests are answered, or refused in a way that clients can try again."""

import contextlib
import http.client
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.runtime.bundles import CORPUS
from tests.serving.comparison import same
from tests.serving.server import Answer, Server, running_server, wait_until

NAME = "token-classification"
TAG = f"/predict/{NAME}"
QUEUE = 4
LONG = " ".join(CORPUS) * 20
"""A text of many windows, which keeps a replica busy."""


@pytest.fixture(scope="module")
def small(_extra: None, folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Return a server of a tagger with a short queue."""
    arguments = [f"{NAME}={folders[NAME]}", "--queue", str(QUEUE), "--batch-size", "1", "--replicas", "2"]
    arguments += ["--timeout", "120"]  # a process that was killed may take long to be back where tests run
    with running_server(arguments, tmp_path_factory.mktemp("small")) as server:
        yield server


def ask_at_once(server: Server, texts: list[str]) -> list[Answer]:
    with ThreadPoolExecutor(len(texts)) as clients:
        return list(clients.map(lambda text: server.ask(TAG, {"inputs": text}), texts))


def ask_until_answered(server: Server, text: str) -> Any:
    """Ask as a client does that tries again where the server says so."""
    while (answer := server.ask(TAG, {"inputs": text})).status != 200:
        assert (answer.status, answer.headers.get("retry-after")) == (503, "1"), answer.body
    return answer.document


def test_overload_is_refused_at_once_with_the_time_to_come_back(small: Server) -> None:
    expected = ask_until_answered(small, LONG)
    answers = ask_at_once(small, [LONG] * 40)
    refused = [one for one in answers if one.status != 200]
    for one in answers:
        if one.status == 200:
            same(one.document, expected)
    assert 0 < len(refused) < len(answers)
    assert {(one.status, one.headers["retry-after"]) for one in refused} == {(503, "1")}
    assert all(re.search(rf"wait for '{NAME}', of at most {QUEUE}", one.document["error"]) for one in refused)
    assert small.ask("/v2/health/ready").status == 200
    # The log has a line a second, also of requests that other tests made.
    wait_until(lambda: all(one.headers["x-request-id"] in small.text_of_log() for one in refused))
    counts = rf"(\d+) requests, because the queue of '{NAME}' is full"
    assert sum(map(int, re.findall(counts, small.text_of_log()))) >= len(refused)
    assert "of at most" not in small.text_of_log()


def test_a_connection_stays_open_between_requests(small: Server) -> None:
    """A proxy keeps its connections for some time, and loses what it sends into one that is just being closed."""
    with contextlib.closing(http.client.HTTPConnection(small.address, timeout=60)) as connection:
        for seconds in (7, 0):
            connection.request("GET", "/v2/health/live")
            assert connection.getresponse().read()
            time.sleep(seconds)


def test_processes_that_are_killed_are_started_anew_and_no_answer_is_wrong(small: Server) -> None:
    expected = {text: ask_until_answered(small, text) for text in [LONG, *CORPUS[:3]]}
    before = small.processes(NAME)
    assert len(before) == 2
    stop = threading.Event()
    found: list[str] = []

    def client(text: str) -> None:
        while not stop.is_set():
            same(ask_until_answered(small, text), expected[text])
            found.append(text)

    with ThreadPoolExecutor(3 + QUEUE) as clients:
        asking = [clients.submit(client, text) for text in [*[LONG] * QUEUE, *CORPUS[:3]]]
        # What Ray has not sent to a process yet is no loss: each has work once long texts are answered and others wait.
        wait_until(lambda: LONG in found and waiting(small) > 0)
        for number in before:
            os.kill(number, signal.SIGKILL)
        while len(after := small.processes(NAME)) < 2 or set(after) & set(before):
            stop.wait(0.2)
        while small.ask("/v2/health/ready").status != 200:
            stop.wait(0.2)
        stop.set()
        for one in asking:
            one.result()  # raises for an answer that was wrong
    assert found
    ended = re.findall(rf"the process of '{NAME}' ended \(\w+\); trying (\d+) items again", small.text_of_log())
    assert sum(map(int, ended)) == counted(small, "rpln_retried_items_total{.*}") > 0
    assert counted(small, "rpln_ended_processes_total{.*}") >= len(ended)
    assert f"'{NAME}' answers again" in small.text_of_log()


@pytest.mark.usefixtures("_extra")
def test_a_stop_lets_running_and_waiting_requests_finish(folders: dict[str, Path], tmp_path: Path) -> None:
    with running_server([f"{NAME}={folders[NAME]}", "--batch-size", "1"], tmp_path) as server:
        expected = server.ask(TAG, {"inputs": LONG}).document
        with ThreadPoolExecutor(12) as clients:
            asked = [clients.submit(server.ask, TAG, {"inputs": LONG}) for _ in range(12)]
            wait_until(lambda: waiting(server) > 4)
            server.process.send_signal(signal.SIGTERM)
            answers = [one.result() for one in asked]
        for one in answers:
            assert one.status == 200
            same(one.document, expected)
        assert server.process.wait(60) == 0
        assert re.search(r"stopping: \d+ requests are finished first.*\n.* stopped\n$", server.text_of_log())
        with pytest.raises(ConnectionRefusedError):
            server.ask("/v2/health/live")


def waiting(server: Server) -> float:
    """Return how many items wait."""
    return counted(server, "rpln_queue_items{.*}")


def counted(server: Server, metric: str) -> float:
    """Return the sum of the metrics that match `metric`."""
    found = re.findall(rf"^{metric} (\S+)", server.ask("/metrics").body.decode(), re.MULTILINE)
    return sum(map(float, found))
