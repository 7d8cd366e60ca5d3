"""ENCODERS: one row for each way to run an encoder; their speed at base size, and accuracy on trained networks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from transformers import RobertaPreLayerNormConfig, RobertaPreLayerNormForTokenClassification

from benchmarks.encoder_cases import FIRST_WORD, PAD
from benchmarks.quantization import ctranslate2_models, nncf_tools, onnxruntime_tools, torch_tools
from benchmarks.quantization.contenders import REFERENCE, Contender, megabytes, open_all
from benchmarks.quantization.graphs import Written, texts_of, tokenizer_of, traced
from benchmarks.quantization.measure import speeds, table_of_accuracy, table_of_speeds
from benchmarks.quantization.runtimes import Feeds, logits_of, onnxruntime_session, openvino_request
from rpln_export.plan.defaults import DEFAULTS
from rpln_graphs.forms import STANDARD, Form
from rpln_graphs.passes.quantize_attention import projected_for_scores
from rpln_graphs.quantization.observe import observe
from rpln_graphs.quantization.products import layer_products
from rpln_graphs.quantization.range_methods import RANGE_METHODS, quantizers_from_observed
from rpln_graphs.recipes import RECIPES
from rpln_graphs.rewriting.base import Context

CASES: Final[dict[str, tuple[int, ...]]] = {
    "b1 s32": (32,),
    "b1 s128": (128,),
    "b1 s384": (384,),
    "b8 s128": (128,) * 8,
    "b16 mixed": (256, 120, 80, 64, 50, 40, 33, 28, 22, 18, 15, 12, 10, 9, 8, 7),
}
"""Batches: the lengths of their texts."""
CALIBRATED_ON: Final = 16
"""The random texts that ranges of random networks are measured on."""

Run = Callable[[Feeds], NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What every contender is made from: a checkpoint, its graph, and the texts that ranges are measured on."""

    task: str
    checkpoint: Path
    written: Written
    texts: Sequence[Feeds]
    threads: int

    @property
    def fp32(self) -> Path:
        """The graph in fp32, in standard operators, as this project writes it."""
        return self.written.path(STANDARD)

    @property
    def folder(self) -> Path:
        """The folder that contenders write to."""
        return self.written.folder


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoder:
    """An opened encoder: it takes feeds and returns logits. `megabytes` is the size of its file."""

    run: Run
    megabytes: float


def encoder_speeds(folder: Path, *, layers: int, threads: int, rounds: int) -> str:
    """Return the table of speeds at base size, with random weights."""
    checkpoint = folder / "encoder"
    config = RobertaPreLayerNormConfig(num_hidden_layers=layers, type_vocab_size=1)
    RobertaPreLayerNormForTokenClassification(config).save_pretrained(checkpoint)
    tokenizer_of("token-classification").save_pretrained(checkpoint)
    words = np.random.default_rng(0)
    texts = [_batch((int(words.integers(16, 128)),), words) for _ in range(CALIBRATED_ON)]
    opened = open_all(ENCODERS, _setup("token-classification", checkpoint, folder / "encoders", texts, threads))
    measured = {}
    for name, lengths in CASES.items():
        feeds = _batch(lengths, words)
        measured[name] = speeds({row: partial(one.run, feeds) for row, one in opened.items()}, rounds=rounds)
        print(name, measured[name], flush=True)
    return table_of_speeds("Encoder", {name: one.megabytes for name, one in opened.items()}, measured)


def encoder_accuracy(task: str, folder: Path, *, threads: int) -> str:
    """Return the table of an embedded checkpoint: differences from fp32, and equal decisions, on texts held back."""
    ids = texts_of(task)
    texts = [{"input_ids": row, "attention_mask": np.ones_like(row)} for row in ids]
    measured_on = [text for place, text in enumerate(texts) if place % 4]
    held_back = texts[::4]
    opened = open_all(ENCODERS, _setup(task, DEFAULTS[task].folder, folder / task, measured_on, threads))
    logits = {name: [one.run(text) for text in held_back] for name, one in opened.items()}
    return table_of_accuracy(DEFAULTS[task].name, logits)


def _setup(task: str, checkpoint: Path, folder: Path, texts: Sequence[Feeds], threads: int) -> Setup:
    graph = traced(task, checkpoint, precision="int8")
    names = [product.activation.name or "" for product in layer_products(graph.model)]
    names += [node.outputs[0].name or "" for node in projected_for_scores(graph.model)]
    seen = observe(graph.model, names, [dict(text) for text in texts])
    context = Context(quantizers=quantizers_from_observed(seen, RANGE_METHODS["min-max"]))
    written = Written(graph=graph, folder=folder, context=context)
    return Setup(task=task, checkpoint=checkpoint, written=written, texts=texts, threads=threads)


def _batch(lengths: Sequence[int], words: np.random.Generator) -> dict[str, NDArray[np.int64]]:
    """Return a batch of random texts of these lengths, padded on the right."""
    mask = (np.arange(max(lengths)) < np.array(lengths)[:, np.newaxis]).astype(np.int64)
    ids = np.where(mask, words.integers(FIRST_WORD, RobertaPreLayerNormConfig().vocab_size, mask.shape), PAD)
    return {"input_ids": ids, "attention_mask": mask}


