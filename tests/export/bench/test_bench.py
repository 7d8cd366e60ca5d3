"""Measuring bundles: the statistics with made-up clocks, and one small real run for an encoder and for a decoder."""

import itertools
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from rpln_export.bench import BenchReport, measure, measuring
from rpln_export.bench.cases import case_feeds, case_prompts, make_cases
from rpln_export.bench.contenders import BenchContender, timed_decoder
from rpln_export.bench.figures import EQUAL, FASTER, SLOWER, UNCLEAR, percentiles, round_ratios, verdict_on
from rpln_export.bench.machine import MachineState, MachineWatch
from rpln_export.bench.memory import peak_memory
from rpln_export.bench.plot import plot_report
from rpln_export.bench.report import report_from_rounds
from rpln_export.bench.rounds import PAUSE, WARM_UPS, Rounds, Run, Sample, run_rounds
from rpln_export.cli import INTERRUPTED, rpln_command
from rpln_export.forms.speeds import LEAST_ROUNDS, places_around
from rpln_export.validation import revalidate
from rpln_runtime.errors import InputError, ManifestError, ProviderError, RplnError
from rpln_runtime.manifest import read_manifest
from tests.export.conftest import Export

CALM = MachineState(system="Linux", cores=2, load=0.0, stolen=0.0)
BUSY = MachineState(system="Linux", cores=2, load=5.0, stolen=0.1)


