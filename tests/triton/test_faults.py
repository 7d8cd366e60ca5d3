"""What a server does when it is asked too much, when a process of a step dies, and when it is told to stop."""

import json
import os
import signal
import subprocess
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc
import yaml

from rpln_runtime.triton import write_repository
from tests.triton.clients import grpc_inputs, request_body, texts
from tests.triton.networks import ToyBundle
from tests.triton.server import Server, free_port, triton_server

DEPLOY = Path(__file__).parents[2] / "docs" / "deploy"
QUEUE_SIZE = 8
ASKED = 60
OK, REFUSED = "OK", "UNAVAILABLE"


def write_slow(bundle: ToyBundle, repository: Path, *, name: str, count: int = 2) -> None:
    """Write a tagger whose model takes a second for each text, with `count` instances and a short queue."""
    write_repository(bundle.folder, repository, name=name, batch_size=1)
    config = repository / f"{name}_model" / "configs" / "cpu.pbtxt"
    text = config.read_text(encoding="utf-8")
    for old, new in (("max_queue_size: 1024", f"max_queue_size: {QUEUE_SIZE}"), ("count: 2", f"count: {count}")):
        assert old in text
        text = text.replace(old, new)
    slow = 'parameters { key: "stand_in_seconds" value { string_value: "1" } }\n'
    warm = text.index("model_warmup")
    config.write_text(text[:warm] + slow, encoding="utf-8")


@pytest.fixture(scope="module")
def metrics() -> int:
    """Return the port of the metrics."""
    return free_port()


@pytest.fixture(scope="module")
def slow(
    environment: Path, bundle_of: Callable[[str], ToyBundle], metrics: int, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """Return a server of slow taggers with one and with two instances, called slow1 and slow2."""
    repositories, work = tmp_path_factory.mktemp("repositories"), tmp_path_factory.mktemp("server")
    for count in (1, 2):
        name = f"slow{count}"
        write_slow(bundle_of("token-classification"), repositories / name, name=name, count=count)
    flags = ["--allow-metrics=true", f"--metrics-port={metrics}"]
    with triton_server(environment, sorted(repositories.iterdir()), work, flags) as server:
        wait_until_ready(server)
        yield server


def wait_until_ready(server: Server) -> None:
    while server.get("health/ready")[0] != 200:
        time.sleep(0.1)


class Burst:
    """Requests that are sent at once over gRPC. `statuses` counts how they ended so far."""

    def __init__(self, server: Server, model: str, count: int, *, timeout_us: int | None = None) -> None:
        self.statuses: Counter[str] = Counter()
        self.messages: set[str] = set()
        self._done, self._count = threading.Semaphore(0), count
        self._client = tritonclient.grpc.InferenceServerClient(server.grpc)
        for place in range(count):
            inputs = grpc_inputs({"text": texts(f"A text, number {place}.")})
            self._client.async_infer(model, inputs, self._ended, timeout=timeout_us)

    def _ended(self, result: Any, error: Any) -> None:
        self.statuses[OK if error is None else error.status().removeprefix("StatusCode.")] += 1
        if error is not None:
            self.messages.add(error.message())
        self._done.release()

    @property
    def open(self) -> int:
        """How many requests have not ended."""
        return self._count - self.statuses.total()

    def wait(self) -> None:
        assert all(self._done.acquire(timeout=60) for _ in range(self._count))
        self._client.close()


def metric(port: int, name: str, **labels: str) -> float:
    """Return the sum of a metric over all rows with these labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as response:
        lines = response.read().decode().splitlines()
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    rows = [line for line in lines if line.startswith(f"{name}{{") and all(one in line for one in wanted)]
    return sum(float(row.rsplit(" ", 1)[1]) for row in rows)


@pytest.mark.parametrize("model", ["slow1", "slow2"])
def test_what_a_full_queue_does_not_take_is_refused_at_once(slow: Server, metrics: int, model: str) -> None:
    burst, most = Burst(slow, model, ASKED), 0.0
    codes: set[int] = set()
    while burst.open:
        pending = metric(metrics, "nv_inference_pending_request_count", model=f"{model}_model")
        most = max(most, pending)
        if pending == QUEUE_SIZE and not codes:
            codes.add(slow.post(f"models/{model}/infer", request_body({"text": texts("One more.")}))[0])
        time.sleep(0.02)
    burst.wait()
    assert most == QUEUE_SIZE
    assert burst.statuses.keys() == {OK, REFUSED}
    assert all("Exceeds maximum queue size" in message for message in burst.messages)
    # Those in the queue, and one or two that an instance takes before the queue is full.
    assert QUEUE_SIZE < burst.statuses[OK] < ASKED / 2
    assert codes == {503}
    # The alert on failing steps is about servers at fault, and this one is not.
    assert metric(metrics, "nv_inference_request_failure", model=f"{model}_model", reason="BACKEND") == 0


def test_the_timeout_of_a_client_counts_in_every_step(slow: Server) -> None:
    burst = Burst(slow, "slow2", 2 + QUEUE_SIZE, timeout_us=300_000)
    burst.wait()
    assert burst.statuses.keys() == {OK, REFUSED}
    assert burst.messages == {"in ensemble 'slow2', Request timeout expired"}
    # The model takes two texts a second, so all would be answered in half a minute.
    assert burst.statuses[REFUSED] >= QUEUE_SIZE / 2


def test_a_dead_step_fails_the_probe_and_leaves_the_server_ready(
    environment: Path, bundle_of: Callable[[str], ToyBundle], tmp_path: Path
) -> None:
    repository, port = tmp_path / "repository", free_port()
    work = tmp_path / "work"
    work.mkdir()
    write_repository(bundle_of("token-classification").folder, repository, name="tagger")
    flags = ["--cache-config=local,size=1048576", "--allow-metrics=true", f"--metrics-port={port}"]
    with triton_server(environment, [repository], work, flags) as server:
        wait_until_ready(server)
        wrong = request_body({"text": texts("A text."), "options": texts("[]")})
        assert server.post("models/tagger/infer", wrong)[0] == 400
        assert probe(server, server_pid=server.process.pid).returncode == 0
        kill_process_of(repository / "tagger_answers")
        seen = probe(server, server_pid=server.process.pid)
        asked = probe(server, server_pid=0)
        assert (seen.returncode, asked.returncode) == (1, 1)
        assert "a step of a model is dead" in seen.stderr
        assert "answered 500" in asked.stderr
        for path in ("health/live", "health/ready", "models/tagger/ready", "models/tagger_answers/ready"):
            assert server.get(path)[0] == 200
        # What the alert asks for: the dead step counts, and the wrong request does not.
        assert metric(port, "nv_inference_request_failure", model="tagger_answers", reason="BACKEND") > 0
        assert metric(port, "nv_inference_request_failure", model="tagger_tokenizer") == 0


def probe(server: Server, *, server_pid: int) -> subprocess.CompletedProcess[str]:
    """Run the probe as docs/deploy/triton.yaml writes it, with the server's address."""
    (deployment, *_) = yaml.safe_load_all((DEPLOY / "triton.yaml").read_text(encoding="utf-8"))
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    path, url, body = container["readinessProbe"]["exec"]["command"]
    return run_probe(path, url.replace("localhost:8000", server.http), body, server_pid=server_pid)


def run_probe(path: str, url: str, body: str, *, server_pid: int) -> subprocess.CompletedProcess[str]:
    command = ["sh", str(DEPLOY / Path(path).name), url, body]
    variables = os.environ | {"SERVER_PID": str(server_pid)}
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=False)


