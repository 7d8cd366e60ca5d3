"""Tiny networks with telling weights, their traces, and the outputs of eager torch for them.

No two sizes are equal, so that axes cannot be mixed up unnoticed, and no weight has a value that hides a mistake.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import nn
from transformers import EncoderDecoderConfig, PretrainedConfig, RobertaPreLayerNormConfig

from rpln_graphs.calls import CACHED, GraphCall
from rpln_graphs.stages import EncoderStage
from rpln_graphs.stress import Case, Limits, stress_cases
from rpln_graphs.trace import DEFAULT_OPSET, trace_model
from rpln_graphs.variants import VARIANTS
from rpln_model import HEADS
from rpln_model.config import padding_row, updated_config
from rpln_model.sentences import Dense, Normalize, SentenceEncoder
from rpln_runtime.tasks import (
    ALL_LOGITS,
    BATCH,
    ENCODER_MASK,
    ENCODER_SEQUENCE,
    LAST_LOGITS,
    PAST,
    SEQUENCE,
    TASKS,
    TOTAL,
    Task,
    Tensor,
)
from tests.graphs.text_graphs import Arrays

PAD = 1
START = 2
POSITIONS = 43
USABLE_LENGTH = 41
"""The longest text: no token uses row 0 or the row of padding in the table of positions."""
MEMORY = 9
"""How many tokens a made-up output of an encoder has."""
PASTS = (0, 1, 5, 23)
"""How many tokens a made-up past has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A model that is called as its graph is, and the graph that was traced from it. Tests may only change a copy."""

    call: GraphCall
    graph: ir.Model

    @property
    def model(self) -> Any:
        return self.call.model

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return self.call.inputs

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        return self.call.outputs

    @property
    def config(self) -> Any:
        """The configuration of the network; for an encoder-decoder, of its decoder."""
        return self.model.config

    def stress_cases(self) -> list[Case]:
        """Return the stress set, with noise in place of what other graphs would give."""
        fed = self.config
        if isinstance(self.model, EncoderStage) and self.model.base_model is not None:
            fed = self.model.base_model.config
        made = (*CACHED, ENCODER_MASK.name, "encoder_hidden_states")
        # The mask has a part for the past, which is made together with the past.
        own = [
            replace(tensor, axes=(BATCH, SEQUENCE)) if TOTAL in tensor.axes else tensor
            for tensor in self.inputs
            if tensor.name not in made
        ]
        rng, limits = np.random.default_rng(0), limits_from_config(fed)
        return [
            self._with_noise(case, min(past, limits.usable_length - case.mask.shape[1]), rng)
            for past, case in zip(itertools.cycle(PASTS), stress_cases(own, limits), strict=False)
        ]

    def _with_noise(self, case: Case, past: int, rng: np.random.Generator) -> Case:
        rows, length = case.mask.shape
        sizes = {BATCH: rows, SEQUENCE: length, PAST: past, ENCODER_SEQUENCE: MEMORY}
        feeds = dict(case.feeds)
        for tensor in self.inputs:
            if TOTAL in tensor.axes:
                earlier = rng.integers(0, 2, (rows, past))
                feeds[tensor.name] = np.concatenate([earlier, case.feeds[tensor.name]], axis=1)
            elif tensor == ENCODER_MASK:
                feeds[tensor.name] = rng.integers(0, 2, (rows, MEMORY))
            elif tensor.name not in case.feeds:
                for name, shape in self.call.shapes(tensor, sizes).items():
                    feeds[name] = rng.standard_normal(shape).astype(np.float32)
        return replace(case, feeds=feeds)

    def eager(self, feeds: Arrays) -> Arrays:
        """Return what the traced module gives in eager torch for the graph's inputs."""
        with torch.inference_mode():
            found = self.call(*(torch.from_numpy(feeds[name]) for name in self.call.input_names))
        return {name: tensor.numpy() for name, tensor in zip(self.call.output_names, found, strict=True)}


def trace_task(
    name: str,
    *,
    variant: str = "full",
    inputs: Sequence[str] = ("input_ids", "attention_mask", "token_type_ids"),
    outputs: Sequence[str] = (),
    all_logits: bool = False,
    opset: int = DEFAULT_OPSET,
    seed: int = 0,
    poolings: Sequence[str] = (),
    **fields: Any,
) -> Network:
    """Trace a graph of a tiny model of the task: see `trace_variant`. With `poolings`, it gives vectors of texts."""
    model = tiny_model(TASKS[name], seed=seed, **fields)
    if poolings:
        model = sentence_encoder(model, poolings)
    return trace_variant(
        model, TASKS[name], variant, inputs=inputs, outputs=outputs, all_logits=all_logits, opset=opset
    )


def trace_variant(
    model: Any,
    task: Task,
    variant: str,
    *,
    inputs: Sequence[str] = ("input_ids", "attention_mask"),
    outputs: Sequence[str] = (),
    all_logits: bool = False,
    opset: int = DEFAULT_OPSET,
) -> Network:
    """Trace a graph of the model: token `inputs` and optional `outputs` by name, and all that the variant requires."""
    call = graph_call(model, task, variant, inputs=inputs, outputs=outputs, all_logits=all_logits)
    return Network(call=call, graph=trace_model(call.model, call.inputs, call.outputs, opset=opset))


