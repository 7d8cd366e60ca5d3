"""Measures time and peak memory of an export at base size, beside torch's exporter alone, and the time of a trace.

Contenders run in turn, each in a process of its own, with a pause in between. The ratios are the result. Random weights
are made on the spot. `make bench` writes export.json and export.md to benchmarks/results.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Final

RESULTS: Final = Path(__file__).with_name("results")
PAUSE: Final = 3.0
TASK: Final = "token-classification"
TORCH: Final = "torch.onnx.export alone"
DEPTHS: Final = (2, 4, 12, 24)
"""The numbers of layers of the networks that are traced."""
METHODS: Final = ("repeat", "full")
"""The values of --trace that are compared."""


def main() -> None:
    """Measure every contender several times in turn, or, as a child process, run one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--contender", choices=CONTENDERS)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    if arguments.contender:
        print(json.dumps(CONTENDERS[arguments.contender](arguments.folder)))
        return
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "base"
        weights = make_checkpoint(checkpoint)
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTENDERS}
        for _ in range(arguments.rounds):
            for name, finished in runs.items():
                run = run_child(name, Path(folder))
                print(f"{name}: {run['seconds']:.1f} s, {run['processor_seconds']:.1f} s of processors", flush=True)
                finished.append(run)
                time.sleep(PAUSE)
    write_results(runs, weights)


def make_checkpoint(folder: Path) -> int:
    """Write a base-size checkpoint (12 x 768) with random weights and a tokenizer; return its weights' bytes."""
    from transformers import AutoTokenizer, RobertaPreLayerNormConfig

    from rpln_export.plan.defaults import DEFAULT_CHECKPOINT
    from rpln_model import RobertaPreLayerNormForTokenClassification

    config = RobertaPreLayerNormConfig(type_vocab_size=1, max_position_embeddings=514)
    config.num_labels = 9
    config.architectures = ["RobertaPreLayerNormForTokenClassification"]
    model = RobertaPreLayerNormForTokenClassification(config)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(DEFAULT_CHECKPOINT).save_pretrained(folder)
    return sum(parameter.nbytes for parameter in model.parameters())


def run_child(name: str, folder: Path) -> dict[str, Any]:
    """Run one contender in a new process."""
    command = [sys.executable, __file__, "--contender", name, "--folder", str(folder)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603 # this script
    result: dict[str, Any] = json.loads(output.splitlines()[-1])
    return result


def torch_exporter(folder: Path) -> dict[str, Any]:
    """Measure torch.onnx.export alone, from a loaded model to a file."""
    import torch

    from rpln_export.steps import Silent, Steps
    from rpln_model import RobertaPreLayerNormForTokenClassification

    model = RobertaPreLayerNormForTokenClassification.from_pretrained(folder / "base")
    ids = torch.ones((2, 7), dtype=torch.int64)
    axes = {0: "batch", 1: "sequence"}
    steps = Steps(Silent())
    with warnings.catch_warnings(), steps.step("torch.onnx.export"):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (),
            folder / "torch.onnx",
            kwargs={"input_ids": ids, "attention_mask": ids},
            dynamic_shapes={"input_ids": axes, "attention_mask": axes},
            dynamo=True,
            opset_version=20,
            external_data=False,
            verbose=False,
        )
    return _result(steps.finished)


def whole_export(folder: Path, *, engine: str = "auto", **choices: Any) -> dict[str, Any]:
    """Measure an export by this project, from the checkpoint's folder to a validated bundle."""
    from rpln_export.pipeline import export
    from rpln_export.plan.engines import EngineRequest
    from rpln_export.plan.export_plan import make_plan

    request = EngineRequest(name=engine)
    plan = make_plan(str(folder / "base"), task=TASK, destination=folder / "out", engines=request, **choices)
    return _result(export(plan).steps)


def trace(folder: Path, *, layers: int, method: str) -> dict[str, Any]:  # noqa: ARG001 # reads nothing from it
    """Measure the trace of a narrow network. A trace computes nothing, so that only the number of layers matters."""
    from transformers import RobertaPreLayerNormConfig

    from rpln_export.steps import Silent, Steps
    from rpln_graphs.trace import trace_model
    from rpln_model import RobertaPreLayerNormForTokenClassification
    from rpln_runtime.tasks import TASKS

    config = RobertaPreLayerNormConfig(
        vocab_size=100, hidden_size=48, intermediate_size=64, num_attention_heads=4, num_hidden_layers=layers
    )
    model = RobertaPreLayerNormForTokenClassification(config)
    steps = Steps(Silent())
    begun = time.process_time()
    with steps.step("trace"):
        trace_model(model, TASKS[TASK].inputs, TASKS[TASK].outputs, trace=method)
    return _result(steps.finished) | {"processor_seconds": time.process_time() - begun}


