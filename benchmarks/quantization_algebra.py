"""Shows what each step before quantizing buys in static int8 graphs, beside NNCF, in one run.

`python -m benchmarks.quantization_algebra` quantizes the embedded encoders, and networks with outlying channels: as
they were traced, with the affine of LayerNorms folded, with channels equalized, and with biases corrected. Ranges are
measured on the built-in texts, min-max throughout, so that only the preparation differs. What differs from eager torch
is measured on other texts: sentences, and the beginnings of mails. NNCF (pip install nncf) gets the folded graph and
the same texts. The tables go to benchmarks/results/quantization-algebra.md.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx_ir as ir
import onnxruntime
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, RobertaPreLayerNormConfig, RobertaPreLayerNormForTokenClassification

from benchmarks.machine import describe_machine, versions_of
from benchmarks.quantization.nncf_tools import nncf_static
from rpln_export.checkpoint.model import load_model
from rpln_export.checkpoint.planned_graphs import PlannedGraph, TracedGraph, planned_graphs_from_model
from rpln_export.feeds.texts import feeds_from_ids
from rpln_export.plan.defaults import DEFAULTS
from rpln_export.plan.export_plan import ExportPlan, make_plan
from rpln_export.quantization.fidelity import Fidelity, Trial
from rpln_export.validation.calibration import ids_from_texts
from rpln_export.validation.graphs_under_test import graphs_under_test_from_plan
from rpln_graphs.feeds import Feeds
from rpln_graphs.forms import INT8_FORMS, write_form
from rpln_graphs.passes.quantize_attention import projected_for_scores
from rpln_graphs.quantization.observe import observe
from rpln_graphs.quantization.products import layer_products
from rpln_graphs.quantization.ways import PLAIN, Calibration, Preparation, calibration_from_observed
from rpln_graphs.rewriting.base import Context
from rpln_graphs.rewriting.values import maker
from rpln_graphs.save import save_graph
from rpln_graphs.sessions import run_from_model
from rpln_graphs.trace import trace_model

RESULTS: Final = Path(__file__).with_name("results") / "quantization-algebra.md"
TEXTS: Final = Path(__file__).parents[1] / "tests" / "export" / "data"
SENTENCES: Final = {"brown_test_sample.jsonl": 64, "mails_test_sample.jsonl": 16}
"""How many texts of each file graphs are tried on."""
TAGGER: Final = "token-classification"
OUTLYING: Final = [3, 40, 77]
"""The channels that outliers are put into."""
TIMED: Final = 24
"""The tokens of each of the eight texts that speed is measured on."""
ROUNDS: Final = 15
PREPARATIONS: Final = (
    Preparation(name="folded"),
    Preparation(name="folded, corrected", corrects=True),
    Preparation(name="folded, equalized", equalizes=True),
    Preparation(name="folded, equalized, corrected", equalizes=True, corrects=True),
)
NNCF: Final = "NNCF"
"""The label of NNCF's graph. Its SmoothQuant fails at a table of embeddings that is a weight too, as in fill-mask."""
Run = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]

DISTRIBUTIONS: Final = ("onnxruntime", "openvino", "nncf", "rpln-export")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A checkpoint to quantize: its name in the tables, its task, and its folder, or None for the embedded one."""

    name: str
    task: str
    folder: Path | None = None


def main() -> None:
    """Measure everything, and write and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        results = {}
        for case in _cases(folder):
            work = folder / "graphs" / case.name.replace(" ", "-")
            work.mkdir(parents=True)
            results[case.name] = _measured(case, work)
            print(case.name, *map("{0[0]}: {0[1]}".format, results[case.name].items()), sep="\n", flush=True)
        speeds = _speeds(folder / "graphs" / DEFAULTS[TAGGER].name)
    arguments.results.write_text(_page(results, speeds), encoding="utf-8")
    print(arguments.results.read_text(encoding="utf-8"))


# -- checkpoints -----------------------------------------------------------------------------------------------------


def _cases(folder: Path) -> Iterable[Case]:
    for task in ("text-classification", TAGGER, "question-answering", "multiple-choice", "feature-extraction"):
        yield Case(name=DEFAULTS[task].name, task=task)
    yield Case(name=DEFAULTS["fill-mask"].name, task="fill-mask")
    for factor in (20.0, 300.0):
        yield Case(name=f"tagger, outliers x{factor:g}", task=TAGGER, folder=_outlying(folder, factor))
    torch.manual_seed(0)
    config = RobertaPreLayerNormConfig.from_pretrained(DEFAULTS[TAGGER].folder)
    RobertaPreLayerNormForTokenClassification(config).save_pretrained(folder / "random")
    yield Case(name="random, outliers x100", task=TAGGER, folder=_outlying(folder, 100.0, of=folder / "random"))


