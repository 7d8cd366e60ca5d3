"""Tiny networks with telling weights, their traces, and what eager torch says of them.

No two sizes are equal, so that one axis cannot pass for another, and no weight is at a value that hides a mistake.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
import torch
from torch import nn
from transformers import RobertaPreLayerNormConfig

from rpln_graphs.stress import Case, Limits, stress_cases
from rpln_graphs.trace import DEFAULT_OPSET, trace_model
from rpln_model import HEADS
from rpln_model.base import RobertaPreLayerNormPreTrainedModel
from rpln_model.config import padding_row, updated_config
from rpln_runtime.tasks import TASKS, Task, Tensor
from tests.graphs.text_graphs import Arrays

PAD = 1
POSITIONS = 43
USABLE_LENGTH = 41
"""Row 0 and the row of padding serve no token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A model with the graph that was traced from it. Tests that change the graph change a copy."""

    model: RobertaPreLayerNormPreTrainedModel
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    graph: ir.Model

    @property
    def config(self) -> RobertaPreLayerNormConfig:
        return self.model.config

    def stress_cases(self) -> list[Case]:
        return list(stress_cases(self.inputs, limits_from_config(self.config)))

    def eager(self, feeds: Arrays) -> Arrays:
        return eager_outputs(self.model, feeds, [tensor.name for tensor in self.outputs])


def trace_task(
    name: str,
    *,
    inputs: Sequence[str] = ("input_ids", "attention_mask", "token_type_ids"),
    outputs: Sequence[str] = (),
    opset: int = DEFAULT_OPSET,
    seed: int = 0,
    **fields: object,
) -> Network:
    """Trace a tiny model of the task: `inputs` by name, the task's outputs and the optional `outputs`."""
    task = TASKS[name]
    model = tiny_model(task, seed=seed, **fields)
    offered = {tensor.name: tensor for tensor in (*task.inputs, *task.optional_inputs, *task.optional_outputs)}
    chosen = tuple(offered[name] for name in inputs)
    returned = (*task.outputs, *(offered[name] for name in outputs))
    graph = trace_model(model, chosen, returned, opset=opset)
    return Network(model=model, inputs=chosen, outputs=returned, graph=graph)


def copied(graph: ir.Model) -> ir.Model:
    """A graph that shares nothing with the original: values of a clone have their types in common with it."""
    copy = ir.from_proto(ir.to_proto(graph))
    copy.metadata_props.clear()
    copy.metadata_props.update(graph.metadata_props)  # in their order, which is that of the passes
    return copy


def tiny_model(task: Task, *, seed: int = 0, **fields: object) -> RobertaPreLayerNormPreTrainedModel:
    """A model of the task in eval mode."""
    model = HEADS[task.architecture](tiny_config(task, **fields)).eval()
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
        is_decoder=task.name == "text-generation",
    )
    return updated_config(config, {"num_labels": 2 if task.name == "question-answering" else 5, **fields})


def shake(model: nn.Module, *, seed: int) -> None:
    """Give every parameter values that no initialisation has, and that keep the signal's size."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() == 2:
                parameter.copy_(noise / parameter.shape[1] ** 0.5)
            else:
                parameter.copy_(0.3 * noise + (1.0 if name.endswith("weight") else 0.0))


def limits_from_config(config: RobertaPreLayerNormConfig) -> Limits:
    padding = padding_row(config)
    return Limits(
        usable_length=config.max_position_embeddings - padding - 1,
        vocab_size=config.vocab_size,
        type_vocab_size=config.type_vocab_size,
        pad_token_id=padding,
        sizes={name: getattr(config, name) for name in ("hidden_size", "num_hidden_layers", "num_attention_heads")},
    )


def eager_outputs(model: nn.Module, feeds: Arrays, names: Sequence[str]) -> Arrays:
    """What the model returns, tuples spread over `name.0`, `name.1`, ..."""
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
