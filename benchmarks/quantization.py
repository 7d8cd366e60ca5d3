"""Compares quantized graphs on a CPU in one run: this project's, and those of ONNX Runtime's and OpenVINO's tools.

`python -m benchmarks.quantization` makes a base-size encoder and a base-size decoder with random weights, and writes
their graphs as an export does. Each contender runs each batch in turn, with a pause before each run. The ratios are the
result. It measures the accuracy on the embedded classifier and tagger, on the built-in texts that no range is measured
on. NNCF takes part where it is installed (pip install nncf). The tables go to benchmarks/results/quantization.md.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from transformers import (
    AutoTokenizer,
    RobertaPreLayerNormConfig,
    RobertaPreLayerNormForCausalLM,
    RobertaPreLayerNormForTokenClassification,
)

from benchmarks.encoder_cases import FIRST_WORD, PAD
from benchmarks.machine import describe_machine, versions_of
from rpln_export.checkpoint.model import load_model
from rpln_export.checkpoint.planned_graphs import TracedGraph, planned_graphs_from_model
from rpln_export.plan.calibration import calibration_texts
from rpln_export.plan.defaults import DEFAULTS
from rpln_export.plan.export_plan import ExportPlan, make_plan
from rpln_graphs.forms import STANDARD, Form, write_form
from rpln_graphs.passes.quantize_attention import projected_for_scores
from rpln_graphs.quantization.observe import observe
from rpln_graphs.quantization.products import layer_products
from rpln_graphs.quantization.range_methods import RANGE_METHODS, quantizers_from_observed
from rpln_graphs.recipes import RECIPES
from rpln_graphs.rewriting.base import Context
from rpln_graphs.save import save_graph
from rpln_graphs.trace import trace_model

RESULTS: Final = Path(__file__).with_name("results") / "quantization.md"
PAUSE: Final = 0.05
"""Seconds before a run. Idle threads may still spin and slow it down."""
CASES: Final[dict[str, tuple[int, ...]]] = {
    "b1 s32": (32,),
    "b1 s128": (128,),
    "b1 s384": (384,),
    "b8 s128": (128,) * 8,
    "b16 mixed": (256, 120, 80, 64, 50, 40, 33, 28, 22, 18, 15, 12, 10, 9, 8, 7),
}
"""Batches of encoders: the lengths of their texts."""
CALIBRATED_ON: Final = 16
"""The random texts that ranges of random networks are measured on."""
PROMPT: Final = 32
NEW_TOKENS: Final = 32
BATCHES: Final = (1, 8)
"""The batches of a decoder."""
ACCURATE: Final = ("text-classification", "token-classification")
"""The tasks whose embedded checkpoints the accuracy is measured on."""
REFERENCE: Final = "ONNX Runtime fp32"

Feeds = Mapping[str, NDArray[Any]]
Run = Callable[[Feeds], NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A graph of a file, and the runtime that runs it."""

    name: str
    path: Path
    opened: Callable[[Path, int], Run]

    @property
    def megabytes(self) -> float:
        """The size of the file and of the weights beside it, in MB."""
        weights = self.path.with_suffix(".bin")  # of OpenVINO's own format
        return sum(part.stat().st_size for part in (self.path, weights) if part.exists()) / 1e6


