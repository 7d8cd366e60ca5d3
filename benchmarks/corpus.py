"""Compares `rpln batch` with a pipeline of transformers on a corpus of texts of mixed lengths, in tokens per second.

`python -m benchmarks.corpus` makes a token classifier of base size with random weights, and texts of lognormal lengths.
The contenders answer the same lines in turn, from a file of JSON lines into another, in one process, with a pause
before each. All compute in fp32 with the same batch size. The ratios are the result. It writes corpus.json and
corpus.md to benchmarks/results. `--quick` tries everything with a tiny network and writes nothing there.
"""

import argparse
import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, Self

import numpy as np

from benchmarks.encoder_bundles import Workshop
from benchmarks.encoder_cases import CASES, Network, small
from benchmarks.encoders import chosen_in_words
from benchmarks.machine import describe_machine, versions_of
from rpln_export.plan.calibration import DEFAULT_TEXTS
from rpln_runtime.corpus import run_corpus

RESULTS: Final = Path(__file__).with_name("results")
BATCH_SIZE: Final = 16
MEDIAN, SIGMA, LIMIT = 33, 1.0, 256
"""The distribution of lengths in tokens, special ones included: exp(normal(log MEDIAN, SIGMA)), at most LIMIT."""
PAUSE: Final = 2.0
ASKED: Final = 5.0
DISTRIBUTIONS: Final = ("torch", "transformers", "onnxruntime", "openvino", "tokenizers")

TRANSFORMERS: Final = "transformers pipeline"
SORTED: Final = "transformers pipeline, lines sorted by length beforehand"
DEFAULT: Final = "rpln batch, bundle as exported by default"
RAGGED: Final = "rpln batch, exported with --workload ragged --pack-padding"

Run = Callable[[Path, Path], "Seconds"]
"""Answers the lines of a file into another, and returns the seconds between first and last line, without loading."""


@dataclass(frozen=True, slots=True)
class Seconds:
    """Times by the clock and of processors. If nothing else ran on the machine, both would be equal."""

    clock: float
    processor: float

    @classmethod
    def now(cls) -> Self:
        """Return the times since an arbitrary moment."""
        return cls(time.perf_counter(), time.process_time())

    def since(self, start: "Seconds") -> "Seconds":
        """Return the times from `start` to this moment."""
        return Seconds(self.clock - start.clock, self.processor - start.processor)


@dataclass(slots=True)
class Contest:
    """The times of every contender in each round. `tokens` are the real tokens of the round's lines."""

    machine: dict[str, str | int]
    versions: dict[str, str]
    chosen: dict[str, str]
    tokens: list[int] = field(default_factory=list)
    density: list[float] = field(default_factory=list)
    seconds: dict[str, list[Seconds]] = field(default_factory=dict)
    agreement: dict[str, float] = field(default_factory=dict)

    def ratios(self, name: str) -> list[float]:
        """Return, for each round, the tokens per second as a multiple of those of transformers' pipeline."""
        return [
            base.clock / own.clock for base, own in zip(self.seconds[TRANSFORMERS], self.seconds[name], strict=True)
        ]

    def processor_ratio(self, name: str) -> float:
        """Return the same ratio by the time of processors, as the median over the rounds."""
        pairs = zip(self.seconds[TRANSFORMERS], self.seconds[name], strict=True)
        return statistics.median(base.processor / own.processor for base, own in pairs)

    def speed(self, name: str) -> float:
        """Return the tokens per second, as the median over the rounds."""
        return statistics.median(
            tokens / seconds.clock for tokens, seconds in zip(self.tokens, self.seconds[name], strict=True)
        )


