"""Tiny decoder bundles of transformers' own models, whose `generate` the runtime is compared with.

The networks of all variants are written here with transformers' modules, and use no code of this project.
"""

import dataclasses
import shutil
import warnings
import zlib
from collections.abc import Callable, Sequence
from copy import copy as shallow_copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from rpln_runtime import Generated
from rpln_runtime.manifest import Axis, Generation, Graph, Manifest, Source, TensorSpec, read_manifest, write_manifest
from rpln_runtime.tasks import BATCH, ENCODER_SEQUENCE, PAST, SEQUENCE, TOTAL
from tests.runtime.bundles import USABLE_LENGTH
from tests.trace_cache import export_once

LAYERS, HEADS, HIDDEN = 2, 2, 32
HEAD_SIZE = HIDDEN // HEADS
BOS, PAD, EOS = 0, 1, 2
END_BIAS = 13.0
DTYPES = {"float32": torch.float32, "float16": torch.float16}

Inputs = dict[str, Tensor]
Run = Callable[[Inputs], dict[str, Tensor]]


@dataclass(frozen=True, kw_only=True)
class DecoderBundle:
    """A bundle's folder and manifest, and the torch model and tokenizer that it was made of."""

    folder: Path
    manifest: Manifest
    model: Any
    tokenizer: Any


@dataclass(frozen=True, kw_only=True)
class GraphPlan:
    """A graph to export: the function it computes, and its inputs and outputs as the manifest describes them."""

    variant: str
    path: str
    run: Run
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class Wrapped(torch.nn.Module):
    """A function of a dict of inputs, as a module that takes and gives tensors in order."""

    def __init__(self, model: Any, plan: GraphPlan) -> None:
        super().__init__()
        self.model = model
        self.plan = plan

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        names = [spec.name for spec in self.plan.inputs]
        found = self.plan.run(dict(zip(names, tensors, strict=True)))
        return tuple(found[spec.name] for spec in self.plan.outputs)


# -- models ------------------------------------------------------------------------------------------------------------


def make_causal_lm(vocab_size: int, **options: Any) -> Any:
    return decisive(transformers.RobertaPreLayerNormForCausalLM(make_config(vocab_size, is_decoder=True, **options)))


def make_encoder_decoder(vocab_size: int) -> Any:
    decoder = make_config(vocab_size, is_decoder=True, add_cross_attention=True)
    config = transformers.EncoderDecoderConfig.from_encoder_decoder_configs(make_config(vocab_size), decoder)
    config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = BOS, PAD, EOS
    model = decisive(transformers.EncoderDecoderModel(config))
    for name in ("decoder_start_token_id", "pad_token_id", "eos_token_id"):
        setattr(model.generation_config, name, getattr(config, name))
    return model