def kill_process_of(model: Path) -> None:
    """Kill one of the processes that run a step."""
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = command.read_bytes()
        except OSError:  # it ended meanwhile
            continue
        if f"{model}/1/model.py".encode() in words:
            os.kill(int(command.parent.name), signal.SIGKILL)
            return
    raise AssertionError(f"no process runs {model}")


@pytest.mark.parametrize(
    ("statuses", "code", "says", "questions"),
    [
        ([200, 200, 200, 200], 0, "", 4),
        ([503], 0, "", 1),
        ([200, 429], 0, "", 2),
        ([200, 500], 1, "answered 500", 2),
        ([302], 1, "answered 302", 1),
        ([400], 2, "refuses the question of the probe (400): correct URL or BODY", 1),
        ([404], 2, "refuses the question of the probe (404)", 1),
        ([], 1, "answered 000", 0),
    ],
)
def test_a_busy_server_passes_the_probe(statuses: list[int], code: int, says: str, questions: int) -> None:
    asked: list[str] = []

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["text"])
            self.send_response(statuses[len(asked) - 1])
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        port = server.server_port
        if statuses:
            threading.Thread(target=server.serve_forever).start()
        else:
            server.server_close()  # nobody listens
        done = run_probe("/probe.sh", f"http://127.0.0.1:{port}", '{"text": "TEXT"}', server_pid=0)
        if statuses:
            server.shutdown()
    assert (done.returncode, says in done.stderr) == (code, True), done.stderr
    assert len(set(asked)) == questions  # each question has a text of its own


@pytest.mark.parametrize("connected", [False, True], ids=["grpc", "grpc beside an open connection of http"])
def test_at_a_stop_requests_are_answered_as_long_as_a_connection_over_http_is_open(
    environment: Path, bundle_of: Callable[[str], ToyBundle], tmp_path: Path, *, connected: bool
) -> None:
    """Triton 24.10 waits for connections over HTTP first; then no request gets to its next step."""
    write_slow(bundle_of("token-classification"), tmp_path / "repository", name="slow")
    with triton_server(environment, [tmp_path / "repository"], tmp_path, ["--exit-timeout-secs=30"]) as server:
        wait_until_ready(server)
        client = open_connection(server) if connected else None
        burst = Burst(server, "slow", 1 + QUEUE_SIZE)
        while not burst.statuses[OK]:
            time.sleep(0.02)
        server.process.send_signal(signal.SIGTERM)
        burst.wait()
        if client:
            client.close()
        assert server.process.wait(60) == 0
    if connected:
        assert burst.statuses == {OK: 1 + QUEUE_SIZE}
    else:
        assert burst.statuses.keys() == {OK, REFUSED}
        assert all("Server is stopping" in message for message in burst.messages)


def open_connection(server: Server) -> HTTPConnection:
    """Return a connection that has been used and stays open."""
    connection = HTTPConnection(server.http)
    connection.request("GET", "/v2/health/live")
    connection.getresponse().read()
    return connection