def main() -> None:
    """Measure every contender in every round, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--lines", type=int, default=256, help="of each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a tiny network, nothing written to results")
    parser.add_argument("--work", type=Path, help="folder for checkpoint and bundles; those that are there are used")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        workshop = Workshop(folder=arguments.work or Path(scratch), threads=arguments.threads)
        contest = hold(workshop, arguments, Path(scratch))
        write_results(contest, Path(scratch) if arguments.quick else RESULTS)


def hold(workshop: Workshop, arguments: argparse.Namespace, scratch: Path) -> Contest:
    """Let all contenders answer the lines of each round in turn."""
    case = small(CASES[0]) if arguments.quick else CASES[0]
    checkpoint = workshop.checkpoint(case.network)
    bundles = {
        DEFAULT: workshop.bundle(checkpoint, case, "default"),
        RAGGED: workshop.bundle(checkpoint, case, "ragged", "--workload", "ragged", "--pack-padding"),
    }
    tokenizer, pipe = make_pipeline(checkpoint, case.network, threads=arguments.threads)
    runs: dict[str, Run] = {
        TRANSFORMERS: partial(run_transformers, pipe),
        SORTED: partial(run_transformers, pipe, in_order=False),
        **{name: partial(run_rpln, folder, threads=arguments.threads) for name, folder in bundles.items()},
    }
    contest = Contest(
        machine=describe_machine(threads=arguments.threads),
        versions=versions_of(DISTRIBUTIONS),
        chosen={name: chosen_in_words(folder) for name, folder in bundles.items()},
        seconds={name: [] for name in runs},
    )
    for turn in range(arguments.rounds + 1):  # the first round is a warm-up
        source = scratch / f"{turn}.jsonl"
        lengths = write_lines(source, tokenizer, arguments.lines if turn else BATCH_SIZE, seed=turn)
        if turn:
            contest.tokens.append(sum(lengths))
            contest.density.append(density(lengths))
        for name, run in runs.items():
            time.sleep(PAUSE)
            output = scratch / f"{turn}-{len(name)}.jsonl"
            seconds = run(source, output)
            if turn:
                contest.seconds[name].append(seconds)
                print(f"round {turn}, {name}: {sum(lengths) / seconds.clock:.0f} tokens a second", flush=True)
            if turn == 1:
                contest.agreement[name] = agreement(output, scratch / f"1-{len(TRANSFORMERS)}.jsonl")
    return contest


def make_pipeline(checkpoint: Path, network: Network, *, threads: int) -> tuple[Any, Any]:
    """Return the tokenizer, and transformers' own pipeline as its documentation makes it, in fp32."""
    import torch
    import transformers

    torch.set_num_threads(threads)
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    model = transformers.AutoModelForTokenClassification.from_pretrained(checkpoint, dtype=torch.float32).eval()
    make: Any = transformers.pipeline
    return tokenizer, make(network.task, model=model, tokenizer=tokenizer, device="cpu")


def run_transformers(pipe: Any, source: Path, output: Path, *, in_order: bool = True) -> Seconds:
    """Answer a file with transformers' pipeline. Lines are sorted by length, as its users may do; this is not timed."""
    start = Seconds.now()
    lines = [json.loads(line) for line in source.read_text().splitlines()]
    order = range(len(lines)) if in_order else sorted(range(len(lines)), key=lambda place: -len(lines[place]["text"]))
    texts = [lines[place]["text"] for place in order]
    with output.open("w") as file:
        for place, answer in zip(order, pipe(texts, batch_size=BATCH_SIZE), strict=True):
            record = {"id": lines[place]["id"], "answer": answer}
            file.write(json.dumps(record, default=float) + "\n")  # scores are numbers of numpy
    return Seconds.now().since(start)


def run_rpln(folder: Path, source: Path, output: Path, *, threads: int) -> Seconds:
    """Answer a file with `rpln batch`, after the bundle is open."""
    times: list[Seconds] = []

    chosen = None if threads == os.cpu_count() else threads  # if fewer threads are faster, the bundle says so
    run_corpus(
        folder,
        source,
        output,
        batch_size=BATCH_SIZE,
        threads=chosen,
        verify=False,
        on_progress=lambda *_: times.append(Seconds.now()),
    )
    return times[-1].since(times[0])