def main() -> None:
    """Measure everything, and write and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--layers", type=int, default=12, help="fewer, to try the script")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tables = [
            _encoders(folder, arguments),
            _decoders(folder, arguments),
            *(_accuracy(task, folder / task) for task in ACCURATE),
        ]
    arguments.results.write_text("\n".join([_head(arguments.threads), *tables]), encoding="utf-8")
    print(arguments.results.read_text(encoding="utf-8"))


def _encoders(folder: Path, arguments: argparse.Namespace) -> str:
    """Return the table of encoders: how many times as fast as fp32 each contender is, in each case."""
    config = RobertaPreLayerNormConfig(num_hidden_layers=arguments.layers, type_vocab_size=1)
    checkpoint = folder / "encoder"
    RobertaPreLayerNormForTokenClassification(config).save_pretrained(checkpoint)
    _tokenizer("token-classification").save_pretrained(checkpoint)
    graph, _ = _traced("token-classification", str(checkpoint))
    words = np.random.default_rng(0)
    texts = [_batch((int(words.integers(16, 128)),), words) for _ in range(CALIBRATED_ON)]
    contenders = _contenders(graph, texts, folder)
    opened = {row.name: row.opened(row.path, arguments.threads) for row in contenders}
    measured = {}
    for name, lengths in CASES.items():
        feeds = _batch(lengths, words)
        measured[name] = _ratios({row: partial(run, feeds) for row, run in opened.items()}, rounds=arguments.rounds)
        print(name, measured[name], flush=True)
    return _table("Encoder", contenders, measured)


def _decoders(folder: Path, arguments: argparse.Namespace) -> str:
    """Return the table of decoders: how many times as fast as fp32 each contender writes tokens."""
    tokenizer = _tokenizer("text-generation")
    config = RobertaPreLayerNormConfig(
        vocab_size=len(tokenizer), num_hidden_layers=arguments.layers, type_vocab_size=1, is_decoder=True
    )
    checkpoint = folder / "decoder"
    RobertaPreLayerNormForCausalLM(config).save_pretrained(checkpoint)
    tokenizer.save_pretrained(checkpoint)
    contenders = []
    for recipe in ("fp32", "int8-weight-only", "int4"):
        graph, plan = _traced("text-generation", str(checkpoint), precision=recipe)
        forms = [STANDARD] if recipe == "fp32" else list(plan.recipe.forms.values())
        contenders += [_ours(graph, form, Context(), folder / "decoders", on="ONNX Runtime") for form in forms]
    contenders = [_named(contenders[0], REFERENCE), *contenders[1:]]
    measured = {f"decoding, batch {rows}": _decoding_times(contenders, rows, config, arguments) for rows in BATCHES}
    return _table("Decoder", contenders, measured)


def _accuracy(task: str, folder: Path) -> str:
    """Return the table of a trained checkpoint: differences from fp32, and equal decisions, on texts held back."""
    graph, plan = _traced(task, None)
    tokenizer = _tokenizer(task)
    encoded = [tokenizer(text.text)["input_ids"] for text in calibration_texts(None, RECIPES["int8"])]
    texts = [{"input_ids": np.array([ids]), "attention_mask": np.ones((1, len(ids)), np.int64)} for ids in encoded]
    contenders = _contenders(graph, [text for place, text in enumerate(texts) if place % 4], folder)
    held_back = texts[::4]
    outputs = {row.name: [row.opened(row.path, 1)(text) for text in held_back] for row in contenders}
    expected = outputs[REFERENCE]
    reach = max(float(np.abs(array).max()) for array in expected)
    rows = []
    for name, found in outputs.items():
        differences = np.concatenate([(one - other).ravel() for one, other in zip(found, expected, strict=True)])
        equal = [(one.argmax(-1) == other.argmax(-1)).ravel() for one, other in zip(found, expected, strict=True)]
        rms = float(np.sqrt(np.square(differences).mean())) / reach
        largest = float(np.abs(differences).max()) / reach
        rows.append(f"| {name} | {rms:.2e} | {largest:.2e} | {np.concatenate(equal).mean():.2%} |")
    return "\n".join(
        [
            f"## Accuracy: {plan.name}, {len(held_back)} texts, relative to the range of the logits\n",
            "| | difference (rms) | largest difference | equal decisions |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    )


# -- contenders ------------------------------------------------------------------------------------------------------


def _contenders(graph: TracedGraph, texts: Sequence[Feeds], folder: Path) -> list[Contender]:
    """Return every way to run a quantized encoder, the fp32 graph first; ranges are measured on `texts`."""
    names = [product.activation.name or "" for product in layer_products(graph.model)]
    names += [node.outputs[0].name or "" for node in projected_for_scores(graph.model)]
    seen = observe(graph.model, names, [dict(text) for text in texts])
    context = Context(quantizers=quantizers_from_observed(seen, RANGE_METHODS["min-max"]))
    fp32 = _named(_ours(graph, STANDARD, context, folder, on="ONNX Runtime"), REFERENCE)
    found = [fp32, Contender(name="OpenVINO fp32", path=fp32.path, opened=_open_openvino)]
    found += [Contender(name="ONNX Runtime's dynamic int8", path=_ort_dynamic(fp32.path), opened=_open_onnxruntime)]
    found += list(_nncf(fp32.path, texts))
    for form in RECIPES["int8"].forms.values():
        found.append(_ours(graph, form, context, folder, on="ONNX Runtime"))
        if form.calibrated:
            found.append(_ours(graph, form, context, folder, on="OpenVINO"))
    return found


def _ours(graph: TracedGraph, form: Form, context: Context, folder: Path, *, on: str) -> Contender:
    """Return a form of the graph that this project writes, run by ONNX Runtime or OpenVINO."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{form.name}.onnx"
    if not path.exists():
        save_graph(write_form(graph.model, form, graph.planned.traits, context=context), path)
    opened = _open_openvino if on == "OpenVINO" else _open_onnxruntime
    return Contender(name=f"**this project**, {form.name}, {on}", path=path, opened=opened)


