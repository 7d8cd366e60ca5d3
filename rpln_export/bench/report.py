"""The report of a measurement: every figure with its interval, as JSON or as tables of 80 columns."""

import dataclasses
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rich import box
from rich.console import Console
from rich.table import Table

from rpln_export.bench.cases import BenchCase
from rpln_export.bench.contenders import BenchContender
from rpln_export.bench.figures import (
    FASTER,
    SLOWER,
    UNCLEAR,
    Percentile,
    Percentiles,
    percentiles,
    round_ratios,
    speed_of_rounds,
    verdict_on,
)
from rpln_export.bench.machine import MachineState
from rpln_export.bench.rounds import Rounds, Sample
from rpln_export.forms.speeds import Speed

SCHEMA: Final = 1
"""The version of the JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchResult:
    """What was measured of a contender in a case.

    Attributes:
        case: the name of the case.
        contender: the name of the contender.
        items: the texts of the case; for multiple choice, its questions.
        tokens: the tokens of these texts, without padding.
        runs: how many runs were timed.
        latency: the seconds of a run; for decoders, with all new tokens.
        prompt: for decoders, the seconds until the first new token.
        token: for decoders, the seconds of each later token.
        items_per_second: the texts that are answered in a second, at the median latency.
        tokens_per_second: the tokens of texts that are read in a second; for decoders, the new tokens in a second of
            all texts of a batch, at the median of `token`.
        speed: how many times as fast it is as the reference; None for the reference, and for too few rounds.
        verdict: faster, slower, as fast, or too noisy to tell; None for the reference.
    """

    case: str
    contender: str
    items: int
    tokens: int
    runs: int
    latency: Percentiles
    prompt: Percentiles | None
    token: Percentiles | None
    items_per_second: float
    tokens_per_second: float
    speed: Speed | None
    verdict: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredContender:
    """A contender of the report.

    Attributes:
        name: its name.
        provider: the provider; "torch" for eager torch.
        threads: the most threads of an operator; None for the bundle's own choice.
        peak_memory: the peak resident memory in bytes of a process that runs each case once, with Python and its
            libraries; None where it was not measured.
    """

    name: str
    provider: str
    threads: int | None
    peak_memory: int | None


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class BenchReport:
    """What `rpln_export.bench.measure` returns. Its repr is the tables that `rpln bench` prints.

    Attributes:
        machine: the machine, and how busy it was.
        contenders: what was measured. The first one is the reference.
        results: a row for each case and contender.
        rounds: how many rounds are finished.
        planned_rounds: how many there were to be.
        interrupted: whether an interrupt ended the rounds.
        new_tokens: how many tokens decoders added after their first one; None for encoders.
        notes: what the reader should know.
    """

    machine: MachineState
    contenders: tuple[MeasuredContender, ...]
    results: tuple[BenchResult, ...]
    rounds: int
    planned_rounds: int
    interrupted: bool
    new_tokens: int | None
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values. Times are in seconds, memory in bytes."""
        return {"schema": SCHEMA, **dataclasses.asdict(self)}

    def table(self, *, width: int = 80) -> str:
        """Return the report as text, with a table for each case, in lines of at most `width` columns."""
        written = io.StringIO()
        console = Console(file=written, width=width, markup=False, emoji=False, highlight=False)
        for case in dict.fromkeys(row.case for row in self.results):
            console.print(_table(case, [row for row in self.results if row.case == case], self))
        for sentence in self.sentences:
            console.print(sentence)
        return "\n".join(line.rstrip() for line in written.getvalue().splitlines())

    def __repr__(self) -> str:
        return self.table()

    @property
    def sentences(self) -> list[str]:
        """What the tables mean: rounds, memory, verdicts, and why no winner is named."""
        found = [f"{self.rounds} of {self.planned_rounds} rounds; times in ms, medians with [99% intervals]."]
        if self.interrupted:
            found.append("Interrupted: the figures are those of the rounds before.")
        measured = [one for one in self.contenders if one.peak_memory is not None]
        if measured:
            peaks = ", ".join(f"{one.name} {(one.peak_memory or 0) / 2**20:,.0f} MiB" for one in measured)
            found.append(f"Peak memory of a process of its own, with Python: {peaks}.")
        reference = self.contenders[0].name
        for row in self.results:
            if row.verdict is None:
                continue
            ratio = f" ({row.speed} times as fast)" if row.speed else ""
            if row.verdict == UNCLEAR:
                found.append(f"{row.case}: too noisy to tell {row.contender} from {reference}{ratio}.")
            else:
                than = "than" if row.verdict in (FASTER, SLOWER) else "as"
                found.append(f"{row.case}: {row.contender} is {row.verdict} {than} {reference}{ratio}.")
        if reasons := self.machine.reasons:
            found.append(f"The machine is too busy to name a winner: {', and '.join(reasons)}.")
        return [*found, *self.notes]


