"""DECODERS: one row for each way to run a decoder; its speed at base size, and its accuracy on a trained network."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray
from transformers import RobertaPreLayerNormConfig, RobertaPreLayerNormForCausalLM

from benchmarks.encoder_cases import FIRST_WORD, PAD
from benchmarks.quantization import ctranslate2_models, nncf_tools, onnxruntime_tools, torch_tools
from benchmarks.quantization.contenders import REFERENCE, Contender, megabytes, open_all
from benchmarks.quantization.graphs import Written, texts_of, tokenizer_of, traced
from benchmarks.quantization.measure import speeds, table_of_accuracy, table_of_speeds
from benchmarks.quantization.runtimes import Feeds, logits_of, onnxruntime_session, openvino_request
from rpln_export.checkpoint.planned_graphs import TracedGraph
from rpln_export.plan.defaults import DEFAULTS
from rpln_graphs.forms import STANDARD, Form
from rpln_graphs.quantization.blocks import Blocks, identity_of_weight
from rpln_graphs.quantization.error_aware import compensation
from rpln_graphs.quantization.observe import moments
from rpln_graphs.quantization.products import layer_products
from rpln_graphs.recipes import RECIPES
from rpln_graphs.rewriting.base import Context
from rpln_graphs.rewriting.values import tensor_of
from rpln_runtime.engines.base import ROWS
from rpln_runtime.engines.openvino import OpenVinoEngine
from rpln_runtime.generation.cache import bindings_that_keep

TASK: Final = "text-generation"
PROMPT: Final = 32
NEW_TOKENS: Final = 96
BATCHES: Final = (1, 8)
PRECISIONS: Final = ("fp32", "int8-weight-only", "int4")
"""The rows of RECIPES whose graphs are written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What every contender is made from: a checkpoint, and its graph after the folds of each precision."""

    checkpoint: Path
    folder: Path
    written: Mapping[str, Written]
    threads: int

    @property
    def fp32(self) -> Path:
        """The graph in fp32, in standard operators, as this project writes it."""
        return self.written["fp32"].path(STANDARD)

    def empty_past(self, rows: int) -> Feeds:
        """Return the keys and values of no token."""
        return self.written["fp32"].graph.planned.empty_past(rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoder:
    """An opened decoder.

    Attributes:
        write: takes prompts [B, S] and returns the likeliest NEW_TOKENS after them [B, N].
        logits: takes the ids of a text [1, S] and returns the logits of a graph that gives out all of them.
        megabytes: the size of its file.
    """

    write: Callable[[NDArray[Any]], NDArray[Any]]
    logits: Callable[[NDArray[Any]], NDArray[Any]]
    megabytes: float


def decoder_speeds(folder: Path, *, layers: int, threads: int, rounds: int) -> str:
    """Return the table of speeds at base size, with random weights."""
    tokenizer = tokenizer_of(TASK)
    config = RobertaPreLayerNormConfig(
        vocab_size=len(tokenizer), num_hidden_layers=layers, type_vocab_size=1, is_decoder=True
    )
    checkpoint = folder / "decoder"
    RobertaPreLayerNormForCausalLM(config).save_pretrained(checkpoint)
    tokenizer.save_pretrained(checkpoint)
    written = {
        precision: Written(
            graph=traced(TASK, checkpoint, precision=precision),
            folder=folder / f"decoders-{precision}",
            context=Context(),
        )
        for precision in PRECISIONS
    }
    opened = open_all((*DECODERS, *WITH_ANOTHER_HEAD), _setup(checkpoint, written, folder / "decoders", threads))
    measured = {}
    for rows in BATCHES:
        prompts = np.random.default_rng(0).integers(FIRST_WORD, config.vocab_size, (rows, PROMPT))
        runs = {name: partial(one.write, prompts) for name, one in opened.items()}
        for name, run in runs.items():
            assert run().shape == (rows, NEW_TOKENS), name
        measured[f"decoding, batch {rows}"] = found = speeds(runs, rounds=rounds)
        print(rows, found, flush=True)
    return table_of_speeds("Decoder", {name: one.megabytes for name, one in opened.items()}, measured)


def decoder_accuracy(folder: Path, *, threads: int) -> str:
    """Return the table of the embedded checkpoint: differences from fp32, and equal next tokens, on texts held back."""
    texts = texts_of(TASK)
    checkpoint = DEFAULTS[TASK].folder
    written = {}
    for precision in PRECISIONS:
        graph = traced(TASK, checkpoint, precision=precision, logits="all")
        context = Context(weights=_rounded(graph, precision, [text for place, text in enumerate(texts) if place % 4]))
        written[precision] = Written(graph=graph, folder=folder / f"{TASK}-{precision}", context=context)
    opened = open_all(DECODERS, _setup(checkpoint, written, folder / TASK, threads))
    logits = {name: [one.logits(text) for text in texts[::4]] for name, one in opened.items()}
    return table_of_accuracy(DEFAULTS[TASK].name, logits)


def _setup(checkpoint: Path, written: Mapping[str, Written], folder: Path, threads: int) -> Setup:
    folder.mkdir()
    return Setup(checkpoint=checkpoint, folder=folder, written=written, threads=threads)


def _rounded(graph: TracedGraph, precision: str, texts: Sequence[NDArray[Any]]) -> dict[bytes, Blocks]:
    """Return the weights as the export rounds them for their inputs, if it does in this precision."""
    kind = RECIPES[precision].standard.error_aware
    if kind is None:
        return {}
    readers: dict[str, dict[bytes, NDArray[Any]]] = {}
    for product in layer_products(graph.model):
        weight = tensor_of(product.weight).numpy()
        readers.setdefault(product.activation.name or "", {})[identity_of_weight(weight)] = weight
    feeds = ({**_feeds(text, past=0), **graph.planned.empty_past(1)} for text in texts)
    rounded = {}
    for name, summed in moments(graph.model, list(readers), feeds).items():
        factor = compensation(summed)
        rounded.update({identity: kind.rounded_for_inputs(one, factor) for identity, one in readers[name].items()})
    return {identity: blocks for identity, blocks in rounded.items() if blocks is not None}


# -- decoding --------------------------------------------------------------------------------------------------------


class Stepping(Protocol):
    """A graph that keeps the keys and values of the steps before."""

    def start(self, rows: int) -> None:
        """Forget what was read before; the next steps read `rows` texts."""

    def step(self, feeds: Feeds) -> NDArray[Any]:
        """Read the next tokens and return their logits."""


class OnnxRuntimeSteps:
    """A graph in ONNX Runtime, which gets back the keys and values that it returned."""

    def __init__(self, path: Path, setup: Setup) -> None:
        self._session = onnxruntime_session(path, setup.threads)
        self._outputs = [value.name for value in self._session.get_outputs()]
        self._empty = setup.empty_past
        self._past: Feeds = {}

    def start(self, rows: int) -> None:
        """Begin with no keys and values."""
        self._past = self._empty(rows)

    def step(self, feeds: Feeds) -> NDArray[Any]:
        """Run the graph once."""
        found = dict(zip(self._outputs, self._session.run(self._outputs, {**feeds, **self._past}), strict=True))
        self._past = {name: found[_present(name)] for name in self._past}
        logits: NDArray[Any] = found["logits"]
        return logits


class OpenVinoSteps:
    """A graph in OpenVINO, with the keys and values as its state, where OpenVINO's own tools keep them."""

    def __init__(self, model: Any, setup: Setup) -> None:
        self._request = openvino_request(model, setup.threads)

    def start(self, rows: int) -> None:
        """Empty the state."""
        import openvino

        for variable in self._request.query_state():
            _, heads, _, size = variable.state.shape
            variable.state = openvino.Tensor(openvino.Type.f32, [rows, heads, 0, size])

    def step(self, feeds: Feeds) -> NDArray[Any]:
        """Run the graph once."""
        return logits_of(self._request, feeds)


