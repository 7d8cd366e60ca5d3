"""A corpus on a local Ray with two CPUs, in a process of its own, because Ray changes the process that uses it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from rpln_runtime import MissingExtraError
from rpln_runtime.corpus import run_corpus
from rpln_runtime.corpus.on_ray import answer_windows_on_ray
from rpln_runtime.corpus.opening import Opening
from rpln_runtime.corpus.reading import Span
from tests.runtime.bundles import CORPUS, Bundle

needs_ray = pytest.mark.skipif(
    find_spec("ray") is None and os.environ.get("CI") != "true",
    reason='Ray is not installed: pip install "rpln-runtime[ray]"',
)

ON_RAY = """
import json, sys
import ray
from rpln_runtime import InputError
from rpln_runtime.corpus import run_corpus

folder, work = sys.argv[1:]
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
told = {}

def run(source, output, **options):
    told[output] = []
    try:
        run_corpus(folder, f"{work}/{source}", f"{work}/{output}", window=4, ray=True, **options,
                   on_progress=lambda progress, size: told[output].append(progress.lines))
    except InputError as error:
        told[output].append(str(error))

run("good", "two-actors", actors=2)
run("bad", "stopped")
run("bad", "recorded", on_error="record", actors=1)
run("empty", "nothing")
print(json.dumps(told))
"""


def write_corpus(path: Path, texts: Sequence[str | None]) -> None:
    path.write_text("".join(json.dumps({"id": n, "text": text}) + "\n" for n, text in enumerate(texts)))


@pytest.fixture(scope="module")
def ray_runs(bundle_of: Callable[..., Bundle], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """Return the folder that Ray's runs wrote to, and the progress that each reported."""
    work = tmp_path_factory.mktemp("ray")
    texts = [CORPUS[n % 4] * (1 + n % 3) for n in range(30)]
    write_corpus(work / "good", texts)
    write_corpus(work / "bad", [*texts[:21], None, *texts[22:]])
    write_corpus(work / "empty", [])
    command = [sys.executable, "-c", ON_RAY, str(bundle_of("token-classification").folder), str(work)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return work, json.loads(done.stdout.splitlines()[-1])


@needs_ray
@pytest.mark.slow
@pytest.mark.parametrize(("source", "output"), [("good", "two-actors"), ("bad", "recorded")])
def test_actors_write_what_one_process_writes_in_the_same_order(
    ray_runs: tuple[Path, Any], bundle_of: Callable[..., Bundle], source: str, output: str, tmp_path: Path
) -> None:
    work, told = ray_runs
    folder = bundle_of("token-classification").folder
    run_corpus(folder, work / source, tmp_path / "expected", window=4, on_error="record", threads=1)
    assert (work / output).read_bytes() == (tmp_path / "expected").read_bytes()
    assert told[output] == [0, 4, 8, 12, 16, 20, 24, 28, 30]
    assert not (work / f"{output}.journal").exists()


@needs_ray
@pytest.mark.slow
def test_a_bad_line_stops_the_actors_and_one_process_goes_on_from_there(
    ray_runs: tuple[Path, Any], bundle_of: Callable[..., Bundle]
) -> None:
    work, told = ray_runs
    *lines, message = told["stopped"]
    assert lines == [0, 4, 8, 12, 16, 20]
    assert f"{work / 'bad'}, line 22: its 'text' is None" in message
    resumed: list[int] = []
    run_corpus(
        bundle_of("token-classification").folder,
        work / "bad",
        work / "stopped",
        window=4,
        on_error="record",
        on_progress=lambda progress, size: resumed.append(progress.lines),
    )
    assert resumed == [20, 24, 28, 30]
    assert (work / "stopped").read_bytes() == (work / "recorded").read_bytes()


@needs_ray
@pytest.mark.slow
def test_an_empty_corpus_needs_no_actors(ray_runs: tuple[Path, Any]) -> None:
    work, told = ray_runs
    assert told["nothing"] == [0]
    assert (work / "nothing").read_bytes() == b""


def test_without_ray_the_command_to_install_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    span = Span(first=1, count=1, start=0, stop=1, sha256="")
    answers = answer_windows_on_ray(
        iter([(span, [b"{}"])]), source=tmp_path / "in", opening=Opening(folder=tmp_path), actors=None
    )
    with pytest.raises(MissingExtraError, match=r'pip install "rpln-runtime\[ray\]"'):
        next(answers)
