"""Tiny bundles of transformers' own models, with random weights wide enough to make every label win now and then."""

import dataclasses
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from rpln_runtime.manifest import Axis, Graph, Manifest, Source, TensorSpec, read_manifest, write_manifest
from rpln_runtime.tasks import BATCH, CHOICES, SEQUENCE, Task
from tests.trace_cache import export_once

USABLE_LENGTH = 64
LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC", "MISC")
# Fields of a config that transformers' heads need.
_LABELS_OF_TASK: dict[str, tuple[str, ...]] = {"question-answering": ("start", "end")}
_HEAD_OPTIONS = {"feature-extraction": {"add_pooling_layer": False}}
CORPUS = (
    "Ada Lovelace lived in London and wrote to Charles Babbage.",
    "The capital of France is Paris; the capital of Norway is Oslo.",
    "Is this a question? Yes, it is -- isn't it!",
    "naïve café in Zürich 東京 😀 1234 56.7",
)


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A bundle's folder and manifest, and the torch model and tokenizer that it was made of."""

    folder: Path
    manifest: Manifest
    model: Any
    tokenizer: Any


def make_bundle(folder: Path, task: Task, *, labels: tuple[str, ...] | None = None) -> Bundle:
    tokenizer = make_tokenizer(folder)
    model = make_model(task, vocab_size=len(tokenizer), labels=labels or _LABELS_OF_TASK.get(task.name, LABELS))
    export_model(model, task, folder / "model.onnx")
    write_manifest(folder, make_manifest(model.config, task))
    return Bundle(folder=folder, manifest=read_manifest(folder), model=model, tokenizer=tokenizer)


def copy_bundle(bundle: Bundle, parent: Path, **manifest_fields: Any) -> Path:
    """Copy `bundle` into `parent` with other fields in its manifest, and return the new folder."""
    folder = parent / "bundle"
    shutil.copytree(bundle.folder, folder)
    write_manifest(folder, dataclasses.replace(bundle.manifest, **manifest_fields))
    return folder


def copy_with_prefix_space(bundle: Bundle, parent: Path) -> Bundle:
    """Copy `bundle` into `parent` with a tokenizer that puts a space before a text."""
    folder = copy_bundle(bundle, parent)
    tokenizer = make_tokenizer(folder, add_prefix_space=True)
    write_manifest(folder, bundle.manifest)
    return dataclasses.replace(bundle, folder=folder, manifest=read_manifest(folder), tokenizer=tokenizer)


def outputs_in_fp16(bundle: Bundle, parent: Path) -> Path:
    """Copy `bundle` into `parent` with its outputs cast to fp16, as with `--io-dtype fp16`."""
    model = onnx.load(bundle.folder / "model.onnx")
    for output in model.graph.output:
        for node in model.graph.node:
            node.output[:] = [f"{name}.fp32" if name == output.name else name for name in node.output]
        model.graph.node.append(
            onnx.helper.make_node("Cast", [f"{output.name}.fp32"], [output.name], to=onnx.TensorProto.FLOAT16)
        )
        output.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    (graph,) = bundle.manifest.graphs
    halves = tuple(dataclasses.replace(spec, dtype="float16") for spec in graph.outputs)
    folder = copy_bundle(bundle, parent)
    onnx.save(model, folder / "model.onnx")
    graph = dataclasses.replace(graph, outputs=halves)
    write_manifest(folder, dataclasses.replace(bundle.manifest, graphs=(graph,)))
    return folder


def keep_a_weight_in(location: str, folder: Path, manifest: Manifest) -> None:
    """Move one initializer of the bundle's graph into a file of its own, which gets listed if it is in the folder."""
    model = onnx.load(folder / "model.onnx")
    tensor = next(tensor for tensor in model.graph.initializer if len(tensor.raw_data) > 1000)
    (folder / location).write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    write_manifest(folder, manifest)


def stated_size(manifest: Manifest, last: int, **fields: Any) -> Manifest:
    """Return `manifest` with another size of the last axis of the logits, and other `fields`."""
    (graph,) = manifest.graphs
    (logits,) = graph.outputs
    logits = dataclasses.replace(logits, shape=(*logits.shape[:-1], last))
    return dataclasses.replace(manifest, graphs=(dataclasses.replace(graph, outputs=(logits,)),), **fields)


