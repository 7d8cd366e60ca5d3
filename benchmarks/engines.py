"""Measures TensorRT engines at base size: what a build takes, how large engines are, and their latency on a GPU.

`python -m benchmarks.engines` exports checkpoints with random weights. Each build runs in a process of its own, three
times, and gives seconds, peak memory, and whether kernels and sizes are the same. Without a GPU that is all. With one,
the engines, ONNX Runtime on CUDA, and torch in half precision, eager and compiled, take turns. It writes engines.json
and engines.md to benchmarks/results. `--quick` tries everything with tiny networks and writes nothing there.
"""

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.encoder_bundles import Workshop
from benchmarks.encoder_cases import PAD, Case, Network
from benchmarks.machine import describe_machine, versions_of
from rpln_export.bundle.engines import build_engines
from rpln_export.plan.engines import EngineRequest, make_engine_plan
from rpln_export.steps import Silent, Steps
from rpln_graphs.tensorrt.backends import device_target
from rpln_runtime.engines.manifest import EngineManifest
from rpln_runtime.manifest import read_manifest

RESULTS: Final = Path(__file__).with_name("results")
BUILDS: Final = 3
ROUNDS: Final = 30
PAUSE: Final = 0.05
BUILDER: Final = "tensorrt-rtx"
SHAPES: Final = ((1, 32), (1, 128), (1, 384), (8, 128))
"""Rows and tokens of the batches that are timed on a GPU."""
ASKED_SECONDS: Final = 15.0
ASKED_SIZE: Final = 1.05
DISTRIBUTIONS: Final = ("torch", "transformers", "onnxruntime", "tensorrt-rtx", "tensorrt", "rpln-export")


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A case: what is exported, in which precision, with which options."""

    network: Network
    precision: str
    options: tuple[str, ...] = ()


CASES: Final = (
    Exported(network=Network(task="token-classification"), precision="fp16"),
    Exported(network=Network(task="token-classification"), precision="bf16"),
    Exported(network=Network(task="token-classification"), precision="fp32"),
    Exported(network=Network(task="fill-mask"), precision="fp16"),
    Exported(
        network=Network(task="text-generation"),
        precision="fp16",
        options=("--is-decoder", "--variants", "prefill,decode"),
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """The results of an engine.

    Its sizes are in bytes, and `size_ratio` compares it with the weights of its graph. `seconds` has a number for each
    build, and `peak` is the peak memory.
    """

    task: str
    variant: str
    precision: str
    targets: tuple[str, ...]
    seconds: tuple[float, ...]
    size: int
    size_ratio: float
    weights: int
    activations: tuple[int, ...]
    attentions: tuple[int, ...]
    peak: int
    identical: bool


def main() -> None:
    """Build every engine, time it if there is a GPU, write the results and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny networks, nothing written to results")
    parser.add_argument("--work", type=Path, help="folder for checkpoints and bundles; those that are there are used")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        workshop = Workshop(folder=arguments.work or Path(scratch), threads=1)
        rows: list[Row] = []
        latencies: dict[str, dict[str, float]] = {}
        for case in CASES:
            network = replace(case.network, layers=2, hidden=128, vocabulary=8000) if arguments.quick else case.network
            bundle = export(workshop, replace(case, network=network))
            rows += measure(bundle, case)
            if device_target() and case == CASES[0]:
                latencies = measure_latencies(workshop.checkpoint(network), bundle)
        write(rows, latencies, workshop.folder / "results" if arguments.quick else RESULTS)


def export(workshop: Workshop, case: Exported) -> Path:
    """Export the bundle of a case, without engines."""
    precision = () if case.precision == "fp32" else (f"--{case.precision}",)
    named = Case(name="", network=case.network, lengths=(), workload="", asked=0, asked_against="", rounds=0)
    plain = ("--engine", "none", "--optimize", "none", "--target", "tensorrt")
    return workshop.bundle(workshop.checkpoint(case.network), named, case.precision, *precision, *plain, *case.options)


def measure(bundle: Path, case: Exported) -> list[Row]:
    """Return a row for each graph of the bundle."""
    builds = []
    for _ in range(BUILDS):
        time.sleep(PAUSE)
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            builds.append(pool.submit(build_here, bundle).result())
    peak = max(memory for _, memory in builds)
    of_each_graph = zip(*(engines for engines, _ in builds), strict=True)
    rows = [row_from_builds(engines, bundle, case, peak) for engines in of_each_graph]
    for row in rows:
        print(
            f"{row.task} {row.variant} {row.precision}: {min(row.seconds):.1f} s, {row.size_ratio:.3f} of the weights"
        )
    return rows


def build_here(bundle: Path) -> tuple[tuple[EngineManifest, ...], int]:
    """Build the engines of a bundle in this process, and return them with its peak memory."""
    plan = make_engine_plan(EngineRequest(name=BUILDER), precision=read_manifest(bundle, verify=False).recipe)
    steps = Steps(Silent())
    with steps.step("compile") as advance:
        engines = build_engines(plan, bundle, advance)
    return engines, steps.finished[0].peak_memory


def row_from_builds(builds: Sequence[EngineManifest], bundle: Path, case: Exported, peak: int) -> Row:
    """Return what several builds of an engine have in common, and how long each took."""
    engine = builds[0]
    return Row(
        task=case.network.task,
        variant=engine.variant,
        precision=case.precision,
        targets=engine.targets,
        seconds=tuple(build.seconds for build in builds),
        size=engine.plan.size,
        size_ratio=engine.plan.size / weights_of_graph(bundle / engine.graph[0].path),
        weights=engine.weights,
        activations=engine.activations,
        attentions=engine.attentions,
        peak=peak,
        identical=len({(build.layers, build.weights, build.activations) for build in builds}) == 1,
    )