class MadeUpTime:
    """A clock that advances only when a made-up contender runs or the machine sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log: list[str] = []

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.log.append("pause")

    def contender(self, name: str, seconds: Callable[[int], float]) -> Run:
        """Return what takes as long as `seconds` says for the number of runs before."""
        numbers = itertools.count()

        def run(clock: Callable[[], float]) -> Sample:
            started = clock()
            self.now += seconds(next(numbers))
            self.log.append(name)
            return Sample(total=clock() - started)

        return run


def test_contenders_take_turns_in_rounds_and_change_their_order() -> None:
    time = MadeUpTime()
    runs = [[time.contender("a", lambda _: 1.0), time.contender("b", lambda _: 2.0)]]
    run_rounds(runs, seconds=1, rounds=2, clock=time.clock, sleep=time.sleep)
    warm_up = ["a"] * WARM_UPS + ["b"] * WARM_UPS
    one, other = ["pause", "a", "a"], ["pause", "b", "b"]
    assert time.log == [*warm_up, *one, *other, *other, *one]


def test_runs_to_warm_up_do_not_count() -> None:
    time = MadeUpTime()
    slow = time.contender("a", lambda number: 100.0 if number < WARM_UPS - 1 or number == WARM_UPS else 1.0)
    measured = run_rounds([[slow]], seconds=1, rounds=1, clock=time.clock, sleep=time.sleep)
    assert measured.samples == [[[[Sample(total=1.0)]]]]


def test_rounds_fill_the_time_and_never_fall_below_the_fewest() -> None:
    def rounds(seconds: float) -> Rounds:
        time = MadeUpTime()
        runs = [[time.contender("a", lambda _: 1.0)]]
        return run_rounds(runs, seconds=seconds, clock=time.clock, sleep=time.sleep)

    assert rounds(0.1).finished == LEAST_ROUNDS
    turn = PAUSE + 2.0  # a run that does not count, and one that does
    assert rounds(WARM_UPS + 10 * turn + 0.1).finished == 10


def test_progress_counts_turns_up_to_their_number() -> None:
    time, told = MadeUpTime(), []
    runs = [[time.contender("a", lambda _: 1.0)] * 2] * 2
    run_rounds(runs, seconds=1, rounds=2, clock=time.clock, sleep=time.sleep, advance=lambda *done: told.append(done))
    assert told == [*((done, 8) for done in range(1, 9)), (8, 8)]


def test_an_interrupt_leaves_the_rounds_before_it() -> None:
    time = MadeUpTime()

    def seconds(number: int) -> float:
        if number == WARM_UPS + 5:
            raise KeyboardInterrupt
        return 1.0

    runs = [[time.contender("a", seconds), time.contender("b", lambda _: 1.0)]]
    measured = run_rounds(runs, seconds=1, rounds=5, clock=time.clock, sleep=time.sleep)
    assert (measured.interrupted, measured.finished, measured.planned) == (True, 2, 5)
    assert [len(rounds) for rounds in measured.samples[0]] == [2, 2]


def test_percentiles_are_those_of_the_times() -> None:
    found = percentiles([float(value) for value in range(101)])
    assert [found.p50.value, found.p90.value, found.p99.value] == [50.0, 90.0, 99.0]
    assert found.p99.high is None  # 101 runs say nothing of how much slower the slowest hundredth may be
    assert percentiles([3.0]).p50.low is None


@pytest.mark.parametrize("quantile", [0.5, 0.9])
def test_intervals_hold_the_true_percentile_as_often_as_they_say(quantile: float) -> None:
    rng = np.random.default_rng(0)
    low, high = places_around(quantile, 200)
    assert low is not None
    assert high is not None
    made = np.sort(rng.exponential(size=(2000, 200)), axis=1)
    true = -np.log(1 - quantile)
    held = np.mean((made[:, low] <= true) & (true <= made[:, high]))
    assert 0.985 < held < 0.9985  # 99%, and not all: the interval is not wider than needed


def test_the_first_new_token_ends_a_prompt_and_the_others_share_the_rest() -> None:
    time = MadeUpTime()

    def generate(_: object, on_token: Callable[[], None]) -> None:
        for seconds in (5.0, 1.0, 3.0):
            time.now += seconds
            on_token()

    sample = timed_decoder(generate, ["one batch", "another"], 2, time.clock)
    assert sample == Sample(total=18.0, prompt=10.0, token=2.0)


def test_stolen_time_is_a_share_of_all_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # user, nice, system, idle, iowait, irq, softirq, steal, guest, guest_nice
    stat = tmp_path / "stat"
    monkeypatch.setattr("rpln_export.bench.machine.Path", lambda _: stat)
    stat.write_text("cpu  10 0 0 90 0 0 0 0 7 0\ncpu0 1 2 3\n")
    watch = MachineWatch.begin()
    stat.write_text("cpu  40 0 0 150 0 0 0 10 9 0\ncpu0 1 2 3\n")
    assert watch.end().stolen == 0.1
    stat.unlink()
    assert MachineWatch.begin().end().stolen is None


def test_a_ratio_is_that_of_the_medians_of_a_round() -> None:
    assert round_ratios([[2.0, 2.0, 9.0], [4.0]], [[1.0], [1.0, 2.0, 3.0]]) == [2.0, 2.0]


@pytest.mark.parametrize(
    ("ratios", "busy", "expected"),
    [
        ([1.5, 1.51, 1.52] * 4, False, FASTER),
        ([0.5, 0.51, 0.52] * 4, False, SLOWER),
        ([1.0, 1.001, 0.999] * 4, False, EQUAL),
        ([0.7, 1.5, 0.8, 1.6] * 3, False, UNCLEAR),
        ([0.8] + [1.4] * 2 + [0.9] * 5, False, UNCLEAR),
        ([1.5] * 60 + [0.9] * 31 + [1.5] * 29, False, UNCLEAR),  # its interval is above 1, but its second half is not
        ([1.5, 1.51, 1.52] * 4, True, UNCLEAR),
        ([1.5, 1.5], False, UNCLEAR),
    ],
)
def test_a_winner_is_named_only_where_the_rounds_tell(ratios: list[float], busy: bool, expected: str) -> None:
    assert verdict_on(ratios, busy=busy) == expected


def _report(machine: MachineState, *, name: str = "tagger-int8 cpu") -> BenchReport:
    def samples(seconds: float) -> list[list[Sample]]:
        return [[Sample(total=seconds * noise)] for noise in (1.0, 1.01, 0.99) * 4]

    def unused(_: Any) -> Run:
        raise AssertionError

    return report_from_rounds(
        make_cases([2], [16], limit=128),
        [BenchContender(name=one, provider="cpu", threads=1, prepare=unused) for one in ("tagger cpu", name)],
        Rounds(planned=12, samples=[[samples(0.004), samples(0.002)]]),
        machine=machine,
        peaks={"tagger cpu": 2**27},
        new_tokens=None,
        notes=["A note."],
    )


def test_the_report_names_a_winner_on_a_calm_machine_alone() -> None:
    assert "tagger-int8 cpu is faster than tagger cpu (2.00" in _report(CALM).table()
    busy = " ".join(_report(BUSY).table().split())
    assert "too noisy to tell tagger-int8 cpu from tagger cpu" in busy
    assert "the load was 5.0 on 2 cores" in busy
    assert "the host took 10% of the processor time" in busy


def test_the_report_is_json_with_seconds_and_throughput() -> None:
    document = json.loads(json.dumps(_report(CALM).to_json()))
    reference, other = document["results"]
    assert document["schema"] == 1
    assert reference["speed"] is reference["verdict"] is None
    assert other["speed"]["median"] == pytest.approx(2.0)
    assert other["latency"]["p50"]["value"] == pytest.approx(0.002)
    assert (other["items_per_second"], other["tokens_per_second"]) == pytest.approx((1000.0, 16000.0))
    assert [one["peak_memory"] for one in document["contenders"]] == [2**27, None]


def test_tables_fit_80_columns_and_keep_long_names_whole() -> None:
    table = _report(CALM, name="a-bundle-with-a-very-long-name-indeed-openvino 16t").table()
    assert max(map(len, table.splitlines())) <= 80
    assert "…" not in table
    assert repr(_report(CALM)) == _report(CALM).table()


def test_the_plot_has_a_bar_for_each_contender() -> None:
    svg = plot_report(_report(CALM))
    assert "tagger-int8 cpu" in svg
    assert "batch 2 x 16 tokens" in svg


def test_cases_are_every_batch_with_every_length(tmp_path: Path) -> None:
    assert [case.batches for case in make_cases([1, 2], [3], limit=9)] == [((3,),), ((3, 3),)]
    assert make_cases(None, None, limit=20)[0].longest == 20
    lengths = tmp_path / "lengths.json"
    lengths.write_text("[[4, 2], [1]]", encoding="utf-8")
    (case,) = make_cases(None, lengths, limit=9)
    assert (case.items, case.tokens, case.longest) == (3, 7, 4)
    with pytest.raises(InputError, match="says which texts make a batch"):
        make_cases([1], lengths, limit=9)


@pytest.fixture(scope="module")
def encoder(exported: Callable[..., Export]) -> Path:
    return exported("token-classification").folder


@pytest.fixture(scope="module")
def decoder(exported: Callable[..., Export]) -> Path:
    return exported("text-generation").folder


def test_a_case_feeds_the_tokens_that_it_claims(encoder: Path, decoder: Path, tmp_path: Path) -> None:
    lengths = tmp_path / "lengths.json"
    lengths.write_text("[[5, 3], [2]]", encoding="utf-8")
    (case,) = make_cases(None, lengths, limit=9)
    manifest = read_manifest(encoder)
    feeds = case_feeds(case, manifest.graphs[0], manifest)
    assert [batch["input_ids"].shape for batch in feeds] == [(2, 5), (1, 2)]
    assert sum(int(batch["attention_mask"].sum()) for batch in feeds) == case.tokens
    prompts = case_prompts(case, read_manifest(decoder))
    assert [[len(prompt) for prompt in batch] for batch in prompts] == [[5, 3], [2]]


def test_an_encoder_is_measured_beside_torch(encoder: Path, exported: Callable[..., Export]) -> None:
    checkpoint = str(exported("token-classification").checkpoint)
    report = measure([encoder], batches=[1], lengths=[4], rounds=3, checkpoint=checkpoint)
    assert [row.contender for row in report.results] == ["torch", "bundle cpu"]
    assert all(row.latency.p50.value > 0 and row.prompt is None for row in report.results)
    assert (report.rounds, report.interrupted) == (3, False)
    torch, ours = (one.peak_memory or 0 for one in report.contenders)
    assert 2**24 < ours < torch


@pytest.mark.parametrize("task", ["text-generation", "text2text-generation"])
def test_a_decoder_is_measured_by_prompt_and_token(exported: Callable[..., Export], task: str) -> None:
    made = exported(task)
    report = measure([made.folder], checkpoint=str(made.checkpoint), batches=[2], lengths=[4], new_tokens=3, rounds=3)
    assert [row.contender for row in report.results] == ["torch", "bundle cpu"]
    for row in report.results:
        assert row.prompt is not None
        assert row.token is not None
        assert row.tokens_per_second == pytest.approx(2 / row.token.p50.value)
    assert "tokens/s" in report.table()


def test_each_provider_and_number_of_threads_is_a_contender(encoder: Path) -> None:
    sizes: dict[str, Any] = {"batches": [1], "lengths": [4], "rounds": 1, "with_torch": False, "memory": False}
    report = measure([encoder], providers=["cpu", "cpu"], threads=[1, 2], **sizes)
    assert [(one.name, one.threads) for one in report.contenders] == [("bundle cpu 1t", 1), ("bundle cpu 2t", 2)]


def test_torch_that_does_not_fit_twice_is_left_out_of_the_memory(
    encoder: Path, exported: Callable[..., Export], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RplnError("killed")

    monkeypatch.setattr(measuring, "peak_memory_of_torch", fail)
    checkpoint = exported("token-classification").checkpoint
    monkeypatch.setattr(revalidate, "find_checkpoint", lambda *_: checkpoint)
    report = measure([encoder], batches=[1], lengths=[4], rounds=1)
    assert [one.peak_memory is None for one in report.contenders] == [True, False]
    assert "The memory of eager torch was left out: killed" in report.sentences
    with pytest.raises(RplnError, match="killed"):
        measure([encoder], batches=[1], lengths=[4], rounds=1, checkpoint=str(checkpoint))


def test_a_process_that_cannot_measure_memory_says_why(encoder: Path, tmp_path: Path) -> None:
    cases = make_cases([1], [4], limit=9)
    with pytest.raises(RplnError, match=r"the process .* failed \(.*rpln\.json.*add --no-memory"):
        peak_memory(tmp_path, read_manifest(encoder), cases, provider="cpu", threads=None, new_tokens=1)


def test_a_decoder_needs_room_for_the_tokens_that_it_adds(decoder: Path) -> None:
    longest = read_manifest(decoder).usable_length - 3
    options: dict[str, Any] = {"new_tokens": 3, "batches": [1], "rounds": 1, "with_torch": False, "memory": False}
    assert measure([decoder], lengths=[longest], **options).results[0].tokens == longest
    with pytest.raises(InputError, match=f"a text of {longest + 1} tokens is too long"):
        measure([decoder], lengths=[longest + 1], **options)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"providers": ["gpu"]}, ProviderError, "unknown provider 'gpu'"),
        ({"lengths": [100_000]}, InputError, "a text of 100000 tokens is too long"),
        ({"batches": [0]}, InputError, "batch is 0, expected an integer, 1 or more"),
        ({"threads": [0]}, InputError, "threads is 0"),
        ({"seconds": 0.0}, InputError, "seconds is 0.0"),
    ],
)
def test_what_cannot_be_measured_is_refused_first(
    options: dict[str, Any], error: type[Exception], message: str, encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rpln_export.bench.measuring.run_rounds", lambda *_, **__: pytest.fail("it was measured"))
    with pytest.raises(error, match=message):
        measure([encoder], **options)


def test_a_damaged_bundle_and_unlike_bundles_are_refused(encoder: Path, decoder: Path, tmp_path: Path) -> None:
    with pytest.raises(ManifestError):
        measure([tmp_path])
    altered = shutil.copytree(encoder, tmp_path / "altered")
    (altered / "config.json").write_text("{}".ljust((altered / "config.json").stat().st_size))
    with pytest.raises(ManifestError, match="SHA-256"):
        measure([encoder, altered])
    with pytest.raises(InputError, match="some bundles generate text and others do not"):
        measure([encoder, decoder])


def test_an_interrupt_ends_the_command_with_what_was_measured(encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(runs: Sequence[Sequence[Run]], **_: Any) -> Rounds:
        samples = [[[[Sample(total=0.004)]] * 3 for _ in case] for case in runs]
        return Rounds(planned=5, samples=samples, interrupted=True)

    monkeypatch.setattr("rpln_export.bench.measuring.run_rounds", interrupted)
    arguments = ["bench", str(encoder), "--batch", "1", "--lengths", "4", "--no-memory", "--no-torch"]
    result = CliRunner().invoke(rpln_command, arguments)
    assert result.exit_code == INTERRUPTED
    assert "4.00" in result.stdout
    assert "Interrupted after 3 of 5 rounds." in result.stderr


def test_the_command_prints_json_and_says_where_torch_was_left_out(encoder: Path, tmp_path: Path) -> None:
    plot = tmp_path / "speed.svg"
    arguments = ["bench", str(encoder), "--batch", "1", "--lengths", "4", "--rounds", "3", "--no-memory", "--json"]
    result = CliRunner().invoke(rpln_command, [*arguments, "--plot", str(plot), "--no-torch"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert [row["contender"] for row in json.loads(result.stdout)["results"]] == ["bundle cpu"]
    assert plot.read_text(encoding="utf-8").startswith("<svg")
    refused = CliRunner().invoke(rpln_command, ["bench", str(encoder), "--batch", "none"])
    assert (refused.exit_code, "not a list of integers" in refused.stderr) == (2, True)
