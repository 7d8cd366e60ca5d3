"""Time and peak memory of an export at base size, beside torch's exporter alone.

Contenders run in turn, each in a process of its own, with a pause in between; what counts are the ratios. Random
weights are made on the spot. `make bench` writes benchmarks/results/export.json and export.md.
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
from pathlib import Path
from typing import Any, Final

RESULTS: Final = Path(__file__).with_name("results")
PAUSE: Final = 3.0
TASK: Final = "token-classification"


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
                print(f"{name}: {run['seconds']:.1f} s, peak {run['peak'] / weights:.2f}x the weights", flush=True)
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
    """What torch.onnx.export alone takes, from a loaded model to a file."""
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


def whole_export(precision: str) -> Callable[[Path], dict[str, Any]]:
    """What an export by this project takes, from the checkpoint's folder to a validated bundle."""

    def run(folder: Path) -> dict[str, Any]:
        from rpln_export.pipeline import export
        from rpln_export.plan.export_plan import make_plan

        plan = make_plan(str(folder / "base"), task=TASK, precision=precision, destination=folder / f"out-{precision}")
        return _result(export(plan).steps)

    return run


CONTENDERS: Final[dict[str, Callable[[Path], dict[str, Any]]]] = {
    "torch.onnx.export alone": torch_exporter,
    "rpln-export": whole_export("fp32"),
    "rpln-export --fp16": whole_export("fp16"),
    "rpln-export --bf16": whole_export("bf16"),
}


def write_results(runs: dict[str, list[dict[str, Any]]], weights: int) -> None:
    """Write the medians, and the ratios to torch's exporter of the same round, as JSON and as a table."""
    rows = {}
    for name, finished in runs.items():
        baseline = [run["seconds"] for run in runs["torch.onnx.export alone"]]
        ratios = [run["seconds"] / base for run, base in zip(finished, baseline, strict=True)]
        median = sorted(finished, key=lambda run: run["seconds"])[len(finished) // 2]
        rows[name] = {
            "ratio_to_torch": round(statistics.median(ratios), 2),
            "peak_to_weights": round(max(run["peak"] for run in finished) / weights, 2),
            "seconds": round(median["seconds"], 1),
            "share_of_steps": {step: round(time / median["seconds"], 2) for step, time in median["steps"].items()},
        }
    machine = {"cores": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}
    RESULTS.mkdir(exist_ok=True)
    document = {"model": "base, 12 x 768, random weights", "weights_bytes": weights, "machine": machine, "rows": rows}
    (RESULTS / "export.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    lines = ["| | time, ratio to torch's exporter | peak memory, ratio to fp32 weights | shares |", "|---|---|---|---|"]
    for name, row in rows.items():
        shares = ", ".join(f"{step} {share:.0%}" for step, share in row["share_of_steps"].items())
        lines.append(f"| {name} | {row['ratio_to_torch']} | {row['peak_to_weights']} | {shares} |")
    (RESULTS / "export.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


def _result(steps: Any) -> dict[str, Any]:
    return {
        "seconds": sum(step.seconds for step in steps),
        "peak": max(step.peak_memory for step in steps),
        "steps": {step.name: step.seconds for step in steps},
    }


if __name__ == "__main__":
    main()