def leave_open_the_last_axis(folder: Path, *, labels: int) -> None:
    """Take the number of labels out of the graph's description of its output."""
    model = onnx.load(folder / "model.onnx")
    del model.graph.value_info[:]
    model.graph.output[0].type.tensor_type.shape.dim[-1].dim_param = "any"
    # Shapes are inferred when a graph is opened, but not that of what Compress keeps.
    for node in model.graph.node:
        node.output[:] = ["logits_before" if name == "logits" else name for name in node.output]
    model.graph.node.append(onnx.helper.make_node("Compress", ["logits_before", "keep"], ["logits"], axis=2))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(labels, bool), "keep"))
    onnx.save(model, folder / "model.onnx")


def make_tokenizer(folder: Path, *, add_prefix_space: bool = False) -> Any:
    """Train RoBERTa's byte-level BPE on CORPUS and let transformers write it to `folder`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", AddedToken("<mask>", lstrip=True)],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS * 3, trainer)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), trim_offsets=True, add_prefix_space=add_prefix_space
    )
    # A tokenizer.json may ask for truncation and padding, which the runtime must ignore.
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=12, pad_id=1, pad_token="<pad>")
    tokenizer.save(str(folder / "raw.json"))
    wrapped = transformers.RobertaTokenizerFast(
        tokenizer_file=str(folder / "raw.json"), add_prefix_space=add_prefix_space, model_max_length=USABLE_LENGTH
    )
    (folder / "raw.json").unlink()
    wrapped.save_pretrained(folder)
    return wrapped


def make_model(task: Task, *, vocab_size: int, labels: tuple[str, ...] = LABELS) -> Any:
    make_config: Any = transformers.RobertaPreLayerNormConfig
    config = make_config(
        vocab_size=vocab_size,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=USABLE_LENGTH + 2,
        pad_token_id=1,
        attn_implementation="eager",
        id2label=dict(enumerate(labels)),
    )
    model = getattr(transformers, task.architecture)(config, **_HEAD_OPTIONS.get(task.name, {})).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        # The weights that transformers draws are too small to tell tokens or labels apart.
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                shared = "encoder" in name or "token_type" in name
                parameter.normal_(std=0.1 if shared else 1.0, generator=generator)
    return model


def export_model(model: Any, task: Task, path: Path) -> None:
    axes = {BATCH: 2, CHOICES: 2, SEQUENCE: 8}
    dynamic = {name: torch.export.Dim(name, min=1, max=USABLE_LENGTH) for name in axes}
    example = {
        tensor.name: torch.ones([axes[str(axis)] for axis in tensor.axes], dtype=torch.int64) for tensor in task.inputs
    }

    def export(to: Path) -> None:
        torch.onnx.export(
            model,
            kwargs=example,
            f=to,
            dynamo=True,
            opset_version=18,
            input_names=[tensor.name for tensor in task.inputs],
            output_names=[tensor.name for tensor in task.outputs],
            dynamic_shapes={
                tensor.name: {i: dynamic[str(axis)] for i, axis in enumerate(tensor.axes)} for tensor in task.inputs
            },
            external_data=False,
            verbose=False,
        )

    export_once(model, path, export, task)


def make_manifest(config: Any, task: Task) -> Manifest:
    def specs(tensors: Any) -> tuple[TensorSpec, ...]:
        return tuple(
            TensorSpec(
                name=tensor.name,
                dtype=tensor.dtype,
                shape=tuple(
                    getattr(config, axis) if isinstance(axis, str) and hasattr(config, axis) else axis
                    for axis in tensor.axes
                ),
                values={"input_ids": config.vocab_size, "attention_mask": 2}.get(tensor.name),
            )
            for tensor in tensors
        )

    return Manifest(
        task=task.name,
        graphs=(
            Graph(variant="full", path="model.onnx", opset=18, inputs=specs(task.inputs), outputs=specs(task.outputs)),
        ),
        axes={
            BATCH: Axis(minimum=1, maximum=None),
            CHOICES: Axis(minimum=1, maximum=None),
            SEQUENCE: Axis(minimum=1, maximum=USABLE_LENGTH),
        },
        usable_length=USABLE_LENGTH,
        vocab_size=config.vocab_size,
        type_vocab_size=config.type_vocab_size,
        pad_token_id=config.pad_token_id,
        mask_token_id=4,
        problem_type=config.problem_type,
        labels=tuple(config.id2label[i] for i in range(config.num_labels)),
        precision="fp32",
        recipe="fp32",
        passes={},
        target="onnxruntime",
        source=Source(name="tiny", sha256="0" * 64),
        versions={},
        validation={},
    )