def write_lines(path: Path, tokenizer: Any, count: int, *, seed: int) -> list[int]:
    """Write texts made of words of the calibration texts; return how many tokens each has, special ones included."""
    words = DEFAULT_TEXTS.read_text(encoding="utf-8").split()
    rng = np.random.default_rng(seed)
    wanted = np.minimum(np.exp(rng.normal(math.log(MEDIAN), SIGMA, count)), LIMIT)
    texts = []
    for length in wanted:
        text = " ".join(rng.choice(words, LIMIT))
        offsets = tokenizer(text, return_offsets_mapping=True, truncation=True, max_length=LIMIT)["offset_mapping"]
        texts.append(text[: offsets[max(int(length) - 2, 3)][1]])
    path.write_text("".join(json.dumps({"id": place, "text": text}) + "\n" for place, text in enumerate(texts)))
    return [len(ids) for ids in tokenizer(texts)["input_ids"]]


def density(lengths: Sequence[int]) -> float:
    """Return the share of real tokens in batches of lines in their order."""
    batches = [lengths[start : start + BATCH_SIZE] for start in range(0, len(lengths), BATCH_SIZE)]
    return sum(lengths) / sum(len(batch) * max(batch) for batch in batches)


def agreement(output: Path, expected: Path) -> float:
    """Return the share of tokens that got the same label."""
    ours, theirs = (
        {
            (line["id"], row["start"]): row["entity"]
            for line in map(json.loads, path.read_text().splitlines())
            for row in line["answer"]
        }
        for path in (output, expected)
    )
    same = [ours.get(place) == label for place, label in theirs.items()]
    return float(np.mean(same))


def write_results(contest: Contest, folder: Path) -> None:
    """Write the results as JSON and as a table."""
    rows = {
        name: {
            "tokens_per_second": contest.speed(name),
            "ratio": statistics.median(contest.ratios(name)),
            "processor_ratio": contest.processor_ratio(name),
        }
        for name in contest.seconds
    }
    (folder / "corpus.json").write_text(json.dumps({"rows": rows, **asdict(contest)}, indent=2) + "\n")
    table = "\n".join(
        f"| {name} | {row['tokens_per_second']:,.0f} | {row['ratio']:.2f} | "
        f"{min(contest.ratios(name)):.2f} to {max(contest.ratios(name)):.2f} | {row['processor_ratio']:.2f} | "
        f"{contest.agreement[name]:.2%} |"
        for name, row in rows.items()
    )
    machine = ", ".join(f"{name} {value}" for name, value in {**contest.machine, **contest.versions}.items())
    text = RESULT_PAGE.format(
        machine=machine,
        lines=len(contest.tokens),
        tokens=", ".join(f"{tokens:,}" for tokens in contest.tokens),
        density=statistics.mean(contest.density),
        table=table,
        chosen="\n".join(f"- {name}: {form}" for name, form in contest.chosen.items()),
    )
    (folder / "corpus.md").write_text(text)
    print(text)


RESULT_PAGE: Final = f"""{{machine}}.

A token classifier of base size (12 layers of 768) with random weights, fp32, batches of {BATCH_SIZE}. Texts of
lognormal lengths: median {MEDIAN} tokens, sigma {SIGMA:g}, at most {LIMIT}; {{lines}} rounds of {{tokens}} tokens, in
which batches in the order of the lines are {{density:.0%}} real tokens. Every contender answers the same lines of a
round, one after another, with a pause before each; loading is not counted. Tokens are real ones, no padding.

| | tokens a second | times {TRANSFORMERS} | in single rounds | times in processor seconds | same labels |
|---|---|---|---|---|---|
{{table}}

Asked for: {ASKED:g} times.

{{chosen}}
"""


if __name__ == "__main__":
    main()