def _outlying(folder: Path, factor: float, *, of: Path = DEFAULTS[TAGGER].folder) -> Path:
    """Return a copy of a checkpoint of four layers with large channels in the residual stream, and in values."""
    weights = load_file(of / "model.safetensors")
    layers = "roberta_prelayernorm.encoder.layer"
    for part in ("weight", "bias"):
        weights[f"{layers}.0.attention.output.dense.{part}"][OUTLYING] *= factor
        for layer in (1, 2):
            weights[f"{layers}.{layer}.attention.self.value.{part}"][OUTLYING] *= factor
    for layer in (1, 2):
        weights[f"{layers}.{layer}.attention.output.dense.weight"][:, OUTLYING] /= factor
    made = folder / f"{of.name}-{factor:g}"
    AutoTokenizer.from_pretrained(DEFAULTS[TAGGER].folder).save_pretrained(made)
    save_file(weights, made / "model.safetensors", metadata={"format": "pt"})
    (made / "config.json").write_bytes((of / "config.json").read_bytes())
    return made


# -- accuracy --------------------------------------------------------------------------------------------------------


def _measured(case: Case, folder: Path) -> dict[str, Fidelity]:
    """Return how faithful the checkpoint's graph is with each preparation, and write the graphs to `folder`."""
    plan = make_plan(str(case.folder) if case.folder else None, task=case.task, precision="int8")
    (planned,) = planned_graphs_from_model(plan, load_model(plan)[0])
    traced = _traced(planned, plan)
    tokenizer = AutoTokenizer.from_pretrained(case.folder or DEFAULTS[case.task].folder)
    under_test = graphs_under_test_from_plan([planned], plan)[-1]
    cases = [under_test.case_from_ids(ids) for ids in _ids(tokenizer, plan.limits.usable_length)]
    texts = [feeds_from_ids(ids, planned.plan.inputs, planned.call) for ids in ids_from_texts(tokenizer, plan)]
    trial = Trial([TracedGraph(planned=planned, model=traced)], under_test, cases, folder)
    calibration = _calibration(traced, texts)
    found = {"plain": _static(traced, planned, calibration.context(PLAIN))}
    for fold in plan.folds:
        fold.configure(traced, Context())(traced)
    calibration = _calibration(traced, texts)
    found |= {
        preparation.name: _static(traced, planned, calibration.context(replace(PLAIN, preparation=preparation)))
        for preparation in PREPARATIONS
    }
    found["folded, quantizers apart"] = _apart(found["folded"])
    runs = {label: run_from_model(model, optimized=True) for label, model in found.items()}
    for label, model in {"fp32": traced, **found}.items():
        save_graph(model, folder / f"{label}.onnx")
    runs[NNCF] = _opened(nncf_static(folder / "fp32.onnx", texts, smooth=case.task != "fill-mask"))
    return {label: trial.fidelity_of_runs({planned.name: run}) for label, run in runs.items()}


def _traced(planned: PlannedGraph, plan: ExportPlan) -> ir.Model:
    inputs, outputs = planned.plan.inputs, planned.plan.outputs
    return trace_model(planned.call.model, inputs, outputs, opset=plan.opset, trace=plan.trace)


def _ids(tokenizer: Any, limit: int) -> Iterable[np.ndarray]:
    """Yield the token ids of the texts that graphs are tried on."""
    for name, count in SENTENCES.items():
        for line in (TEXTS / name).read_text(encoding="utf-8").splitlines()[:count]:
            yield np.array(tokenizer(json.loads(line)["text"], truncation=True, max_length=limit)["input_ids"])


def _calibration(model: ir.Model, texts: Sequence[Feeds]) -> Calibration:
    names = [product.activation.name or "" for product in layer_products(model)]
    names += [node.outputs[0].name or "" for node in projected_for_scores(model)]
    return calibration_from_observed(model, observe(model, names, texts))


def _static(model: ir.Model, planned: PlannedGraph, context: Context) -> ir.Model:
    return write_form(model, INT8_FORMS["static"], planned.traits, context=context)


