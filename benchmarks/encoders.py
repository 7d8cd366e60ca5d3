"""Compares encoders on a CPU in one run: torch, ONNX Runtime, its optimizers, OpenVINO, and this project.

`python -m benchmarks.encoders` makes checkpoints with random weights, and exports them as `rpln-export --optimize auto`
does. The contenders take turns in one process, with a pause before each. The ratios are the result. Peak memory is that
of a process with one contender alone. It writes encoders.json, encoders.md and encoders.svg to benchmarks/results.
`--quick` tries everything with tiny networks and writes nothing there.
"""

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.encoder_bundles import Workshop
from benchmarks.encoder_cases import CASES, MASK, TORCH, Case, Feeds, feeds_from_mask, small
from benchmarks.encoder_contenders import CONTENDERS, PROJECT, PROJECT_ON_ORT, Run, Setup, to_array
from benchmarks.encoder_results import CaseResult, Results, write_results
from benchmarks.gemm_floor import measure_floor
from benchmarks.machine import describe_machine, versions_of
from rpln_export.steps import Silent, Steps
from rpln_graphs.stress import random_mask
from rpln_runtime.manifest import read_manifest

RESULTS: Final = Path(__file__).with_name("results")
PAUSE: Final = 0.1
"""The pause in seconds. Idle threads of ONNX Runtime keep running for a while, and slow down the next contender."""
MEMORY_RUNS: Final = 3
MASKS: Final = ("right", "left", "holes")
MASKED_SHAPE: Final = (4, 24)
"""Rows and tokens of the batch that shows whether a contender respects masks."""
DISTRIBUTIONS: Final = ("torch", "transformers", "onnxruntime", "onnxscript", "openvino", "rpln-export")
OURS: Final = frozenset({PROJECT, PROJECT_ON_ORT})


def main() -> None:
    """Measure every contender in every case, write the results and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--quick", action="store_true", help="tiny networks, two rounds, nothing written to results")
    parser.add_argument("--work", type=Path, help="folder for checkpoints and bundles; those that are there are used")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        workshop = Workshop(folder=arguments.work or Path(scratch), threads=arguments.threads)
        cases = [small(case) for case in CASES] if arguments.quick else list(CASES)
        results = Results(machine=describe_machine(threads=arguments.threads), versions=versions_of(DISTRIBUTIONS))
        measure_all(cases, workshop, results)
        write_results(results, workshop.folder / "results" if arguments.quick else RESULTS)


def measure_all(cases: Sequence[Case], workshop: Workshop, results: Results) -> None:
    """Fill `results`: all cases, masks with the first case, and memory with the case that asks for it."""
    contenders = Contenders(results.unavailable)
    for case in cases:
        setup = workshop.setup(case)
        runs = contenders.make(setup)
        results.cases.append(measure(case, setup, runs))
        if case == cases[0]:
            results.masks.update(measure_masks(setup, runs))
        if case.saves_memory is not None:
            results.memory.update({name: peak_memory(name, case, setup) for name in runs})


@dataclass(slots=True)
class Contenders:
    """Makes contenders, and keeps them for further cases of the same network."""

    unavailable: dict[str, str]
    _made: dict[tuple[str, Setup], Run] = field(default_factory=dict)

    def make(self, setup: Setup) -> dict[str, Run]:
        """Return the contenders that run here. `unavailable` gets the reasons of the others."""
        self._made = {key: run for key, run in self._made.items() if key[1].network == setup.network}
        runs: dict[str, Run] = {}
        for name, maker in CONTENDERS.items():
            # Only this project runs the bundle whose form was chosen.
            key = name, setup if name in OURS else replace(setup, chosen=setup.plain)
            try:
                runs[name] = self._made[key] = self._made.get(key) or maker(setup)
            except ImportError as error:
                self.unavailable[name] = str(error)
        return runs


def measure(case: Case, setup: Setup, runs: Mapping[str, Run]) -> CaseResult:
    """Measure how far each contender's logits are from torch in fp32, and then rounds in which each runs once."""
    feeds = case.feeds()
    reference = to_array(runs[TORCH](feeds))
    differences = {name: difference(to_array(run(feeds)), reference, feeds) for name, run in runs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(case.rounds):
        for name, run in runs.items():
            time.sleep(PAUSE)
            start = time.perf_counter()
            run(feeds)
            seconds[name].append(time.perf_counter() - start)
    result = CaseResult(
        case=case,
        seconds=seconds,
        differences=differences,
        floor=measure_floor(case, threads=setup.threads),
        chosen=chosen_in_words(setup.chosen),
    )
    print(f"{case.name}: " + ", ".join(f"{name} {result.ratio(name, TORCH):.2f}" for name in runs), flush=True)
    return result


def difference(logits: NDArray[np.float32], reference: NDArray[np.float32], feeds: Feeds) -> float:
    """Return the largest difference at real tokens, as a share of the largest logit.

    If the contender gives only logits of masked tokens, those are compared.
    """
    if reference.ndim == 3:
        masked = feeds["input_ids"] == MASK
        rows = feeds["attention_mask"].astype(bool) if logits.shape == reference.shape else masked
        reference = reference[rows]
        logits = logits[rows] if logits.ndim == 3 else logits
    return float(np.abs(logits - reference).max() / np.abs(reference).max())


def measure_masks(setup: Setup, runs: Mapping[str, Run]) -> dict[str, dict[str, float]]:
    """Return by contender and kind of mask how far its logits are from those of torch in fp32."""
    rng = np.random.default_rng(0)
    batches = {
        kind: feeds_from_mask(random_mask(kind, *MASKED_SHAPE, rng).astype(bool), setup.network) for kind in MASKS
    }
    references = {kind: to_array(runs[TORCH](feeds)) for kind, feeds in batches.items()}
    return {
        name: {kind: difference(to_array(run(feeds)), references[kind], feeds) for kind, feeds in batches.items()}
        for name, run in runs.items()
    }


def chosen_in_words(bundle: Path) -> str:
    """Return a phrase that says which form of the graph the export chose, and what runs it."""
    manifest = read_manifest(bundle, verify=False)
    provider = manifest.optimization.provider if manifest.optimization else "cpu"
    graph = manifest.graphs[0]
    form = next((row.form for row in graph.rewritten if provider in row.providers), graph.form)
    return f"{form} on {provider}"


def peak_memory(name: str, case: Case, setup: Setup) -> int:
    """Return the peak memory in bytes of a process that makes the contender and runs it a few times."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(peak_memory_here, name, case, setup).result()


def peak_memory_here(name: str, case: Case, setup: Setup) -> int:
    """Return the peak memory in bytes of doing so in this process."""
    steps = Steps(Silent())
    with steps.step(name):
        run = CONTENDERS[name](setup)
        for _ in range(MEMORY_RUNS):
            run(case.feeds())
    return steps.finished[0].peak_memory


if __name__ == "__main__":
    main()