# -- contenders ------------------------------------------------------------------------------------------------------


def _onnxruntime(setup: Setup, *, path: Callable[[Setup], Path]) -> Encoder:
    """Open the graph that `path` makes in ONNX Runtime."""
    file = path(setup)
    session = onnxruntime_session(file, setup.threads)
    return Encoder(run=lambda feeds: session.run(["logits"], dict(feeds))[0], megabytes=megabytes(file))


def _openvino(setup: Setup, *, path: Callable[[Setup], Path]) -> Encoder:
    """Open the graph that `path` makes in OpenVINO."""
    file = path(setup)
    request = openvino_request(file, setup.threads)
    return Encoder(run=partial(logits_of, request), megabytes=megabytes(file))


def _torch(setup: Setup, *, quantize: Callable[[Any], Any] | None = None) -> Encoder:
    """Open transformers' own model in torch, quantized by `quantize`."""
    import torch

    model = torch_tools.torch_model(setup.task, setup.checkpoint, setup.threads)
    if quantize:
        model = quantize(model)

    def run(feeds: Feeds) -> NDArray[Any]:
        with torch.inference_mode():
            logits: NDArray[Any] = model(
                **{name: torch.from_numpy(array) for name, array in feeds.items()}
            ).logits.numpy()
        return logits

    return Encoder(run=run, megabytes=megabytes(torch_tools.save_weights(model, setup.folder / "torch.pt")))


def _ctranslate2(setup: Setup, *, quantization: str) -> Encoder:
    """Open the network in CTranslate2, with its head in torch."""
    model = torch_tools.torch_model(setup.task, setup.checkpoint, setup.threads)
    folder = setup.folder / f"ctranslate2-{quantization}"
    run = ctranslate2_models.open_encoder(model, folder, quantization=quantization, threads=setup.threads)
    return Encoder(run=run, megabytes=megabytes(folder))


def _ort_static(setup: Setup) -> Path:
    return onnxruntime_tools.static(setup.fp32, setup.texts)


def _nncf_compressed(setup: Setup) -> Path:
    import openvino

    return nncf_tools.nncf_compressed(openvino.Core().read_model(setup.fp32), setup.folder / "compressed.xml")


def _ours(form: Form) -> list[Contender[Setup, Encoder]]:
    """Return the rows of a form: in ONNX Runtime, and in OpenVINO if its scales are measured beforehand."""

    def path(setup: Setup) -> Path:
        return setup.written.path(form)

    name = f"**this project**, {form.name}"
    rows = [Contender(name=f"{name}, ONNX Runtime", make=partial(_onnxruntime, path=path))]
    if form.calibrated:
        rows.append(Contender(name=f"{name}, OpenVINO", make=partial(_openvino, path=path), needs=("openvino",)))
    return rows


ENCODERS: Final[tuple[Contender[Setup, Encoder], ...]] = (
    Contender(name=REFERENCE, make=partial(_onnxruntime, path=lambda setup: setup.fp32)),
    Contender(name="OpenVINO fp32", make=partial(_openvino, path=lambda setup: setup.fp32), needs=("openvino",)),
    Contender(name="torch eager fp32", make=_torch),
    Contender(name="CTranslate2 fp32", make=partial(_ctranslate2, quantization="float32"), needs=("ctranslate2",)),
    Contender(
        name="ONNX Runtime's dynamic int8",
        make=partial(_onnxruntime, path=lambda setup: onnxruntime_tools.dynamic(setup.fp32)),
    ),
    Contender(name="ONNX Runtime's static int8", make=partial(_onnxruntime, path=_ort_static)),
    Contender(
        name="ONNX Runtime's static int8, OpenVINO", make=partial(_openvino, path=_ort_static), needs=("openvino",)
    ),
    Contender(
        name="ONNX Runtime's static int8 by default",
        make=partial(_onnxruntime, path=lambda setup: onnxruntime_tools.static_by_default(setup.fp32, setup.texts)),
    ),
    Contender(
        name="NNCF static int8, OpenVINO",
        make=partial(_openvino, path=lambda setup: nncf_tools.nncf_static(setup.fp32, setup.texts)),
        needs=("nncf", "openvino"),
    ),
    Contender(
        name="NNCF compressed weights, OpenVINO",
        make=partial(_openvino, path=_nncf_compressed),
        needs=("nncf", "openvino"),
    ),
    Contender(name="torch's dynamic int8", make=partial(_torch, quantize=torch_tools.torch_dynamic)),
    Contender(
        name="torchao's dynamic int8, torch.compile",
        make=partial(_torch, quantize=torch_tools.torchao_compiled),
        needs=("torchao",),
        compiles=True,
    ),
    Contender(name="CTranslate2 int8", make=partial(_ctranslate2, quantization="int8"), needs=("ctranslate2",)),
    *(row for form in RECIPES["int8"].forms.values() for row in _ours(form)),
)
"""The contenders; the first is what all others are compared with."""