class KeptSteps:
    """A graph in OpenVINO, as this project's runtime lets it keep the keys and values."""

    def __init__(self, path: Path, setup: Setup) -> None:
        engine = OpenVinoEngine(path, threads=setup.threads, install="pip install openvino")
        keeping = bindings_that_keep(engine, engine.inputs)
        shape = engine.shapes["logits"]
        assert keeping is not None and shape is not None and shape[2] is not None
        self._keeping, self._vocabulary = keeping, shape[2]
        (logits,) = (value for value in setup.written["fp32"].graph.model.graph.outputs if value.name == "logits")
        self._last_only = logits.shape is not None and logits.shape[1] == 1

    def start(self, rows: int) -> None:
        """Begin with an empty cache."""
        self._binding = self._keeping()
        self._binding.bind_cpu_input(ROWS, np.arange(rows, dtype=np.int32))

    def step(self, feeds: Feeds) -> NDArray[Any]:
        """Run the graph once."""
        for name, array in feeds.items():
            self._binding.bind_cpu_input(name, np.ascontiguousarray(array))
        rows, length = feeds["input_ids"].shape
        logits = np.empty((rows, 1 if self._last_only else length, self._vocabulary), np.float32)
        self._binding.bind_cpu_output("logits", logits)
        self._binding.run()
        return logits