def _named(contender: Contender, name: str) -> Contender:
    return Contender(name=name, path=contender.path, opened=contender.opened)


def _ort_dynamic(fp32: Path) -> Path:
    """Return the graph of onnxruntime.quantization.quantize_dynamic, with weights quantized per channel."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    path = fp32.with_name("ort-dynamic.onnx")
    quantize_dynamic(fp32, path, op_types_to_quantize=["MatMul"], per_channel=True, weight_type=QuantType.QInt8)
    return path


def _nncf(fp32: Path, texts: Sequence[Feeds]) -> Iterator[Contender]:
    """Yield the graphs of NNCF, which is OpenVINO's own tool: static int8, and compressed weights."""
    try:
        import nncf
    except ImportError:
        return
    import openvino

    started = time.perf_counter()
    path = nncf_static(fp32, texts)
    print(f"NNCF took {time.perf_counter() - started:.0f} s", flush=True)
    yield Contender(name="NNCF static int8, OpenVINO", path=path, opened=_open_openvino)
    compressed = fp32.with_name("compressed.xml")
    openvino.save_model(nncf.compress_weights(openvino.Core().read_model(fp32)), compressed, compress_to_fp16=False)
    yield Contender(name="NNCF compressed weights, OpenVINO", path=compressed, opened=_open_openvino)


def nncf_static(fp32: Path, texts: Sequence[Feeds], *, smooth: bool = True) -> Path:
    """Return the graph that NNCF quantizes with ranges of `texts`, beside that in fp32.

    Without `smooth`, it leaves out SmoothQuant.
    """
    import nncf
    import onnx
    from nncf.quantization.advanced_parameters import AdvancedSmoothQuantParameters

    dataset = nncf.Dataset([dict(text) for text in texts])
    alphas = AdvancedSmoothQuantParameters() if smooth else AdvancedSmoothQuantParameters(matmul=-1)
    quantized = nncf.quantize(
        onnx.load(fp32),
        dataset,
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(texts),
        advanced_parameters=nncf.AdvancedQuantizationParameters(smooth_quant_alphas=alphas),
    )
    path = fp32.with_name("nncf.onnx")
    onnx.save(quantized, path)
    return path


def _open_onnxruntime(path: Path, threads: int) -> Run:
    session = _session(path, threads)
    return lambda feeds: session.run(["logits"], dict(feeds))[0]


def _session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _open_openvino(path: Path, threads: int) -> Run:
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    request = openvino.Core().compile_model(path, "CPU", settings).create_infer_request()
    return lambda feeds: np.array(request.infer(dict(feeds), share_inputs=True)["logits"])


# -- measurement -----------------------------------------------------------------------------------------------------