def report_from_rounds(
    cases: Sequence[BenchCase],
    contenders: Sequence[BenchContender],
    measured: Rounds,
    *,
    machine: MachineState,
    peaks: Mapping[str, int | None],
    new_tokens: int | None,
    notes: Sequence[str],
) -> BenchReport:
    """Return what the rounds tell. Cases of which an interrupt left no round have no rows."""
    busy = bool(machine.reasons)
    return BenchReport(
        machine=machine,
        contenders=tuple(
            MeasuredContender(
                name=one.name, provider=one.provider, threads=one.threads, peak_memory=peaks.get(one.name)
            )
            for one in contenders
        ),
        results=tuple(
            _result(case, one, own, None if own is by_contender[0] else by_contender[0], busy=busy)
            for case, by_contender in zip(cases, measured.samples, strict=True)
            for one, own in zip(contenders, by_contender, strict=True)
            if own
        ),
        rounds=measured.finished,
        planned_rounds=measured.planned,
        interrupted=measured.interrupted,
        new_tokens=new_tokens,
        notes=tuple(notes),
    )


def _result(
    case: BenchCase,
    contender: BenchContender,
    own: Sequence[Sequence[Sample]],
    reference: Sequence[Sequence[Sample]] | None,
    *,
    busy: bool,
) -> BenchResult:
    samples = [sample for one in own for sample in one]
    latency = percentiles([sample.total for sample in samples])
    prompts = [sample.prompt for sample in samples if sample.prompt is not None]
    steps = [sample.token for sample in samples if sample.token is not None]
    token = percentiles(steps) if steps else None
    ratios = round_ratios(_totals(reference), _totals(own)) if reference is not None else []
    return BenchResult(
        case=case.name,
        contender=contender.name,
        items=case.items,
        tokens=case.tokens,
        runs=len(samples),
        latency=latency,
        prompt=percentiles(prompts) if prompts else None,
        token=token,
        items_per_second=case.items / latency.p50.value,
        tokens_per_second=case.items / len(case.batches) / token.p50.value
        if token
        else case.tokens / latency.p50.value,
        speed=speed_of_rounds(ratios) if reference is not None else None,
        verdict=verdict_on(ratios, busy=busy) if reference is not None else None,
    )


def _totals(rounds: Sequence[Sequence[Sample]]) -> list[list[float]]:
    return [[sample.total for sample in samples] for samples in rounds]


def _table(case: str, rows: Sequence[BenchResult], report: BenchReport) -> Table:
    table = Table(title=case, title_justify="left", box=box.SIMPLE)
    table.add_column("", overflow="fold", ratio=1)
    columns = _ENCODER_COLUMNS if report.new_tokens is None else _DECODER_COLUMNS
    for name in (*columns, "x"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        ratio = f"{row.speed.median:.2f}" if row.speed else "" if row.verdict else "1"
        ratio += " ?" if row.verdict == UNCLEAR else ""
        table.add_row(row.contender, *(cell(row) for cell in columns.values()), ratio)
    return table


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.2f}" if seconds < 0.1 else f"{seconds * 1e3:.0f}"


def _with_interval(percentile: Percentile | None) -> str:
    if percentile is None:
        return ""
    if percentile.low is None or percentile.high is None:
        return _milliseconds(percentile.value)
    ends = f"[{_milliseconds(percentile.low)}, {_milliseconds(percentile.high)}]"
    return f"{_milliseconds(percentile.value)} {ends}"


_ENCODER_COLUMNS: Final[dict[str, Callable[[BenchResult], str]]] = {
    "p50": lambda row: _with_interval(row.latency.p50),
    "p90": lambda row: _milliseconds(row.latency.p90.value),
    "p99": lambda row: _milliseconds(row.latency.p99.value),
    "texts/s": lambda row: f"{row.items_per_second:,.0f}",
}
_DECODER_COLUMNS: Final[dict[str, Callable[[BenchResult], str]]] = {
    "prompt": lambda row: _milliseconds(row.prompt.p50.value) if row.prompt else "",
    "token p50": lambda row: _with_interval(row.token.p50 if row.token else None),
    "p90": lambda row: _milliseconds(row.token.p90.value) if row.token else "",
    "p99": lambda row: _milliseconds(row.token.p99.value) if row.token else "",
    "tokens/s": lambda row: f"{row.tokens_per_second:,.0f}",
}