def _stateful(path: Path) -> Any:
    """Return OpenVINO's model of a file with the keys and values as state."""
    import openvino
    from openvino._offline_transformations import apply_make_stateful_transformation

    model = openvino.Core().read_model(path)
    names = [name for port in model.inputs for name in port.names if name.startswith("past_key_values")]
    apply_make_stateful_transformation(model, {name: _present(name) for name in names})
    return model


def _present(past: str) -> str:
    return past.replace("past_key_values", "present")


def _feeds(ids: NDArray[Any], *, past: int) -> dict[str, NDArray[np.int64]]:
    """Return the inputs for tokens that follow `past` others: no text has padding."""
    rows, length = ids.shape
    positions = (np.arange(past, past + length) + PAD + 1)[np.newaxis].repeat(rows, 0)
    return {"input_ids": ids, "attention_mask": np.ones((rows, past + length), np.int64), "position_ids": positions}


def _write(steps: Stepping, prompts: NDArray[Any]) -> NDArray[Any]:
    """Write NEW_TOKENS after the prompts, the likeliest each time."""
    rows, length = prompts.shape
    steps.start(rows)
    ids, past, written = prompts, 0, []
    for _ in range(NEW_TOKENS):
        logits = steps.step(_feeds(ids, past=past))
        past += ids.shape[1]
        ids = logits.reshape(rows, -1, logits.shape[-1])[:, -1:].argmax(-1)
        written.append(ids)
    assert past == length + NEW_TOKENS - 1
    return np.concatenate(written, axis=1)


def _logits(steps: Stepping, ids: NDArray[Any]) -> NDArray[Any]:
    steps.start(len(ids))
    return steps.step(_feeds(ids, past=0))


# -- contenders ------------------------------------------------------------------------------------------------------


def _decoder(steps: Stepping, path: Path) -> Decoder:
    return Decoder(write=partial(_write, steps), logits=partial(_logits, steps), megabytes=megabytes(path))


def _onnxruntime(setup: Setup, *, path: Callable[[Setup], Path]) -> Decoder:
    """Open the graph that `path` makes in ONNX Runtime."""
    file = path(setup)
    return _decoder(OnnxRuntimeSteps(file, setup), file)


def _openvino(setup: Setup, *, path: Callable[[Setup], Path]) -> Decoder:
    """Open the graph that `path` makes in OpenVINO."""
    file = path(setup)
    return _decoder(OpenVinoSteps(_stateful(file), setup), file)


def _kept(setup: Setup, *, path: Callable[[Setup], Path]) -> Decoder:
    """Open the graph that `path` makes in OpenVINO, as this project's runtime does."""
    file = path(setup)
    return _decoder(KeptSteps(file, setup), file)


def _in_blocks(setup: Setup, *, bits: int) -> Decoder:
    """Open the graph whose weights ONNX Runtime's own quantizer has put into blocks."""
    return _onnxruntime(setup, path=lambda setup: onnxruntime_tools.weights_in_blocks(setup.fp32, bits=bits))


def _nncf(setup: Setup, **options: Any) -> Decoder:
    """Open the graph whose weights NNCF has compressed in OpenVINO."""
    path = setup.folder / f"compressed-{options['mode']}.xml"
    nncf_tools.nncf_compressed(_stateful(setup.fp32), path, **options)
    return _decoder(OpenVinoSteps(path, setup), path)


