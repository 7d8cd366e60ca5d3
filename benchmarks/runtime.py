"""Measures what the thin runtime costs: `python benchmarks/runtime.py BUNDLE`.

It prints medians of wall-clock time, with contenders in turn within one process, for three things:
- the time of the import, beyond that of numpy and onnxruntime (the limit is 0.3 s),
- Session.run, beside onnxruntime's own run,
- texts of different lengths, in batches by length and in batches in the order given.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from rpln_runtime import Pipeline, load, pipeline

IMPORT_LIMIT_SECONDS = 0.3
BATCH_SIZE = 16
SHAPES = ((1, 8), (1, 32), (8, 64))
WORDS = ("the", "quick", "brown", "fox", "jumps", "over", "London", "dogs", "naïvely", "and", "ends.")


def main() -> None:
    """Print the three tables. Exit with 1 if the import takes too long."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=20)
    arguments = parser.parse_args()
    versions = f"Python {platform.python_version()}, onnxruntime {onnxruntime.__version__}, numpy {np.__version__}"
    print(f"{platform.machine()}, {os.cpu_count()} cores, {arguments.threads} used; {versions}")
    seconds = import_seconds(arguments.repeats)
    print(f"import rpln_runtime beyond numpy and onnxruntime: {seconds:.3f} s (limit {IMPORT_LIMIT_SECONDS} s)")
    print_runs(arguments.bundle, arguments.threads, arguments.repeats)
    pipe = pipeline(arguments.bundle, threads=arguments.threads, batch_size=BATCH_SIZE)
    print_batches(pipe, arguments.repeats)
    sys.exit(seconds > IMPORT_LIMIT_SECONDS)


def import_seconds(repeats: int) -> float:
    """Return how long `import rpln_runtime` takes in a fresh interpreter that has numpy and onnxruntime."""
    code = (
        "import time, numpy, onnxruntime; t = time.perf_counter(); import rpln_runtime; print(time.perf_counter() - t)"
    )
    command = [sys.executable, "-c", code]
    runs = [subprocess.run(command, check=True, capture_output=True) for _ in range(repeats)]  # noqa: S603 - the code above
    return statistics.median(float(run.stdout) for run in runs)


def print_runs(bundle: Path, threads: int, repeats: int) -> None:
    """Compare Session.run, which checks and binds, with onnxruntime's own session."""
    session, options = load(bundle, threads=threads), onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    plain = onnxruntime.InferenceSession(bundle / session.graph.path, options, ["CPUExecutionProvider"])
    for batch, sequence in SHAPES:
        feeds = {
            spec.name: np.ones([batch if axis == "batch" else sequence for axis in spec.shape], spec.dtype)
            for spec in session.graph.inputs
        }
        ours, theirs = medians([partial(session.run, feeds), partial(plain.run, None, feeds)], repeats)
        print(f"batch {batch} x {sequence}: Session.run {ours * 1e3:.2f} ms, onnxruntime {theirs * 1e3:.2f} ms")


def print_batches(pipe: Pipeline, repeats: int) -> None:
    """Compare batches by length with batches in the order given, for texts of different lengths."""
    generator = np.random.default_rng(0)
    texts = [" ".join(generator.choice(WORDS, size=size)) for size in generator.geometric(0.08, size=128).clip(1, 40)]
    by_length, as_given = medians([partial(pipe, texts), partial(in_order, pipe, texts)], max(repeats // 4, 1))
    print(f"{len(texts)} ragged texts: by length {by_length * 1e3:.0f} ms, in the order given {as_given * 1e3:.0f} ms")


def in_order(pipe: Pipeline, texts: list[str]) -> None:
    """Answer `texts` in batches of neighbours."""
    for start in range(0, len(texts), BATCH_SIZE):
        pipe(texts[start : start + BATCH_SIZE])


def medians(contenders: list[Callable[[], Any]], repeats: int) -> list[float]:
    """Return the median seconds of each contender. All take turns after one warm-up."""
    times: list[list[float]] = [[] for _ in contenders]
    for turn in range(repeats + 1):
        for run, taken in zip(contenders, times, strict=True):
            start = time.perf_counter()
            run()
            if turn:
                taken.append(time.perf_counter() - start)
    return [statistics.median(taken) for taken in times]


if __name__ == "__main__":
    main()
