"""Measures what packing costs if there is no padding to leave out: `python -m benchmarks.packing`.

A base-size token classifier with random weights reads 8 texts of 128 tokens in ONNX Runtime. The standard graph and the
two packed forms take turns, in fp32, and in int8 as onnxruntime's own dynamic quantizer makes it of each. It writes
packing.json and packing.md to benchmarks/results.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime
from onnxruntime.quantization import QuantType, quantize_dynamic

from benchmarks.encoder_bundles import Workshop
from benchmarks.encoder_cases import Case, Network
from benchmarks.machine import describe_machine, versions_of

RESULTS: Final = Path(__file__).with_name("results")
CASE: Final = Case(
    name="no padding",
    network=Network(task="token-classification"),
    lengths=(128,) * 8,
    workload="throughput",
    asked=1.0,
    asked_against="standard",
    rounds=11,
)
STANDARD: Final = "standard"
FORMS: Final = ("packed", "packed-attention")
PAUSE: Final = 0.3


def main() -> None:
    """Export, quantize, measure, write the results and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--work", type=Path, help="folder for checkpoints and bundles; those that are there are used")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        workshop = Workshop(folder=arguments.work or Path(scratch), threads=arguments.threads)
        graphs = export(workshop)
        ratios = {
            "fp32": measure(graphs, threads=arguments.threads),
            "int8": measure(quantized(graphs, workshop.folder), threads=arguments.threads),
        }
    write(ratios, arguments.threads)


def export(workshop: Workshop) -> dict[str, Path]:
    """Return the graph in each form. A bundle holds it in standard operators and in the form that was asked for."""
    checkpoint = workshop.checkpoint(CASE.network)
    options = ("--engine", "none", "--target", "cpu", "--optimize")
    bundles = {form: workshop.bundle(checkpoint, CASE, form, *options, form) for form in FORMS}
    return {
        STANDARD: bundles[FORMS[0]] / "model.onnx",
        **{form: bundle / "model.ort.onnx" for form, bundle in bundles.items()},
    }


def quantized(graphs: Mapping[str, Path], folder: Path) -> dict[str, Path]:
    """Return each graph with its products in int8."""
    paths = {form: folder / f"{form}.int8.onnx" for form in graphs}
    for form, path in paths.items():
        quantize_dynamic(graphs[form], path, weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul"])
    return paths


def measure(graphs: Mapping[str, Path], *, threads: int) -> dict[str, list[float]]:
    """Return the seconds of each round, by form."""
    sessions = {form: session(path, threads=threads) for form, path in graphs.items()}
    feeds = dict(CASE.feeds())
    seconds: dict[str, list[float]] = {form: [] for form in sessions}
    for one in sessions.values():
        one.run(None, feeds)
    for _ in range(CASE.rounds):
        for form, one in sessions.items():
            time.sleep(PAUSE)
            begun = time.perf_counter()
            one.run(None, feeds)
            seconds[form].append(time.perf_counter() - begun)
    return seconds


def session(path: Path, *, threads: int) -> Any:
    """Return a session of ONNX Runtime on the CPU."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def ratio(seconds: Mapping[str, list[float]], form: str) -> float:
    """Return how many times as fast as the standard graph it is, as the median over the rounds."""
    pairs = zip(seconds[STANDARD], seconds[form], strict=True)
    return float(np.round(statistics.median(standard / own for standard, own in pairs), 3))


def write(measured: Mapping[str, Mapping[str, list[float]]], threads: int) -> None:
    """Write packing.json and packing.md, and print the latter."""
    machine, versions = describe_machine(threads=threads), versions_of(("onnxruntime", "rpln-export"))
    ratios = {kind: {form: ratio(seconds, form) for form in seconds} for kind, seconds in measured.items()}
    document = {"machine": machine, "versions": versions, "ratios": ratios, "seconds": measured}
    (RESULTS / "packing.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    made_with = ", ".join(f"{name} {version}" for name, version in versions.items())
    what = f"How many times as fast as the standard graph, the median of {CASE.rounds} rounds in turn."
    lines = [
        "# Packed tokens without padding",
        "",
        f"{machine['processor']}, {threads} threads. {made_with}. {CASE.network.name}, 8 texts of 128 tokens. {what}",
        "",
        f"| type | {' | '.join(FORMS)} |",
        "|---" * (len(FORMS) + 1) + "|",
        *(f"| {kind} | {' | '.join(f'{row[form]:.2f}' for form in FORMS)} |" for kind, row in ratios.items()),
    ]
    (RESULTS / "packing.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
