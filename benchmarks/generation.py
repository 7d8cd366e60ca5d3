"""Compares greedy generation at base size with torch eager, and with a graph without a cache.

`python benchmarks/generation.py` lets the contenders take turns in one process, with a pause in between: `generate` of
transformers with a cache, this project's `with-past` graph, and its `full` graph, which is run again from the start for
each token. Random weights are made on the spot, and no token ends a sequence. It writes generation.json and
generation.md to benchmarks/results.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime
import torch
import transformers

from rpln_export.pipeline import export
from rpln_export.plan.export_plan import make_plan
from rpln_runtime import generator

RESULTS: Final = Path(__file__).with_name("results")
SETTINGS: Final = ((1, 32), (1, 256), (8, 32), (8, 256))
"""Batch and length of the prompt."""
NEW_TOKENS: Final = {"torch eager": 32, "with-past": 32, "full": 5}
"""How many tokens a contender generates after its first one. Without a cache each costs as much as a prompt."""
BASELINE: Final = "torch eager"
PAUSE: Final = 2.0

Contender = Callable[[np.ndarray, int], object]
"""Generates a number of tokens after each of the prompts, (batch, tokens)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Medians of a contender in a setting. `outside_run` is the share of a step that is outside of onnxruntime."""

    contender: str
    batch: int
    prompt: int
    first_token_seconds: float
    step_seconds: float
    tokens_per_second: float
    step_ratio: float
    first_token_ratio: float
    outside_run: float | None


def main() -> None:
    """Measure every contender in every setting and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--layers", type=int, default=12, help="fewer, to try the script")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        make_checkpoint(Path(folder), arguments.layers)
        contenders = make_contenders(Path(folder), arguments.threads)
        rows = [row for setting in SETTINGS for row in measure(contenders, *setting, rounds=arguments.rounds)]
        past = step_by_past(contenders["with-past"], rounds=arguments.rounds)
    write_results(rows, past, arguments)


def make_checkpoint(folder: Path, layers: int) -> None:
    """Write a base-size decoder with random weights and a tokenizer to `folder`/base."""
    from rpln_export.plan.defaults import DEFAULTS
    from rpln_model import RobertaPreLayerNormForCausalLM

    config = transformers.RobertaPreLayerNormConfig(
        vocab_size=50265, type_vocab_size=1, max_position_embeddings=514, is_decoder=True, num_hidden_layers=layers
    )
    torch.manual_seed(0)
    RobertaPreLayerNormForCausalLM(config).save_pretrained(folder / "base")
    tokenizer = transformers.AutoTokenizer.from_pretrained(DEFAULTS["text-generation"].folder)
    tokenizer.save_pretrained(folder / "base")


def make_contenders(folder: Path, threads: int) -> dict[str, Contender]:
    """Return all contenders, made from the same checkpoint."""
    eager = transformers.RobertaPreLayerNormForCausalLM.from_pretrained(folder / "base")
    contenders: dict[str, Contender] = {BASELINE: partial(run_eager, eager)}
    for variant in ("with-past", "full"):
        plan = make_plan(str(folder / "base"), task="text-generation", variants=[variant], destination=folder / variant)
        export(plan)
        contenders[variant] = partial(run_bundle, generator(folder / variant, threads=threads, stop_token_ids=()))
    return contenders


def run_eager(model: Any, prompts: np.ndarray, new: int) -> object:
    """Generate with `generate` of transformers, which keeps a cache."""
    ids = torch.from_numpy(prompts)
    with torch.inference_mode():
        return model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, min_new_tokens=new, do_sample=False
        )


def run_bundle(generate: Any, prompts: np.ndarray, new: int) -> object:
    """Generate with this project's runtime."""
    return generate.tokens(prompts.tolist(), max_new_tokens=new)