def _torch(setup: Setup) -> Decoder:
    """Open transformers' own model in torch, which writes by its `generate`."""
    import torch

    model = torch_tools.torch_model(TASK, setup.checkpoint, setup.threads)

    def write(prompts: NDArray[Any]) -> NDArray[Any]:
        ids = torch.from_numpy(prompts)
        mask = torch.ones_like(ids)
        found = model.generate(
            input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS
        )
        tokens: NDArray[Any] = found[:, ids.shape[1] :].numpy()
        return tokens

    def logits(ids: NDArray[Any]) -> NDArray[Any]:
        with torch.inference_mode():
            found: NDArray[Any] = model(input_ids=torch.from_numpy(ids)).logits.numpy()
        return found

    size = megabytes(torch_tools.save_weights(model, setup.folder / "torch.pt"))
    return Decoder(write=write, logits=logits, megabytes=size)


def _ctranslate2(setup: Setup, *, quantization: str) -> Decoder:
    """Open a decoder of the same size in CTranslate2."""
    model = torch_tools.torch_model(TASK, setup.checkpoint, setup.threads)
    folder = setup.folder / f"ctranslate2-{quantization}"
    write = ctranslate2_models.open_decoder(
        model, folder, quantization=quantization, threads=setup.threads, new_tokens=NEW_TOKENS
    )
    return Decoder(write=write, logits=_no_logits, megabytes=megabytes(folder))


def _no_logits(ids: NDArray[Any]) -> NDArray[Any]:
    raise NotImplementedError("CTranslate2's decoder has another head, whose logits are not compared.")


def _ours(precision: str, form: Form) -> list[Contender[Setup, Decoder]]:
    """Return the rows of a form: in ONNX Runtime, and in OpenVINO if its operators are ONNX's own."""

    def path(setup: Setup) -> Path:
        return setup.written[precision].path(form)

    name = f"**this project**, {form.name}"
    rows = [Contender(name=f"{name}, ONNX Runtime", make=partial(_onnxruntime, path=path))]
    if form.standard:
        rows.append(Contender(name=f"{name}, OpenVINO", make=partial(_kept, path=path), needs=("openvino",)))
    return rows


NNCF: Final = ("nncf", "openvino")
DECODERS: Final[tuple[Contender[Setup, Decoder], ...]] = (
    Contender(name=REFERENCE, make=partial(_onnxruntime, path=lambda setup: setup.fp32)),
    Contender(name="OpenVINO fp32", make=partial(_openvino, path=lambda setup: setup.fp32), needs=("openvino",)),
    Contender(name="torch's generate, fp32", make=_torch),
    Contender(
        name="ONNX Runtime's dynamic int8",
        make=partial(_onnxruntime, path=lambda setup: onnxruntime_tools.dynamic(setup.fp32)),
    ),
    Contender(name="ONNX Runtime's MatMulNBits, 8 bits", make=partial(_in_blocks, bits=8)),
    Contender(name="ONNX Runtime's MatMulNBits, 4 bits", make=partial(_in_blocks, bits=4)),
    Contender(name="NNCF weights, 8 bits, OpenVINO", make=partial(_nncf, mode="INT8_ASYM"), needs=NNCF),
    Contender(
        name="NNCF weights, 4 bits, OpenVINO",
        make=partial(_nncf, mode="INT4_SYM", group_size=64, ratio=1.0),
        needs=NNCF,
    ),
    *(
        row
        for precision in PRECISIONS[1:]
        for form in RECIPES[precision].forms.values()
        for row in _ours(precision, form)
    ),
)
"""The contenders that run the same checkpoint; the first is what all others are compared with."""
WITH_ANOTHER_HEAD: Final[tuple[Contender[Setup, Decoder], ...]] = tuple(
    Contender(name=f"CTranslate2 {name}", make=partial(_ctranslate2, quantization=kind), needs=("ctranslate2",))
    for name, kind in (("fp32", "float32"), ("int8", "int8"))
)
"""Decoders of the same size, whose logits are others."""
