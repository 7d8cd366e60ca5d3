"""Bundles that are made quickly: networks of six operators with the signature of each task, and a trained tokenizer.

The output for a token depends on itself and on the mean of all real tokens of its row. So a row that is padded, cut or
joined wrongly gives other answers.
"""

import dataclasses
import functools
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.parser import parse_model

from rpln_runtime.manifest import Graph, Manifest, Sentences, TensorSpec, read_manifest, write_manifest
from rpln_runtime.tasks import LOGITS_AT_POSITIONS, MASKED_POSITIONS, SENTENCE_EMBEDDING, TASKS
from tests.runtime.bundles import LABELS, make_manifest, make_tokenizer

HIDDEN = 8

# X are the embedded tokens, C is their mean (..., 1, HIDDEN), and H is the sum of both.
BODY = """
    X = Gather(table, input_ids)
    axis = Constant <value_ints = [-1]> ()
    tokens = Constant <value_ints = [-2]> ()
    M0 = Unsqueeze(attention_mask, axis)
    M = Cast <to = 1> (M0)
    XM = Mul(X, M)
    sum = ReduceSum <keepdims = 1> (XM, tokens)
    count = ReduceSum <keepdims = 1> (M, tokens)
    C = Div(sum, count)
    H = Add(X, C)
"""
HEADS = {
    "feature-extraction": "last_hidden_state = Identity(H)",
    "fill-mask": "logits = MatMul(H, head)",
    "text-classification": "CW = MatMul(C, head)\n logits = Squeeze(CW, tokens)",
    "token-classification": "logits = MatMul(H, head)",
    "question-answering": (
        "HW = MatMul(H, head)\n a, b = Split <axis = -1, num_outputs = 2> (HW)\n"
        "start_logits = Squeeze(a, axis)\n end_logits = Squeeze(b, axis)"
    ),
    "multiple-choice": (
        "CW = MatMul(C, head)\n both = Constant <value_ints = [-2, -1]> ()\n logits = Squeeze(CW, both)"
    ),
}
AT_POSITIONS = """
    places0 = Unsqueeze(masked_positions, axis)
    shape = Shape(places0)
    wide = Constant <value_ints = [1, 1, 8]> ()
    target = Mul(shape, wide)
    places = Expand(places0, target)
    H1 = GatherElements <axis = 1> (H, places)
    logits = MatMul(H1, head)
"""
TYPES = {"int64": "int64", "float32": "float"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ToyBundle:
    """The folder of a bundle, and its manifest."""

    folder: Path
    manifest: Manifest


@functools.cache
def tokenizer_files() -> tuple[dict[str, bytes], int]:
    """Return the files of a tokenizer, and how many tokens it has."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = make_tokenizer(Path(folder))
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}, len(tokenizer)


def make_toy_bundle(folder: Path, task: str, *, labels: Sequence[str] = LABELS) -> ToyBundle:
    """Write the bundle of a task to `folder`."""
    files, vocab_size = tokenizer_files()
    manifest = make_manifest(_Config(vocab_size=vocab_size, labels=tuple(labels)), TASKS[task])
    return _write(folder, files, manifest, HEADS[task])


def make_positions_bundle(folder: Path) -> ToyBundle:
    """Write a bundle for fill-mask whose graph is told where the mask tokens are."""
    files, vocab_size = tokenizer_files()
    manifest = make_manifest(_Config(vocab_size=vocab_size, labels=LABELS), TASKS["fill-mask"])
    (graph,) = manifest.graphs
    places = TensorSpec(name=MASKED_POSITIONS.name, dtype="int64", shape=MASKED_POSITIONS.axes)
    logits = TensorSpec(name="logits", dtype="float32", shape=(*LOGITS_AT_POSITIONS.axes[:2], vocab_size))
    graph = dataclasses.replace(graph, inputs=(*graph.inputs, places), outputs=(logits,))
    axes = manifest.axes | {"masks": manifest.axes["batch"]}
    return _write(folder, files, dataclasses.replace(manifest, graphs=(graph,), axes=axes), AT_POSITIONS)


def make_vectors_bundle(folder: Path) -> ToyBundle:
    """Write a bundle for feature-extraction whose graph pools, with a prompt, and a length that texts are cut to."""
    files, vocab_size = tokenizer_files()
    manifest = make_manifest(_Config(vocab_size=vocab_size, labels=LABELS), TASKS["feature-extraction"])
    (graph,) = manifest.graphs
    vector = TensorSpec(name=SENTENCE_EMBEDDING.name, dtype="float32", shape=("batch", HIDDEN))
    sentences = Sentences(
        poolings=("mean",), max_length=20, prompts={"query": "Is this: ", "none": ""}, default_prompt="query"
    )
    graph = dataclasses.replace(graph, outputs=(vector,))
    manifest = dataclasses.replace(manifest, graphs=(graph,), sentences=sentences)
    return _write(folder, files, manifest, "sentence_embedding = Squeeze(C, tokens)")


def _write(folder: Path, files: dict[str, bytes], manifest: Manifest, head: str) -> ToyBundle:
    for name, content in files.items():
        (folder / name).write_bytes(content)
    onnx.save(_network(manifest.graphs[0], manifest, head), folder / "model.onnx")
    write_manifest(folder, manifest)
    return ToyBundle(folder=folder, manifest=read_manifest(folder))


def _network(graph: Graph, manifest: Manifest, head: str) -> onnx.ModelProto:
    inputs, outputs = (", ".join(map(_declared, specs)) for specs in (graph.inputs, graph.outputs))
    model = parse_model(f'<ir_version: 8, opset_import: ["" : 18]> toy ({inputs}) => ({outputs}) {{ {BODY}{head} }}')
    width = {"multiple-choice": 1, "question-answering": 2, "fill-mask": manifest.vocab_size}
    random = np.random.default_rng(0)
    weights = {"table": (manifest.vocab_size, HIDDEN), "head": (HIDDEN, width.get(manifest.task, len(manifest.labels)))}
    for name, shape in weights.items():
        values = random.normal(size=shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    onnx.checker.check_model(model)
    return model


def _declared(spec: TensorSpec) -> str:
    return f"{TYPES[spec.dtype]}[{', '.join(map(str, spec.shape))}] {spec.name}"


class _Config:
    """The fields of a config that `make_manifest` reads."""

    hidden_size = HIDDEN
    type_vocab_size = pad_token_id = 1
    problem_type = None

    def __init__(self, *, vocab_size: int, labels: tuple[str, ...]) -> None:
        self.vocab_size = vocab_size
        self.id2label: dict[int, Any] = dict(enumerate(labels))
        self.num_labels = len(labels)