def _apart(model: ir.Model) -> ir.Model:
    """Return a copy in which queries, keys and values have a quantizer each, where one serves all three."""
    copy = model.clone()
    for widened in [node for node in copy.graph if node.op_type == "DequantizeLinear"]:
        narrowed = maker(widened.inputs[0], "QuantizeLinear")
        if narrowed is None:  # a weight
            continue
        for use in list(widened.outputs[0].uses())[1:]:
            pair = [ir.node("QuantizeLinear", narrowed.inputs)]
            pair.append(ir.node("DequantizeLinear", [pair[0].outputs[0], *widened.inputs[1:]]))
            copy.graph.insert_before(use.node, pair)
            use.node.replace_input_with(use.idx, pair[1].outputs[0])
    return copy


def _opened(path: Path) -> Run:
    """Return a function that runs a file in OpenVINO, which NNCF writes graphs for."""
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = openvino.Core().compile_model(path, "CPU", settings)
    request = compiled.create_infer_request()

    def run(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        found = request.infer(dict(feeds))
        # An output may have several names.
        return {name: np.array(found[output]) for output in compiled.outputs for name in output.get_names()}

    return run


# -- speed -----------------------------------------------------------------------------------------------------------


def _speeds(folder: Path) -> Mapping[str, Mapping[str, float]]:
    """Return how many times as fast as fp32 each graph in `folder` is, by the runtime: medians over interleaved rounds.

    Processor time counts, since other work on the machine changes it less.
    """
    paths = {NNCF if path.stem == "nncf" else path.stem: path for path in sorted(folder.glob("*.onnx"))}
    ids = np.random.default_rng(0).integers(5, 1000, (8, TIMED))
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    return {
        "ONNX Runtime": _ratios({label: _session(path) for label, path in paths.items()}, feeds),
        "OpenVINO": _ratios({label: _opened(path) for label, path in paths.items()}, feeds),
    }


def _session(path: Path) -> Callable[[Feeds], object]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda feeds: session.run(None, dict(feeds))


def _ratios(runs: Mapping[str, Callable[[Feeds], object]], feeds: Feeds) -> dict[str, float]:
    taken: dict[str, list[float]] = {label: [] for label in runs}
    for _ in range(ROUNDS):
        for label, run in runs.items():
            started = time.process_time()
            run(feeds)
            taken[label].append(time.process_time() - started)
    return {
        label: statistics.median(one / other for one, other in zip(taken["fp32"], seconds, strict=True))
        for label, seconds in taken.items()
    }


# -- results ---------------------------------------------------------------------------------------------------------


def _page(results: Mapping[str, Mapping[str, Fidelity]], speeds: Mapping[str, Mapping[str, float]]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in versions_of(DISTRIBUTIONS).items())
    explained = (
        f"`python -m benchmarks.quantization_algebra`: static int8 graphs with min-max ranges, on "
        f"{sum(SENTENCES.values())} texts that no range was measured on. Differences from eager torch in fp32 are "
        'relative to the range of the output. "plain" is the graph as it was traced, "folded" has the affine of '
        'LayerNorms in the weights, and "quantizers apart" gives queries, keys and values a quantizer each. '
        "Decisions are counted where a task decides along an axis. NNCF quantizes the folded graph, and runs in "
        "OpenVINO; in fill-mask it goes without SmoothQuant, which fails there. Equalizing and correcting add no "
        "operator: what their speeds differ by is noise."
    )
    decided = {name: row for name, row in results.items() if all(found.decisions for found in row.values())}
    timed = {runtime: {label: f"{ratio:.2f}" for label, ratio in row.items()} for runtime, row in speeds.items()}
    return "\n".join(
        [
            "# What each step before quantizing buys",
            "",
            explained,
            "",
            f"{describe_machine(threads=1)['processor']}; {versions}.",
            "",
            *_table("Difference (rms)", _shown(results, lambda found: f"{found.rms:.2e}")),
            *_table("Largest difference", _shown(results, lambda found: f"{found.largest:.2e}")),
            *_table("Equal decisions", _shown(decided, lambda found: f"{found.agreement or 0:.2%}")),
            *_table(f"Times as fast as fp32 by processor time: {DEFAULTS[TAGGER].name}, one thread, 8 texts", timed),
        ]
    )


def _shown(
    results: Mapping[str, Mapping[str, Fidelity]], shown: Callable[[Fidelity], str]
) -> dict[str, dict[str, str]]:
    return {name: {label: shown(found) for label, found in row.items()} for name, row in results.items()}


def _table(title: str, rows: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Return the lines of a table: a row for each name in `rows`, a column for each label in a row."""
    labels = list(next(iter(rows.values())))
    lines = [f"| {name} | {' | '.join(row[label] for label in labels)} |" for name, row in rows.items()]
    return [f"## {title}", "", f"| | {' | '.join(labels)} |", "|---|" + "---|" * len(labels), *lines, ""]


if __name__ == "__main__":
    main()
