"""Measures on a GPU within a few minutes, and writes every result as soon as it is known.

`python -m benchmarks.gpu.run --pieces FOLDER --output FOLDER` unpacks what prepare made, installs its wheels into a
folder of its own, and runs the steps, each in a process of its own. A step that fails or hangs costs the others
nothing; one that no time is left for is left out, which the results say. `--device cpu` rehearses all of it.
Without `--pieces` it takes the bundles of `prepare` where they are, and the packages that are installed.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from benchmarks.gpu.page import write_page
from benchmarks.gpu.pieces import unpack
from benchmarks.gpu.results import Fact, Results

ROOT: Final = Path(__file__).parents[2]
CONTENT: Final = ROOT / "build/gpu/content"
SECONDS: Final = 460
"""How long a run takes at most: less than eight minutes."""
LEAST_SECONDS: Final = 20
"""A step is not begun with less time than this."""
MOST_WORDS: Final = 2000
"""How many characters of what a failed step printed are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStep:
    """A part of a run: its name, a function that runs it in a process of its own, and the most seconds that it gets."""

    name: str
    function: Callable[[Path, str, Results], None]
    most_seconds: int


# -- the steps, in the order of what is wanted most --------------------------------------------------------------------


def describe(_content: Path, device: str, results: Results) -> None:
    """Write what the machine is."""
    from benchmarks.gpu.device import DEVICES

    results.add("machine", {"device": device, **DEVICES[device].described()})


def compare(content: Path, device: str, results: Results) -> None:
    """Compare the answers of every task."""
    from benchmarks.gpu.answers import check_answers
    from benchmarks.gpu.device import DEVICES

    check_answers(content / "bundles", DEVICES[device], results)


def measure(content: Path, device: str, results: Results, *, network: str) -> None:
    """Measure a network."""
    from benchmarks.gpu.device import DEVICES
    from benchmarks.gpu.networks import NETWORKS, small
    from benchmarks.gpu.speed import measure_encoders, measure_writers

    chosen = NETWORKS[network]
    if json.loads((content / "facts.json").read_text(encoding="utf-8"))["small"]:
        chosen = small(chosen)
    function = measure_writers if network == "writer" else measure_encoders
    function(content / "bundles", chosen, DEVICES[device], results)


def run_tests(_content: Path, _device: str, results: Results) -> None:
    """Run the tests that are marked gpu, and write how they ended."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-m",
        "gpu",
        "-q",
        "-p",
        "no:randomly",
        "-p",
        "no:cacheprovider",
        "tests/gpu",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603 # pytest
    results.add("tests", {"exit_code": done.returncode, "words": (done.stdout + done.stderr)[-MOST_WORDS:]})


STEPS: Final = (
    RunStep(name="machine", function=describe, most_seconds=60),
    RunStep(name="answers", function=compare, most_seconds=120),
    RunStep(name="decoding", function=partial(measure, network="writer"), most_seconds=120),
    RunStep(name="encoders", function=partial(measure, network="tagger"), most_seconds=300),
    RunStep(name="tests", function=run_tests, most_seconds=300),
)


# -- running them ------------------------------------------------------------------------------------------------------


def main() -> None:
    """Run one step, or all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pieces", type=Path, help="the folder of the pieces [default: take build/gpu/content]")
    parser.add_argument("--output", type=Path, required=True, help="the folder of the results")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"the most seconds in all [default: {SECONDS}]")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    parser.add_argument("--content", type=Path, default=CONTENT, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    results = Results(arguments.output)
    if arguments.step:
        step = next(step for step in STEPS if step.name == arguments.step)
        step.function(arguments.content, arguments.device, results)
        return
    arguments.output.mkdir(parents=True, exist_ok=True)
    results.begin()
    run_all(arguments, results)
    write_page(results)


def run_all(arguments: Any, results: Results) -> None:
    """Unpack, install, and run every step that there is time for."""
    end = time.monotonic() + arguments.seconds
    with tempfile.TemporaryDirectory() as scratch:
        content, packages = arguments.content, None
        if arguments.pieces is not None:
            content, packages = Path(scratch) / "content", Path(scratch) / "packages"
            unpack(arguments.pieces, content)
            install(content / "wheels", packages)
            results.add("step", {"name": "unpack", "seconds": round(arguments.seconds - (end - time.monotonic()))})
        for step in STEPS:
            left = end - time.monotonic()
            if left < LEAST_SECONDS:
                results.add("left_out", {"what": step.name, "because": "no time was left"})
                continue
            run_step(step, arguments, content, results, environment=environment(packages), seconds=left)


def install(wheels: Path, packages: Path) -> None:
    """Install the wheels, with nothing from outside, into a folder that goes before those of the machine."""
    files = [str(path) for path in sorted(wheels.glob("*.whl"))]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile"]
    if files:
        subprocess.run([*command, "--target", str(packages), *files], check=True)  # noqa: S603 # pip


def environment(packages: Path | None) -> Mapping[str, str]:
    """Return the environment of a step: this repository, and before the machine's packages, those of the wheels."""
    folders = [*([packages] if packages else []), ROOT, ROOT / "model", ROOT / "graphs", ROOT / "runtime"]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders)), "PYTHONUNBUFFERED": "1"}


def run_step(
    step: RunStep, arguments: Any, content: Path, results: Results, *, environment: Mapping[str, str], seconds: float
) -> None:
    """Run a step in a process of its own, which ends when its time is over, and write how it ended."""
    started = time.monotonic()
    command = [sys.executable, "-m", "benchmarks.gpu.run", "--step", step.name, "--content", str(content.absolute())]
    command += ["--output", str(arguments.output.absolute()), "--device", arguments.device]
    code, words = run_process(command, environment, seconds=min(step.most_seconds, seconds))
    end: Fact = {"exit_code": code} | ({"words": words[-MOST_WORDS:]} if code != 0 else {})
    results.add("step", {"name": step.name, "seconds": round(time.monotonic() - started), **end})


def run_process(command: Sequence[str], environment: Mapping[str, str], *, seconds: float) -> tuple[int | None, str]:
    """Run a command, and return its exit code and what it wrote to stderr.

    When its time is over, it ends with all processes that it has started, and the exit code is None.
    """
    with subprocess.Popen(  # noqa: S603 # this module
        command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            _, words = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return None, "its time was over"
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return process.returncode, words


if __name__ == "__main__":
    main()