def _decoding_times(
    contenders: Sequence[Contender], rows: int, config: RobertaPreLayerNormConfig, arguments: argparse.Namespace
) -> dict[str, float]:
    sessions = {row.name: _session(row.path, arguments.threads) for row in contenders}
    prompts = np.random.default_rng(0).integers(FIRST_WORD, config.vocab_size, (rows, PROMPT))
    runs = {name: partial(_write_tokens, session, prompts, config) for name, session in sessions.items()}
    return _ratios(runs, rounds=max(2, arguments.rounds // 3))


def _ratios(runs: Mapping[str, Callable[[], object]], *, rounds: int) -> dict[str, float]:
    for run in runs.values():
        run()
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            time.sleep(PAUSE)
            started = time.perf_counter()
            run()
            taken[name].append(time.perf_counter() - started)
    first = next(iter(taken.values()))
    return {
        name: statistics.median(one / other for one, other in zip(first, seconds, strict=True))
        for name, seconds in taken.items()
    }


def _write_tokens(
    session: onnxruntime.InferenceSession, prompts: NDArray[Any], config: RobertaPreLayerNormConfig
) -> None:
    """Write NEW_TOKENS after the prompts, the likeliest each time, with the keys and values of the steps before."""
    rows, length = prompts.shape
    heads = config.num_attention_heads
    names = [value.name for value in session.get_inputs() if value.name.startswith("past_key_values")]
    outputs = [value.name for value in session.get_outputs()]
    past = {name: np.zeros((rows, heads, 0, config.hidden_size // heads), np.float32) for name in names}
    ids, positions = prompts, np.arange(length)[np.newaxis].repeat(rows, 0) + PAD + 1
    for step in range(NEW_TOKENS):
        feeds = {
            "input_ids": ids,
            "attention_mask": np.ones((rows, length + step), np.int64),
            "position_ids": positions,
            **past,
        }
        found = dict(zip(outputs, session.run(outputs, feeds), strict=True))
        past = {name: found[name.replace("past_key_values", "present")] for name in names}
        ids = found["logits"].reshape(rows, -1, config.vocab_size)[:, -1:].argmax(-1)
        positions = positions[:, -1:] + 1


# -- graphs and texts ------------------------------------------------------------------------------------------------


def _traced(task: str, checkpoint: str | None, *, precision: str = "int8") -> tuple[TracedGraph, ExportPlan]:
    """Return the graph of a checkpoint after the exact folds of a precision, and the plan of its export."""
    plan = make_plan(checkpoint, task=task, precision=precision)
    (planned,) = planned_graphs_from_model(plan, load_model(plan)[0])
    inputs, outputs = planned.plan.inputs, planned.plan.outputs
    model = trace_model(planned.call.model, inputs, outputs, opset=plan.opset, trace=plan.trace)
    for fold in plan.folds:
        fold.configure(model, Context())(model)
    return TracedGraph(planned=planned, model=model), plan


def _batch(lengths: Sequence[int], words: np.random.Generator) -> dict[str, NDArray[np.int64]]:
    """Return a batch of random texts of these lengths, padded on the right."""
    mask = (np.arange(max(lengths)) < np.array(lengths)[:, np.newaxis]).astype(np.int64)
    ids = np.where(mask, words.integers(FIRST_WORD, RobertaPreLayerNormConfig().vocab_size, mask.shape), PAD)
    return {"input_ids": ids, "attention_mask": mask}


def _tokenizer(task: str) -> Any:
    return AutoTokenizer.from_pretrained(DEFAULTS[task].folder)


# -- results ---------------------------------------------------------------------------------------------------------


def _head(threads: int) -> str:
    machine = describe_machine(threads=threads)
    versions = ", ".join(f"{name} {version}" for name, version in versions_of(DISTRIBUTIONS).items())
    return f"""# Quantized graphs

`python -m benchmarks.quantization`: how many times as fast as {REFERENCE}, the median of the ratios of all rounds.
Base size (12 layers of 768) with random weights; all contenders in one run, in turn.

{machine["processor"]}, {threads} threads, {machine["system"]}; {versions}.
"""


DISTRIBUTIONS: Final = ("onnxruntime", "openvino", "nncf", "rpln-export")


def _table(title: str, contenders: Sequence[Contender], measured: Mapping[str, Mapping[str, float]]) -> str:
    lines = [
        f"## {title}\n",
        f"| | {' | '.join(measured)} | MB |",
        "|---|" + "---|" * (len(measured) + 1),
        *(
            f"| {row.name} | {' | '.join(f'{speeds[row.name]:.2f}' for speeds in measured.values())} | "
            f"{row.megabytes:.0f} |"
            for row in contenders
        ),
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