def make_config(vocab_size: int, **options: Any) -> Any:
    make: Any = transformers.RobertaPreLayerNormConfig
    sizes = {"hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "intermediate_size": 64}
    tokens = {"bos_token_id": BOS, "pad_token_id": PAD, "eos_token_id": EOS}
    return make(
        vocab_size=vocab_size,
        max_position_embeddings=USABLE_LENGTH + 2,
        attn_implementation="eager",
        **sizes,
        **tokens,
        **options,
    )


def decisive(model: Any) -> Any:
    """Draw weights so wide that no two tokens are equally likely. Padding is never generated, the end now and then."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
            if parameter.ndim > 1:
                wide = "embeddings" in name or "lm_head" in name or "position" in name
                parameter.normal_(std=1.0 if wide else 0.3, generator=generator)
            if name.endswith("lm_head.bias"):
                parameter[PAD], parameter[EOS] = -1e4, END_BIAS
    return model.eval()


# -- networks ----------------------------------------------------------------------------------------------------------


def decode(model: Any, inputs: Inputs, *, logits: str = "last", dtype: str = "float32") -> dict[str, Tensor]:
    """Compute any variant of a decoder. `inputs` are those that the variant takes."""
    decoder = getattr(model, "decoder", model)
    base = decoder.roberta_prelayernorm
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    positions = inputs.get("position_ids")
    if positions is None:
        real = (ids != PAD).long()
        positions = torch.cumsum(real, dim=1) * real + PAD
    embeddings = base.embeddings
    types = embeddings.token_type_embeddings(inputs.get("token_type_ids", torch.zeros_like(ids)))
    x = embeddings.word_embeddings(ids) + types + embeddings.position_embeddings(positions)
    x = embeddings.LayerNorm(x)
    bias = causal_bias(mask, ids.shape[1])
    outputs = {}
    for index, layer in enumerate(base.encoder.layer):
        normed = layer.attention.LayerNorm(x)
        key, value = (split(module(normed)) for module in (layer.attention.self.key, layer.attention.self.value))
        past = f"past_key_values.{index}"
        if f"{past}.key" in inputs:
            key = torch.cat([inputs[f"{past}.key"].float(), key], dim=2)
            value = torch.cat([inputs[f"{past}.value"].float(), value], dim=2)
        outputs[f"present.{index}.key"] = key.to(DTYPES[dtype])
        outputs[f"present.{index}.value"] = value.to(DTYPES[dtype])
        x = x + attend(layer.attention, normed, key, value, bias)
        if "encoder_attention_mask" in inputs:
            cross_bias = (1.0 - inputs["encoder_attention_mask"][:, None, None, :].float()) * -1e9
            key, value = (inputs[f"cross_key_values.{index}.{part}"] for part in ("key", "value"))
            x = x + attend(layer.crossattention, layer.crossattention.LayerNorm(x), key, value, cross_bias)
        inner = torch.nn.functional.gelu(layer.intermediate.dense(layer.intermediate.LayerNorm(x)))
        x = x + layer.output.dense(inner)
    x = base.LayerNorm(x)
    outputs["logits"] = decoder.lm_head(x[:, -1:] if logits == "last" else x)
    return outputs


def causal_bias(mask: Tensor, new: int) -> Tensor:
    total = mask.shape[1]
    places = torch.arange(total)
    earlier = places[None, :] <= places[total - new :, None]
    return (1.0 - (mask[:, None, None, :] * earlier[None, None].long()).float()) * -1e9


def attend(attention: Any, normed: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    scores = split(attention.self.query(normed)) @ key.transpose(2, 3) / HEAD_SIZE**0.5 + bias
    mixed = (scores.softmax(dim=-1) @ value).transpose(1, 2)
    joined: Tensor = attention.output.dense(mixed.reshape(mixed.shape[0], -1, HIDDEN))
    return joined


def split(x: Tensor) -> Tensor:
    return x.reshape(x.shape[0], -1, HEADS, HEAD_SIZE).transpose(1, 2)


def cross_key_values(model: Any, states: Tensor) -> dict[str, Tensor]:
    layers = model.decoder.roberta_prelayernorm.encoder.layer
    return {
        f"cross_key_values.{index}.{part}": split(getattr(layer.crossattention.self, part)(states))
        for index, layer in enumerate(layers)
        for part in ("key", "value")
    }


def encode(model: Any, inputs: Inputs) -> dict[str, Tensor]:
    states = model.encoder(**inputs).last_hidden_state
    return {"last_hidden_state": states, **cross_key_values(model, states)}


# -- graphs ------------------------------------------------------------------------------------------------------------


def int_specs(tokens: str, *names: str) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name=name, dtype="int64", shape=(BATCH, tokens)) for name in names)


def key_value_specs(name: str, tokens: str, dtype: str = "float32") -> tuple[TensorSpec, ...]:
    shape = (BATCH, HEADS, tokens, HEAD_SIZE)
    return tuple(
        TensorSpec(name=f"{name}.{layer}.{part}", dtype=dtype, shape=shape)
        for layer in range(LAYERS)
        for part in ("key", "value")
    )


def decoder_plan(
    model: Any, variant: str, *, logits: str = "last", dtype: str = "float32", positions: bool = False
) -> GraphPlan:
    ids = int_specs(SEQUENCE, "input_ids")
    tokens = {"full": SEQUENCE, "prefill": SEQUENCE, "with-past": TOTAL, "decode": TOTAL}[variant]
    inputs = [*ids, *int_specs(tokens, "attention_mask")]
    vocab_size = getattr(model, "decoder", model).config.vocab_size
    shape = (BATCH, 1 if logits == "last" else SEQUENCE, vocab_size)
    outputs = [TensorSpec(name="logits", dtype="float32", shape=shape)]
    if variant != "full" or positions:
        inputs += int_specs(SEQUENCE, "position_ids")
    if getattr(model, "decoder", model).config.type_vocab_size > 1:
        inputs += int_specs(SEQUENCE, "token_type_ids")
    if hasattr(model, "decoder"):
        inputs += [*int_specs(ENCODER_SEQUENCE, "encoder_attention_mask")]
        inputs += key_value_specs("cross_key_values", ENCODER_SEQUENCE)
    if tokens == TOTAL:
        inputs += key_value_specs("past_key_values", PAST, dtype)
    if variant != "full":
        outputs += key_value_specs("present", tokens, dtype)
    return GraphPlan(
        variant=variant,
        path={"with-past": "model.onnx"}.get(variant, f"{variant}.onnx"),
        run=lambda tensors: decode(model, tensors, logits=logits, dtype=dtype),
        inputs=tuple(inputs),
        outputs=tuple(outputs),
    )


def encoder_plan(model: Any) -> GraphPlan:
    states = TensorSpec(name="last_hidden_state", dtype="float32", shape=(BATCH, ENCODER_SEQUENCE, HIDDEN))
    return GraphPlan(
        variant="encoder",
        path="encoder.onnx",
        run=lambda tensors: encode(model, tensors),
        inputs=int_specs(ENCODER_SEQUENCE, "input_ids", "attention_mask"),
        outputs=(states, *key_value_specs("cross_key_values", ENCODER_SEQUENCE)),
    )


def cross_plan(model: Any) -> GraphPlan:
    shape = (BATCH, ENCODER_SEQUENCE, HIDDEN)
    return GraphPlan(
        variant="cross",
        path="cross.onnx",
        run=lambda tensors: cross_key_values(model, tensors["encoder_hidden_states"]),
        inputs=(TensorSpec(name="encoder_hidden_states", dtype="float32", shape=shape),),
        outputs=key_value_specs("cross_key_values", ENCODER_SEQUENCE),
    )


def export_graph(model: Any, plan: GraphPlan, folder: Path) -> Graph:
    sizes = {BATCH: 2, SEQUENCE: 3, PAST: 4, ENCODER_SEQUENCE: 5}
    if plan.variant in ("with-past", "decode"):
        sizes[TOTAL] = sizes[PAST] + sizes[SEQUENCE]
    examples = []
    for spec in plan.inputs:
        shape = [sizes[size] if isinstance(size, str) else size for size in spec.shape]
        make: Any = torch.ones if spec.dtype == "int64" else torch.zeros
        examples.append(make(shape, dtype=getattr(torch, spec.dtype)))
    dynamic = tuple(
        {axis: torch.export.Dim.DYNAMIC for axis, size in enumerate(spec.shape) if isinstance(size, str)}
        for spec in plan.inputs
    )

    def export(to: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's exporter warns of its own internals
            torch.onnx.export(
                Wrapped(model, plan).eval(),
                args=tuple(examples),
                f=to,
                dynamo=True,
                opset_version=18,
                input_names=[spec.name for spec in plan.inputs],
                output_names=[spec.name for spec in plan.outputs],
                dynamic_shapes=(dynamic,),
                external_data=False,
                verbose=False,
            )

    export_once(model, folder / plan.path, export, plan.variant, plan.inputs, plan.outputs)
    return Graph(variant=plan.variant, path=plan.path, opset=18, inputs=plan.inputs, outputs=plan.outputs)


def make_decoder_bundle(folder: Path, model: Any, tokenizer: Any, plans: Sequence[GraphPlan]) -> DecoderBundle:
    graphs = tuple(export_graph(model, plan, folder) for plan in plans)
    own = getattr(model, "decoder", model) is not model
    config = model.config.encoder if own else model.config
    lengths = Axis(minimum=1, maximum=USABLE_LENGTH)
    manifest = Manifest(
        task="text2text-generation" if own else "text-generation",
        graphs=graphs,
        axes={
            BATCH: Axis(minimum=1, maximum=None),
            SEQUENCE: lengths,
            TOTAL: lengths,
            PAST: dataclasses.replace(lengths, minimum=0),
            ENCODER_SEQUENCE: lengths,
        },
        usable_length=USABLE_LENGTH,
        vocab_size=config.vocab_size,
        type_vocab_size=config.type_vocab_size,
        pad_token_id=PAD,
        mask_token_id=4,
        problem_type=None,
        labels=(),
        precision="fp32",
        recipe="fp32",
        passes={},
        target="onnxruntime",
        source=Source(name="tiny", sha256="0" * 64),
        versions={},
        validation={},
        generation=Generation(
            pad_token_id=PAD,
            bos_token_id=BOS,
            eos_token_ids=(EOS,),
            start_token_id=BOS if own else None,
            first_position=PAD + 1,
            pad_position=PAD,
        ),
    )
    write_manifest(folder, manifest)
    return DecoderBundle(folder=folder, manifest=read_manifest(folder), model=model, tokenizer=tokenizer)


def copy_decoder(bundle: DecoderBundle, parent: Path, *variants: str, **manifest_fields: Any) -> DecoderBundle:
    """Copy `bundle` into `parent` with only these graphs, and with other fields in its manifest."""
    folder = parent / "-".join(variants or ("copy",))
    shutil.copytree(bundle.folder, folder)
    graphs = tuple(graph for graph in bundle.manifest.graphs if graph.variant in variants or not variants)
    manifest = dataclasses.replace(bundle.manifest, **{"graphs": graphs, **manifest_fields})
    write_manifest(folder, manifest)
    return dataclasses.replace(bundle, folder=folder, manifest=read_manifest(folder))


# -- transformers ------------------------------------------------------------------------------------------------------


def reference(
    bundle: DecoderBundle, prompts: Sequence[Sequence[int]], *, positions: str = "forward", **options: Any
) -> list[list[Generated]]:
    """Return what transformers' `generate` adds to `prompts`, which run as one batch.

    They are padded on the left, or on the right for an encoder. With `positions` "forward" the model ignores the
    position_ids that `generate` passes, and counts by itself.
    """
    model = without_position_ids(bundle.model) if positions == "forward" else bundle.model
    width = max(map(len, prompts))
    own = model.config.is_encoder_decoder
    rows = [
        [*prompt, *[PAD] * (width - len(prompt))] if own else [*[PAD] * (width - len(prompt)), *prompt]
        for prompt in prompts
    ]
    ids = torch.tensor(rows)
    with torch.no_grad():
        found = model.generate(
            ids, attention_mask=(ids != PAD).long(), return_dict_in_generate=True, output_scores=True, **options
        )
    sequences = found.sequences[:, 1 if own else width :].tolist()
    scores = found.sequences_scores.tolist() if options.get("num_beams", 1) > 1 else [None] * len(sequences)
    made = [Generated(cut(tokens), score) for tokens, score in zip(sequences, scores, strict=True)]
    count = len(made) // len(prompts)
    return [made[start : start + count] for start in range(0, len(made), count)]


def cut(tokens: list[int]) -> list[int]:
    """Return a sequence without the padding after it."""
    while tokens and tokens[-1] == PAD:
        tokens = tokens[:-1]
    return tokens


def without_position_ids(model: Any) -> Any:
    def prepare(self: Any, *args: Any, **kwargs: Any) -> Any:
        inputs = type(model).prepare_inputs_for_generation(self, *args, **kwargs)
        inputs.pop("position_ids", None)
        return inputs

    kind = type(type(model).__name__, (type(model),), {"prepare_inputs_for_generation": prepare})
    copy = shallow_copy(model)
    copy.__class__ = kind
    return copy


def assert_same_sequences(ours: Sequence[Sequence[Generated]], theirs: Sequence[Sequence[Generated]]) -> None:
    """Check that both are the same tokens, with scores as near as those of two fp32 implementations.

    The tolerance is relative, because a length penalty of -1 turns a log-probability of -12 into a score of -300.
    """
    assert [[one.tokens for one in row] for row in ours] == [[one.tokens for one in row] for row in theirs]
    for our, their in zip(ours, theirs, strict=True):
        for one, other in zip(our, their, strict=True):
            near = other.score if other.score is None else pytest.approx(other.score, rel=1e-5, abs=1e-4)
            assert one.score == near