def weights_of_graph(path: Path) -> int:
    """Return the size of a graph's weights in bytes."""
    import onnx_ir as ir

    from rpln_graphs.save import precision_from_model

    return sum(precision_from_model(ir.load(path)).values())


def measure_latencies(checkpoint: Path, bundle: Path) -> dict[str, dict[str, float]]:
    """Return median milliseconds by contender and shape, with copies to the device and back."""
    contenders = {name: make(checkpoint, bundle) for name, make in CONTENDERS.items()}
    table: dict[str, dict[str, float]] = {name: {} for name in contenders}
    for rows, tokens in SHAPES:
        feeds = {
            "input_ids": np.random.default_rng(0).integers(PAD + 4, 5000, (rows, tokens)),
            "attention_mask": np.ones((rows, tokens), dtype=np.int64),
        }
        seconds: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(ROUNDS):
            for name, run in contenders.items():
                time.sleep(PAUSE)
                begun = time.perf_counter()
                run(feeds)
                seconds[name].append(time.perf_counter() - begun)
        for name, times in seconds.items():
            table[name][f"b{rows} s{tokens}"] = 1e3 * statistics.median(times)
    return table


Run = Callable[[Mapping[str, Any]], object]


def _session(provider: str) -> Callable[[Path, Path], Run]:
    def make(checkpoint: Path, bundle: Path) -> Run:  # noqa: ARG001 # all are made alike
        from rpln_runtime import load

        return load(bundle, provider=provider).run

    return make


def _torch(*, compiled: bool) -> Callable[[Path, Path], Run]:
    def make(checkpoint: Path, bundle: Path) -> Run:  # noqa: ARG001 # all are made alike
        import torch
        import transformers

        model = transformers.AutoModelForTokenClassification.from_pretrained(checkpoint).half().cuda().eval()
        network = torch.compile(model, dynamic=True) if compiled else model

        @torch.inference_mode()
        def run(feeds: Mapping[str, Any]) -> object:
            found = network(**{name: torch.from_numpy(array).cuda() for name, array in feeds.items()})
            return found.logits.cpu()

        return run

    return make


CONTENDERS: Final = {
    "tensorrt-rtx engine": _session(BUILDER),
    "ONNX Runtime, CUDA": _session("cuda"),
    "torch fp16": _torch(compiled=False),
    "torch.compile fp16": _torch(compiled=True),
}


def write(rows: Sequence[Row], latencies: Mapping[str, Mapping[str, float]], folder: Path) -> None:
    """Write engines.json and engines.md to `folder`, and print the latter."""
    folder.mkdir(exist_ok=True)
    machine, versions = describe_machine(threads=1), versions_of(DISTRIBUTIONS)
    document = {
        "machine": machine,
        "versions": versions,
        "gpu": device_target(),
        "engines": [asdict(row) for row in rows],
        "milliseconds": latencies,
    }
    (folder / "engines.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    text = "\n".join(markdown(rows, latencies, machine, versions))
    (folder / "engines.md").write_text(text + "\n", encoding="utf-8")
    print(text)


def markdown(
    rows: Sequence[Row],
    latencies: Mapping[str, Mapping[str, float]],
    machine: Mapping[str, str | int],
    versions: Mapping[str, str],
) -> list[str]:
    """Return the tables."""
    made_with = ", ".join(f"{name} {version}" for name, version in versions.items())
    targets = ", ".join(rows[0].targets)
    builds = f"One plan for {targets}. Median and slowest of {BUILDS} builds, each in a process of its own."
    asked = f"at most {ASKED_SECONDS:.0f} s, and {ASKED_SIZE} of the weights in fp16"
    titles = (
        *("task", "graph", "type", "seconds", "slowest", "engine, MB", "of the graph's weights", "weights, MB"),
        *("activations, MB", "fused attentions", "process, MB", "same kernels"),
    )
    lines = [
        "# TensorRT engines, 12 layers of 768",
        "",
        f"{machine['processor']}, {machine['cores']} cores. {made_with}. {builds} Asked for: {asked}.",
        "",
        f"| {' | '.join(titles)} |",
        "|---" * len(titles) + "|",
        *(f"| {' | '.join(cells(row))} |" for row in rows),
        "",
    ]
    if not latencies:
        return [*lines, "There was no GPU: the engines were compiled and not executed; no latency was measured."]
    shapes = list(next(iter(latencies.values())))
    lines += [f"| milliseconds | {' | '.join(shapes)} |", "|---" * (len(shapes) + 1) + "|"]
    return lines + [
        f"| {name} | {' | '.join(f'{times[shape]:.2f}' for shape in shapes)} |" for name, times in latencies.items()
    ]


def cells(row: Row) -> list[str]:
    """Return the cells of a row of the table."""
    return [
        row.task,
        row.variant,
        row.precision,
        f"{statistics.median(row.seconds):.1f}",
        f"{max(row.seconds):.1f}",
        f"{row.size / 1e6:.1f}",
        f"{row.size_ratio:.3f}",
        f"{row.weights / 1e6:.1f}",
        ", ".join(f"{size / 1e6:.1f}" for size in row.activations),
        ", ".join(map(str, row.attentions)),
        f"{row.peak / 1e6:.0f}",
        "yes" if row.identical else "no",
    ]


if __name__ == "__main__":
    main()