UNMEASURED: Final[dict[str, Any]] = {"optimize": "standard", "engine": "none"}
EXPORTS: Final[dict[str, Callable[[Path], dict[str, Any]]]] = {
    TORCH: torch_exporter,
    "rpln-export": whole_export,
    "rpln-export --fp16": partial(whole_export, precision="fp16"),
    "rpln-export --bf16": partial(whole_export, precision="bf16"),
    "rpln-export --int8": partial(whole_export, precision="int8"),
    "rpln-export --optimize standard --engine none": partial(whole_export, **UNMEASURED),
    "rpln-export --optimize standard --engine none --trace full": partial(whole_export, **UNMEASURED, trace="full"),
}
TRACES: Final = {
    (method, layers): f"a trace of {layers} layers, {method}" for method, layers in product(METHODS, DEPTHS)
}
CONTENDERS: Final = EXPORTS | {
    name: partial(trace, layers=layers, method=method) for (method, layers), name in TRACES.items()
}


def write_results(runs: dict[str, list[dict[str, Any]]], weights: int) -> None:
    """Write the medians and ratios as JSON and as tables."""
    exports = {name: _export_row(runs[name], runs[TORCH], weights) for name in EXPORTS}
    traces = {key: statistics.median(run["processor_seconds"] for run in runs[name]) for key, name in TRACES.items()}
    document = {
        "model": "base, 12 x 768, random weights",
        "weights_bytes": weights,
        "machine": {"cores": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()},
        "rows": exports,
        "traces": [
            {"trace": method, "layers": layers, "processor_seconds": round(seconds, 1)}
            for (method, layers), seconds in traces.items()
        ],
    }
    text = "\n".join([*_export_table(exports), "", *_trace_table(traces)])
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "export.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    (RESULTS / "export.md").write_text(text + "\n", encoding="utf-8")
    print(text)


def _export_row(finished: list[dict[str, Any]], torch_runs: list[dict[str, Any]], weights: int) -> dict[str, Any]:
    """Return the median of several exports, and ratios to torch's exporter in the same round."""
    ratios = [run["seconds"] / base["seconds"] for run, base in zip(finished, torch_runs, strict=True)]
    median = sorted(finished, key=lambda run: run["seconds"])[len(finished) // 2]
    return {
        "ratio_to_torch": round(statistics.median(ratios), 2),
        "peak_to_weights": round(max(run["peak"] for run in finished) / weights, 2),
        "seconds": round(median["seconds"], 1),
        "processor_seconds": round(statistics.median(run["processor_seconds"] for run in finished), 1),
        "share_of_steps": {step: round(time / median["seconds"], 2) for step, time in median["steps"].items()},
    }


def _export_table(rows: dict[str, dict[str, Any]]) -> list[str]:
    lines = [
        "| | time, ratio to torch's exporter | seconds of processors | peak memory, ratio to fp32 weights | shares |",
        "|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        shares = ", ".join(f"{step} {share:.0%}" for step, share in row["share_of_steps"].items())
        cells = (name, row["ratio_to_torch"], row["processor_seconds"], row["peak_to_weights"], shares)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines


def _trace_table(traces: dict[tuple[str, int], float]) -> list[str]:
    """Return seconds of processors and, in brackets, the ratio to the network with the fewest layers."""
    lines = [f"| layers | {' | '.join(f'--trace {method}' for method in METHODS)} |", "|---|---|---|"]
    for layers in DEPTHS:
        cells = [
            f"{traces[method, layers]:.1f} s ({traces[method, layers] / traces[method, DEPTHS[0]]:.2f})"
            for method in METHODS
        ]
        lines.append(f"| {layers} | {' | '.join(cells)} |")
    return lines


def _result(steps: Any) -> dict[str, Any]:
    """Return what the steps took. Time of processors counts from the start of the process, imports included."""
    seconds: dict[str, float] = {}
    for step in steps:
        seconds[step.name] = seconds.get(step.name, 0.0) + step.seconds
    return {
        "seconds": sum(seconds.values()),
        "processor_seconds": time.process_time(),
        "peak": max(step.peak_memory for step in steps),
        "steps": seconds,
    }


if __name__ == "__main__":
    main()
