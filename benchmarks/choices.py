"""Exports one checkpoint many times, half of them beside a process that burns a core, and counts the forms chosen.

A choice is good if it is the same every time: gains that come and go with other work on the machine are no gains. The
results go to benchmarks/results/choices.md.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.machine import describe_machine, versions_of

RESULTS: Final = Path(__file__).with_name("results") / "choices.md"
EXPORTS: Final = 20
TASK: Final = "token-classification"
BURN: Final = "while True: pass"
"""What the process beside an export does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What one export chose: where the graph runs, in which form, with which threads, and what it measured."""

    burning: bool
    load: float
    chosen: str
    threads: str
    speeds: str
    seconds: float


def main() -> None:
    """Export, calm and busy in turn, and write the table after each export."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--exports", type=int, default=EXPORTS)
    parser.add_argument("--checkpoint", help="a folder; by default the embedded tagger")
    arguments = parser.parse_args()
    made: list[Made] = []
    for number in range(arguments.exports):
        burning = number % 2 == 1
        with tempfile.TemporaryDirectory() as folder, _burner(burning):
            made.append(_export(arguments.checkpoint, Path(folder) / "out", burning=burning))
        print(made[-1], flush=True)
        RESULTS.write_text(_markdown(made, arguments.checkpoint), encoding="utf-8")


@contextmanager
def _burner(burning: bool) -> Iterator[None]:  # noqa: FBT001 - one name says what it is
    """Let another process keep one core busy meanwhile, if `burning`."""
    if not burning:
        yield
        return
    with subprocess.Popen([sys.executable, "-c", BURN]) as process:  # noqa: S603 - the constant above
        try:
            yield
        finally:
            process.kill()


def _export(checkpoint: str | None, folder: Path, *, burning: bool) -> Made:
    """Export in a process of its own and return what it chose."""
    command = [sys.executable, "-m", "rpln_export.cli", *([checkpoint] if checkpoint else [])]
    command += ["--task", TASK, "-o", str(folder), "--engine", "none"]
    subprocess.run(command, check=True, capture_output=True)  # noqa: S603 - this project's command
    load = os.getloadavg()[0]
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    optimization = report["optimization"]
    rows = [row for row in optimization["candidates"] if row["speedup"] is not None]
    (chosen,) = [row for row in rows if row["outcome"] == "chosen"]
    threads = "every core" if optimization["threads"] is None else str(optimization["threads"])
    return Made(
        burning=burning,
        load=load,
        chosen=f"{chosen['form']} on {chosen['provider']}",
        threads=f"{threads}, {'spinning' if optimization['spinning'] else 'waiting'}",
        speeds=", ".join(
            f"{row['form']} on {row['provider']} {row['speedup']:.2f} ({row['speedup_low']:.2f} to "
            f"{row['speedup_high']:.2f})"
            for row in rows
            if (row["form"], row["provider"]) != ("standard", "cpu")
        ),
        seconds=sum(step["seconds"] for step in report["steps"] if step["name"] == "optimize"),
    )


def _markdown(made: Sequence[Made], checkpoint: str | None) -> str:
    machine = describe_machine(threads=os.cpu_count() or 1)
    forms = Counter(row.chosen for row in made).most_common()
    threads = Counter(row.threads for row in made).most_common()
    burning = sum(row.burning for row in made)
    lines = [
        "# Choices of twenty exports" if len(made) == EXPORTS else f"# Choices of {len(made)} exports",
        "",
        f"`python -m benchmarks.choices`: exports of {Path(checkpoint).name if checkpoint else 'the embedded tagger'} "
        f"in turn, {burning} of them beside a process that burns a core.",
        "",
        f"{machine['processor']}, {machine['cores']} cores, {machine['system']}; "
        + ", ".join(f"{name} {version}" for name, version in versions_of(("onnxruntime", "openvino")).items())
        + ".",
        "",
        f"- The same form in {forms[0][1]} of {len(made)}: {', '.join(f'{name}: {count}' for name, count in forms)}.",
        f"- Threads: {', '.join(f'{name}: {count}' for name, count in threads)}.",
        "",
        "The load is the number of processes that want to run, as the system counts them after each export. The speeds "
        "are medians with their intervals, relative to the standard form on ONNX Runtime.",
        "",
        "| export | beside | load | chosen | threads | speeds | seconds to measure |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {number} | {'a burnt core' if row.burning else ''} | {row.load:.1f} | {row.chosen} | {row.threads} | "
        f"{row.speeds} | {row.seconds:.0f} |"
        for number, row in enumerate(made, 1)
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
