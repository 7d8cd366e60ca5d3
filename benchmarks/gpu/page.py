"""The page of a run: what the machine is, whether answers are right, how fast everything is, and what was left out.

`python -m benchmarks.gpu.page FOLDER` writes gpu.md beside the results in the folder.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.gpu.results import Fact, Results

PAGE: Final = "gpu.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """At least how many times as fast as `against` the fastest of ours is to be in a case."""

    case: str
    against: str
    speed: float


GOALS: Final = (
    Goal(case="b1 s128", against="torch.compile fp16", speed=1.5),
    Goal(case="b32 s384", against="torch.compile fp16", speed=1.0),
    Goal(case="mixed", against="torch.compile fp16", speed=3.0),
    Goal(case="decoding b1", against="torch fp16", speed=3.0),
)


def write_page(results: Results) -> None:
    """Write the page beside the results."""
    (results.folder / PAGE).write_text(page_from_results(results), encoding="utf-8")


def page_from_results(results: Results) -> str:
    """Return the page, in Markdown."""
    return "\n".join(_lines(results)) + "\n"


def _lines(results: Results) -> Iterator[str]:
    unknown: Fact = {"device": "a machine that could not be described"}
    machine = next(results.of_kind("machine"), unknown)
    yield from ("# On a GPU", "")
    if machine["device"] != "cuda":
        yield "**Rehearsed, not run**: there was no GPU, and the CPU stood in for it. Ratios mean nothing here."
        yield ""
    yield ", ".join(f"{name}: {value}" for name, value in machine.items() if name not in {"kind", "versions"})
    yield ""
    yield ", ".join(f"{name} {version}" for name, version in machine.get("versions", {}).items())
    yield from ("", "## Answers", "")
    yield from _answers(list(results.of_kind("answer")))
    yield from ("", "## Speed", "")
    yield from _speeds(list(results.of_kind("speed")))
    yield from ("", "## Goals", "")
    if machine["device"] == "cuda":
        yield from _goals(list(results.of_kind("speed")))
    else:
        yield "A rehearsal says nothing about them."
    yield from ("", "## Steps", "")
    for step in results.of_kind("step"):
        words = f": `{step['words'].splitlines()[-1]}`" if step.get("words") else ""
        yield f"- {step['name']}: {step['seconds']} s, {_end(step)}{words}"
    for tests in results.of_kind("tests"):
        yield f"- `pytest -m gpu`: {tests['words'].strip().splitlines()[-1]}"
    yield from ("", "## Left out", "")
    yield from (f"- {fact['what']}: {fact['because']}" for fact in results.of_kind("left_out"))


def _end(step: Fact) -> str:
    code = step.get("exit_code", 0)
    return "done" if code == 0 else "ended" if code is None else f"failed with exit code {code}"


def _answers(facts: Sequence[Fact]) -> Iterator[str]:
    wrong = [fact for fact in facts if fact["equal"] is False]
    yield f"{len(facts)} batches were compared with eager torch in fp32 on this device; {len(wrong)} differ too much."
    yield from ("", "| bundle | batches | largest difference | allowed |", "|---|---|---|---|")
    for bundle in dict.fromkeys(fact["bundle"] for fact in facts):
        own = [fact for fact in facts if fact["bundle"] == bundle]
        if "difference" in own[0]:
            largest = max(fact["difference"] for fact in own)
            yield f"| {bundle} | {len(own)} | {largest:.1e} | {own[0]['allowed']:g} |"
        else:
            same = min(fact["same_tokens"] for fact in own)
            allowed = "none" if own[0]["equal"] is not None else ""
            yield f"| {bundle} | {len(own)} | {1 - same:.0%} of tokens | {allowed} |"


def _speeds(facts: Sequence[Fact]) -> Iterator[str]:
    yield "How many times as fast as the first line of each case, with an interval of 99%, and the difference from it."
    yield from ("", "| case | contender | ms | speed | interval | difference |", "|---|---|---|---|---|---|")
    for fact in facts:
        yield (
            f"| {fact['case']} | {fact['contender']} | {fact['milliseconds']:.2f} | {fact['speed']:.2f} "
            f"| {fact['low']:.2f} to {fact['high']:.2f} | {fact['difference']:.1e} |"
        )


def _goals(facts: Sequence[Fact]) -> Iterator[str]:
    for goal in GOALS:
        speeds = {fact["contender"]: fact["speed"] for fact in facts if fact["case"] == goal.case}
        ours = {name: speed for name, speed in speeds.items() if name.startswith("ours")}
        if goal.against not in speeds or not ours:
            yield f"- {goal.case}: not measured; asked for {goal.speed:g} times {goal.against}"
            continue
        best = max(ours, key=lambda name: ours[name])
        ratio = ours[best] / speeds[goal.against]
        end = "reached" if ratio >= goal.speed else "not reached"
        yield f"- {goal.case}: {best} is {ratio:.2f} times as fast as {goal.against}; asked for {goal.speed:g}: {end}"


if __name__ == "__main__":
    write_page(Results(Path(sys.argv[1])))
