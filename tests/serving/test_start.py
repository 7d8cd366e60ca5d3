"""A start: it is refused before anything runs, stopped at any time, and bounded."""

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rpln_runtime.errors import ProviderError
from rpln_runtime.serve import ServeSettings, bundles_from_arguments, replicas, server, stopping
from rpln_runtime.serve.__main__ import main
from tests.serving.server import descendants, running_server, wait_until
from tests.serving.test_faults import LONG, NAME, TAG, waiting

BUNDLE = Path(__file__).parents[1] / "data" / "bundles-0.1.0" / "token-classification"
SERVE = [sys.executable, "-m", "rpln_runtime.serve", f"tagger={BUNDLE}", "--port", "0", "--provider", "cpu"]
BROKEN = """
import sys, time
from functools import partial

from rpln_runtime.command_line import exit_code_of
from rpln_runtime.errors import ManifestError
from rpln_runtime.serve import ServeSettings, bundles_from_arguments, server
from rpln_runtime.serve.replicas import deployment

class Broken:
    def __init__(self, *_):
        raise ManifestError("it is broken.")

class Late:
    def __init__(self, *_):
        time.sleep(1000)

server.START_SECONDS = int(sys.argv[3])
deploy = partial(deployment, kind=globals()[sys.argv[2]])
run = partial(server.run_server, host="127.0.0.1", port=0, on_ready=print, deploy=deploy)
bundles = bundles_from_arguments(["tagger=" + sys.argv[1]])
sys.exit(exit_code_of(lambda: run(bundles, ServeSettings()), interrupted="Stopped."))
"""


@pytest.fixture
def _no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail where Ray is imported."""

    def fail() -> None:
        raise AssertionError

    monkeypatch.setattr(server, "import_serve", fail)


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.mark.usefixtures("_no_ray")
@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--provider", "cuda"], 5, "has no provider 'cuda'"),
        (["--port", "70000"], 3, "port is 70000, expected an integer, 0 to 65535"),
        (["--port", "-1"], 3, "port is -1"),
        (["--host", "x" * 64 + ".invalid"], 3, "choose another --host or --port"),
    ],
)
def test_what_cannot_start_is_refused_before_anything_runs(
    arguments: list[str], code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([f"tagger={BUNDLE}", *arguments]) == code
    assert says in capsys.readouterr().err


@pytest.mark.usefixtures("_no_ray")
def test_a_port_that_is_taken_is_refused(taken_port: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"tagger={BUNDLE}", "--provider", "cpu", "--port", str(taken_port)]) == 3
    assert f"127.0.0.1:{taken_port}" in capsys.readouterr().err


def test_each_process_needs_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    bundles = bundles_from_arguments([f"a={BUNDLE}", f"b={BUNDLE}"])
    monkeypatch.setattr(replicas, "check_installed", lambda _: None)
    monkeypatch.setattr(replicas, "count_gpus", lambda: 3)
    assert replicas.gpus_for(bundles, ServeSettings(provider="cpu", replicas=9)) == 0
    assert replicas.gpus_for(bundles, ServeSettings(provider="cuda")) == 2
    with pytest.raises(ProviderError, match="4 are needed, and CUDA finds 3 here"):
        replicas.gpus_for(bundles, ServeSettings(provider="cuda", replicas=2))


@pytest.mark.usefixtures("_extra")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("title", ["raylet", "ray::ServeReplica:tagger:"])
def test_a_start_that_is_stopped_ends_with_a_line_and_leaves_nothing(
    number: signal.Signals, title: str, tmp_path: Path
) -> None:
    with (tmp_path / "out").open("wb") as out, (tmp_path / "err").open("wb") as errors:
        process = subprocess.Popen(SERVE, stdout=out, stderr=errors)
    wait_until(lambda: any(title in found for _, found in descendants(process.pid)))
    below = [pid for pid, _ in descendants(process.pid)]
    process.send_signal(number)
    assert process.wait(60) == 130
    assert (tmp_path / "out").read_text(encoding="utf-8") == ""
    assert (tmp_path / "err").read_text(encoding="utf-8") == "Stopped while it started.\n"
    wait_until(lambda: not any(map(runs, below)))


@pytest.mark.usefixtures("_extra")
@pytest.mark.parametrize(
    ("kind", "seconds", "code", "says"),
    [
        (
            "Broken",
            600,
            1,
            "Error: the bundle 'tagger' cannot be opened: rpln_runtime.errors.ManifestError: it is broken.",
        ),
        ("Late", 3, 1, "Error: tagger: not open within 3 seconds."),
    ],
)
def test_a_bundle_that_does_not_open_ends_the_start(kind: str, seconds: int, code: int, says: str) -> None:
    command = [sys.executable, "-c", BROKEN, str(BUNDLE), kind, str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith(says)


@pytest.mark.usefixtures("_extra")
def test_a_closed_terminal_may_say_so_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[str] = []
    monkeypatch.setattr(stopping, "_end_at_once", lambda: ended.append("ended"))
    stop = stopping.Stop()
    stop.note(signal.SIGHUP, None)
    stop.note(signal.SIGHUP, None)
    assert stop.wait()
    assert not ended
    stop.note(signal.SIGTERM, None)
    assert ended == ["ended"]


def test_a_second_signal_ends_a_stop_at_once(folders: dict[str, Path], tmp_path: Path) -> None:
    with running_server([f"{NAME}={folders[NAME]}", "--batch-size", "1"], tmp_path) as small:
        below = [pid for pid, _ in descendants(small.process.pid)]
        with ThreadPoolExecutor(12) as clients:
            asked = [clients.submit(small.ask, TAG, {"inputs": LONG}) for _ in range(12)]
            wait_until(lambda: waiting(small) > 5)
            small.process.send_signal(signal.SIGTERM)
            wait_until(lambda: "stopping: " in small.text_of_log())
            small.process.send_signal(signal.SIGTERM)
            assert small.process.wait(60) == 130
            assert any(one.exception() for one in asked)
        assert small.text_of_log().endswith("Ended at once by a second signal.\n")
        wait_until(lambda: not any(map(runs, below)))


def runs(pid: int) -> bool:
    """Return whether a process has this id."""
    return Path(f"/proc/{pid}").exists()