def sentence_encoder(network: Any, poolings: Sequence[str]) -> Any:
    """Return `network` with these poolings and layers behind them: a Dense of 20 values with tanh, and Normalize."""
    torch.manual_seed(0)
    dense = Dense(len(poolings) * network.config.hidden_size, 20, bias=True, activation=nn.Tanh())
    return SentenceEncoder(network, poolings=poolings, layers=[dense, Normalize()]).eval()


def graph_call(
    model: Any,
    task: Task,
    variant: str,
    *,
    inputs: Sequence[str] = ("input_ids", "attention_mask"),
    outputs: Sequence[str] = (),
    all_logits: bool = False,
) -> GraphCall:
    """Return a module that calls the part of a model that is in the graph of a variant."""
    row = VARIANTS[variant]
    if row.standalone:
        return GraphCall(EncoderStage(model), row.inputs, row.outputs).eval()
    optional = {tensor.name: tensor for tensor in (*task.inputs, *task.optional_inputs, *task.optional_outputs)}
    added = {tensor.name for tensor in row.inputs}
    chosen = [optional[name] for name in inputs if name not in added]
    handed = [tensor for tensor in task.inputs if ENCODER_SEQUENCE in tensor.axes]
    returned = [ALL_LOGITS if all_logits and tensor == LAST_LOGITS else tensor for tensor in task.outputs]
    if isinstance(model, SentenceEncoder):
        returned = [*task.outputs_instead]
    returned += [optional[name] for name in outputs]
    return GraphCall(
        getattr(model, "decoder", model) if task.encoders else model,
        (*row.shaped((*chosen, *handed)), *row.inputs),
        (*row.shaped(returned), *row.outputs),
    ).eval()


def copied(graph: ir.Model) -> ir.Model:
    """Return a graph that shares nothing with the original. Values of a clone would share their types with it."""
    copy = ir.from_proto(ir.to_proto(graph))
    copy.metadata_props.clear()
    copy.metadata_props.update(graph.metadata_props)  # in their order, in which the passes ran
    return copy


def tiny_model(task: Task, *, seed: int = 0, encoder: PretrainedConfig | None = None, **fields: object) -> Any:
    """Return a model of the task in eval mode.

    `fields` are fields of its config, or of its decoder's config if `encoder` is given.
    """
    config: PretrainedConfig = tiny_config(task, **fields)
    if task.encoders:
        config = joined_config(tiny_encoder() if encoder is None else encoder, config)
    model = HEADS[task.architecture](config).eval()
    shake(model, seed=seed)
    return model


def tiny_config(task: Task, **fields: object) -> RobertaPreLayerNormConfig:
    config = RobertaPreLayerNormConfig(
        vocab_size=61,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=POSITIONS,
        type_vocab_size=3,
        pad_token_id=PAD,
        layer_norm_eps=1e-3,
        is_decoder=task.postprocess is None,
        add_cross_attention=bool(task.encoders),
    )
    return updated_config(config, {"num_labels": 2 if task.name == "question-answering" else 5, **fields})


def tiny_encoder(**fields: object) -> RobertaPreLayerNormConfig:
    """Return the config of an encoder whose sizes all differ from the decoder's."""
    config = RobertaPreLayerNormConfig(
        vocab_size=53,
        hidden_size=24,
        num_hidden_layers=1,
        num_attention_heads=3,
        intermediate_size=40,
        max_position_embeddings=POSITIONS,
        type_vocab_size=1,
        pad_token_id=PAD,
        layer_norm_eps=1e-3,
    )
    return updated_config(config, fields)


def joined_config(encoder: PretrainedConfig, decoder: PretrainedConfig) -> EncoderDecoderConfig:
    make: Any = EncoderDecoderConfig.from_encoder_decoder_configs
    config: EncoderDecoderConfig = make(encoder, decoder, decoder_start_token_id=START, pad_token_id=PAD)
    return config


def shake(model: nn.Module, *, seed: int) -> None:
    """Give every parameter values that no initialisation gives, and that keep the size of the signal."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() == 2:
                parameter.copy_(noise / parameter.shape[1] ** 0.5)
            else:
                parameter.copy_(0.3 * noise + (1.0 if name.endswith("weight") else 0.0))


def limits_from_config(config: PretrainedConfig) -> Limits:
    own: Any = config
    padding = padding_row(own)
    return Limits(
        usable_length=own.max_position_embeddings - padding - 1,
        vocab_size=own.vocab_size,
        type_vocab_size=own.type_vocab_size,
        pad_token_id=padding,
        mask_token_id=getattr(own, "mask_token_id", None),
        sizes={name: getattr(own, name) for name in ("hidden_size", "num_hidden_layers", "num_attention_heads")},
    )


def eager_outputs(model: nn.Module, feeds: Arrays, names: Sequence[str]) -> Arrays:
    """Return the outputs of a plain call of the model, with tuples as `name.0`, `name.1` and so on."""
    tensors = {name: torch.from_numpy(array) for name, array in feeds.items()}
    with torch.inference_mode():
        result: Any = model(**tensors, output_hidden_states=True, output_attentions=True, return_dict=True)
    arrays: Arrays = {}
    for name in names:
        if isinstance(result[name], tuple):
            arrays |= {f"{name}.{index}": tensor.numpy() for index, tensor in enumerate(result[name])}
        else:
            arrays[name] = result[name].numpy()
    return arrays
