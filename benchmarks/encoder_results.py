"""The results of the encoder benchmark, as JSON, as tables, and as a bar chart."""

import json
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.bar_chart import Panel, bar_chart
from benchmarks.encoder_cases import PLAIN, TORCH, Case
from benchmarks.encoder_contenders import CONTENDERS, PROJECT, PROJECT_ON_ORT, REDUCED

PEER: Final = "#9fb3c8"
REDUCED_PEER: Final = "#d9e2ec"
OURS: Final = {PROJECT: "#0f766e", PROJECT_ON_ORT: "#5eb1a8"}
MEGABYTE: Final = 10**6


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseResult:
    """The results of a case.

    Attributes hold the seconds of each round by contender, `differences` from torch, and the seconds of the matrix
    products alone by library. A difference is that of the worst logit, as a share of the largest. `chosen` is the form
    that the export chose.
    """

    case: Case
    seconds: Mapping[str, list[float]]
    differences: Mapping[str, float]
    floor: Mapping[str, float]
    chosen: str

    def ratio(self, name: str, against: str) -> float:
        """Return how many times as fast it is, as the median over the rounds."""
        pairs = zip(self.seconds[against], self.seconds[name], strict=True)
        return statistics.median(other / own for other, own in pairs)

    @property
    def asked(self) -> float:
        """Return how many times as fast as torch this project should be."""
        return self.case.asked * self.ratio(self.case.asked_against, TORCH)

    @property
    def floor_ratio(self) -> float:
        """Return how many times as fast as torch the matrix products alone are."""
        return statistics.median(self.seconds[TORCH]) / min(self.floor.values())

    def to_json(self) -> dict[str, Any]:
        """Return all results, with ratios."""
        return {
            "case": self.case.name,
            "asked": self.case.asked,
            "asked_against": self.case.asked_against,
            "chosen": self.chosen,
            "products_alone_seconds": dict(self.floor),
            "contenders": {
                name: {
                    "ratio_to_torch": round(self.ratio(name, TORCH), 3),
                    "ratio_to_plain": round(self.ratio(name, PLAIN), 3),
                    "seconds": times,
                    "difference": self.differences[name],
                }
                for name, times in self.seconds.items()
            },
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """All results. `masks` are differences by contender and kind of mask; `memory` is in bytes."""

    machine: Mapping[str, str | int]
    versions: Mapping[str, str]
    cases: list[CaseResult] = field(default_factory=list)
    unavailable: dict[str, str] = field(default_factory=dict)
    masks: dict[str, dict[str, float]] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)


def write_results(results: Results, folder: Path) -> None:
    """Write encoders.json, encoders.md and encoders.svg to `folder`, and print the tables."""
    folder.mkdir(exist_ok=True)
    document = {
        "machine": results.machine,
        "versions": results.versions,
        "cases": [case.to_json() for case in results.cases],
        "not_run": results.unavailable,
        "difference_under_masks": results.masks,
        "peak_memory_bytes": results.memory,
    }
    page = "\n".join(_page(results))
    (folder / "encoders.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    (folder / "encoders.md").write_text(page + "\n", encoding="utf-8")
    (folder / "encoders.svg").write_text(_chart(results), encoding="utf-8")
    print(page)


def _page(results: Results) -> Iterable[str]:
    versions = ", ".join(f"{name} {version}" for name, version in results.versions.items())
    yield f"{_machine_in_words(results)}; {versions}. Random weights, fp32 but where it says bf16. How many times as"
    yield "fast as transformers in eager torch, fp32: medians of rounds in which all take turns. Below 5% is noise."
    yield from ("", "![bars](encoders.svg)", "")
    cases = results.cases
    yield from _table(["", *(row.case.name for row in cases)], _speeds(results))
    yield ""
    yield "Products alone: the matrix products that the logits need, none of them at padding, one after another in the"
    yield f"fastest of {', '.join(cases[0].floor)}. Asked for: the least that this project is meant to reach."
    yield from ("", "What `--optimize auto` chose:", "")
    yield from (
        f"- {row.case.name}: {row.chosen}, {row.ratio(PROJECT, PLAIN):.2f} times the plain graph" for row in cases
    )
    yield from ("", "Largest difference of a logit from torch fp32, as a share of the largest logit:", "")
    yield from _table(
        ["", *(row.case.name for row in cases), *(f"mask: {kind}" for kind in results.masks[TORCH])],
        (
            [name, *(f"{row.differences[name]:.0e}" for row in cases), *(f"{value:.0e}" for value in masks.values())]
            for name, masks in results.masks.items()
        ),
    )
    for row in cases:
        if row.case.saves_memory is not None:
            yield from _memory(results, row.case, row.case.saves_memory)


def _machine_in_words(results: Results) -> str:
    machine = results.machine
    return f"{machine['processor']}, {machine['threads']} of {machine['cores']} cores, {machine['system']}"


def _speeds(results: Results) -> Iterable[list[str]]:
    cases = results.cases
    for name in CONTENDERS:
        if name in results.unavailable:
            yield [name, results.unavailable[name], *("" for _ in cases[1:])]
        else:
            yield [name, *(f"{row.ratio(name, TORCH):.2f}" for row in cases)]
    yield ["products alone", *(f"{row.floor_ratio:.2f}" for row in cases)]
    yield ["asked for", *map(_asked, cases)]


def _asked(row: CaseResult) -> str:
    if row.case.asked_against == TORCH:
        return f"{row.case.asked:g}"
    return f"{row.asked:.2f} ({row.case.asked:g} x {row.case.asked_against})"


def _memory(results: Results, case: Case, asked: int) -> Iterable[str]:
    yield from ("", f"Peak memory of a process that runs {case.name}, and how much less than the plain graph's:", "")
    plain = results.memory[PLAIN]
    rows = [
        [name, f"{round(size / MEGABYTE):,} MB", f"{round((plain - size) / MEGABYTE):,} MB"]
        for name, size in results.memory.items()
    ]
    yield from _table(["", "peak", "less"], [*rows, ["asked for", "", f"{asked} MB"]])


def _table(header: list[str], rows: Iterable[list[str]]) -> Iterable[str]:
    yield f"| {' | '.join(header)} |"
    yield "|---" * len(header) + "|"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _chart(results: Results) -> str:
    fills = {name: OURS.get(name, REDUCED_PEER if name in REDUCED else PEER) for name in CONTENDERS}
    panels = [
        Panel(title=row.case.name, values={name: row.ratio(name, TORCH) for name in row.seconds}, mark=row.asked)
        for row in results.cases
    ]
    return bar_chart(
        panels,
        title="RoBERTa-PreLayerNorm encoders: how many times as fast as eager torch, fp32",
        subtitle=f"{_machine_in_words(results)}. Dashed: asked for. Palest: bf16.",
        fills=fills,
        strong=frozenset(OURS),
    )