def measure(contenders: dict[str, Contender], batch: int, prompt: int, *, rounds: int) -> Iterator[Row]:
    """Return a row for each contender. The tokens after the first one tell what a step takes."""
    prompts = np.random.default_rng(0).integers(5, 4000, (batch, prompt))
    firsts: dict[str, list[float]] = {name: [] for name in contenders}
    steps: dict[str, list[float]] = {name: [] for name in contenders}
    shares: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds + 1):  # the first round is a warm-up
        for name, generate in contenders.items():
            time.sleep(PAUSE)
            first, _ = timed(generate, prompts, 1)
            whole, inside = timed(generate, prompts, 1 + NEW_TOKENS[name])
            if turn:
                firsts[name].append(first)
                steps[name].append((whole - first) / NEW_TOKENS[name])
                shares[name].append(1 - inside / whole)
    for name in contenders:
        first, step = statistics.median(firsts[name]), statistics.median(steps[name])
        yield Row(
            contender=name,
            batch=batch,
            prompt=prompt,
            first_token_seconds=first,
            step_seconds=step,
            tokens_per_second=batch / step,
            step_ratio=statistics.median(ratios(steps[BASELINE], steps[name])),
            first_token_ratio=statistics.median(ratios(firsts[BASELINE], firsts[name])),
            outside_run=None if name == BASELINE else statistics.median(shares[name]),
        )
        print(
            f"batch {batch}, prompt {prompt}, {name}: first token {first:.3f} s, step {step * 1e3:.1f} ms", flush=True
        )


def step_by_past(generate: Contender, *, rounds: int) -> dict[int, float]:
    """Return the seconds of a step at batch 1 by the number of earlier tokens."""
    seconds = {}
    for past in (8, 64, 128, 256, 448):
        prompts = np.random.default_rng(0).integers(5, 4000, (1, past))
        runs = []
        for _ in range(rounds):
            first, _ = timed(generate, prompts, 1)
            whole, _ = timed(generate, prompts, 33)
            runs.append((whole - first) / 32)
        seconds[past] = statistics.median(runs)
    return seconds


def ratios(baseline: list[float], times: list[float]) -> list[float]:
    """Return, for each round, how many times faster `times` is than `baseline`."""
    return [base / own for base, own in zip(baseline, times, strict=True)]


def timed(generate: Contender, prompts: np.ndarray, new: int) -> tuple[float, float]:
    """Return the seconds of a generation, and those of them that onnxruntime ran."""
    with seconds_inside_onnxruntime() as inside:
        start = time.perf_counter()
        generate(prompts, new)
        return time.perf_counter() - start, sum(inside)


@contextmanager
def seconds_inside_onnxruntime() -> Iterator[list[float]]:
    """Collect how long each run of a bound session takes."""
    taken: list[float] = []
    run = onnxruntime.InferenceSession.run_with_iobinding

    def run_timed(*arguments: Any, **options: Any) -> None:
        start = time.perf_counter()
        run(*arguments, **options)
        taken.append(time.perf_counter() - start)

    onnxruntime.InferenceSession.run_with_iobinding = run_timed
    try:
        yield taken
    finally:
        onnxruntime.InferenceSession.run_with_iobinding = run


def write_results(rows: list[Row], past: dict[int, float], arguments: argparse.Namespace) -> None:
    """Write all results as JSON, and a table of ratios."""
    machine = {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "threads": arguments.threads,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "onnxruntime": onnxruntime.__version__,
    }
    lines = [
        f"Greedy, {arguments.layers} x 768, 50,265 tokens, fp32, {arguments.threads} threads; ratios to torch eager.",
        "",
        "| batch | prompt | contender | step | time to first token | tokens/s | outside session.run |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        share = "" if row.outside_run is None else f"{row.outside_run:.1%}"
        lines.append(
            f"| {row.batch} | {row.prompt} | {row.contender} | {row.step_ratio:.2f}x | {row.first_token_ratio:.2f}x | "
            f"{row.tokens_per_second:.1f} | {share} |"
        )
    lines += ["", "| earlier tokens, batch 1 | step, ms |", "|---|---|"]
    lines += [f"| {length} | {seconds * 1e3:.1f} |" for length, seconds in past.items()]
    RESULTS.mkdir(exist_ok=True)
    document = {"machine": machine, "rows": [asdict(row) for row in rows], "step_seconds_by_past": past}
    (RESULTS / "generation.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    (RESULTS / "generation.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
