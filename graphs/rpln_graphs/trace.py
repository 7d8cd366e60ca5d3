"""torch model -> clean onnx_ir model: one trace per variant, dynamic axes, names that read like the model."""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

import onnx_ir as ir
import torch
from onnx_ir.passes import common
from onnxscript import version_converter
from torch import nn

from rpln_graphs.errors import GraphError
from rpln_graphs.passes import CLEAN_UP
from rpln_graphs.passes.base import Context
from rpln_model.base import RobertaPreLayerNormPreTrainedModel
from rpln_runtime.tasks import BATCH_CHOICES, INT64, Tensor

OLDEST_OPSET: Final = 17
OLDEST_TRACED_OPSET: Final = 18
NEWEST_OPSET: Final = 25
DEFAULT_OPSET: Final = 20

EXAMPLE_SIZES: Final = {"batch": 2, "choices": 3, "sequence": 7}
"""Sizes to trace with; 0 and 1 would be specialised, equal ones could be taken for one another."""


def trace_model(
    model: RobertaPreLayerNormPreTrainedModel,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    *,
    opset: int = DEFAULT_OPSET,
) -> ir.Model:
    """Trace `model` into a graph with exactly these inputs and outputs, then clean it up.

    `model` is one of rpln_model's heads in eval mode; axes named after config fields are looked up in `model.config`.
    Weights are shared with `model`, not copied. Raises GraphError for an opset that cannot be had.
    """
    if not OLDEST_OPSET <= opset <= NEWEST_OPSET:
        raise GraphError(f"opset {opset} is not supported: choose one of {OLDEST_OPSET} to {NEWEST_OPSET}.")
    layers = model.config.num_hidden_layers
    names = [name for output in outputs for name in names_from_tensor(output, layers)]
    graph = _export(_Outputs(model, inputs, outputs).eval(), inputs, names, max(opset, OLDEST_TRACED_OPSET))
    for make_pass in CLEAN_UP:
        make_pass.configure(graph, Context())(graph)
    if opset < OLDEST_TRACED_OPSET:
        _convert_down(graph, opset)
    _name_output_axes(graph, outputs, layers)
    common.ClearMetadataAndDocStringPass()(graph)
    return graph


def names_from_tensor(tensor: Tensor, layers: int) -> list[str]:
    """The graph names of a task's tensor: its own, or one per layer."""
    if tensor.per_layer is None:
        return [tensor.name]
    return [f"{tensor.name}.{index}" for index in range(layers + tensor.per_layer)]


def example_from_tensor(tensor: Tensor, config: object, sizes: Mapping[str, int]) -> torch.Tensor:
    """Zeros (ids) or ones of the tensor's shape, config fields looked up in `config`, dynamic axes in `sizes`."""
    shape = [
        axis if isinstance(axis, int) else sizes[axis] if axis in sizes else getattr(config, axis)
        for axis in tensor.axes
    ]
    return torch.ones(shape, dtype=torch.int64 if tensor.dtype == INT64 else torch.float32)


class _Outputs(nn.Module):
    """Calls the model by input name and returns just the outputs asked for, in order."""

    def __init__(
        self, model: RobertaPreLayerNormPreTrainedModel, inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> None:
        super().__init__()
        self.model = model
        self.input_names = [tensor.name for tensor in inputs]
        self.output_names = [tensor.name for tensor in outputs]

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        result = self.model(
            **dict(zip(self.input_names, tensors, strict=True)),
            output_hidden_states="hidden_states" in self.output_names,
            output_attentions="attentions" in self.output_names,
            return_dict=True,
        )
        found = (result[name] for name in self.output_names)
        return tuple(tensor for value in found for tensor in (value if isinstance(value, tuple | list) else (value,)))


def _export(module: _Outputs, inputs: Sequence[Tensor], output_names: Sequence[str], opset: int) -> ir.Model:
    config = module.model.config
    examples = tuple(example_from_tensor(tensor, config, EXAMPLE_SIZES) for tensor in inputs)
    dynamic = tuple(
        {position: axis for position, axis in enumerate(tensor.axes) if axis in EXAMPLE_SIZES} for tensor in inputs
    )
    with warnings.catch_warnings(), _quiet_logger("torch.onnx._internal.exporter._registration"):
        # All three are torch's words about torch: that there is no torchvision, an axis name shared by two inputs, and
        # a pytree class it deprecated.
        warnings.filterwarnings("ignore", message=r".*axis name: .* will not be used", category=UserWarning)
        warnings.filterwarnings("ignore", message=r".*LeafSpec.*", category=FutureWarning)
        program = torch.onnx.export(
            module,
            examples,
            input_names=[tensor.name for tensor in inputs],
            output_names=list(output_names),
            dynamic_shapes=(dynamic,),
            opset_version=opset,
            dynamo=True,
            optimize=False,
            verbose=False,
        )
    assert program is not None
    return program.model


@contextmanager
def _quiet_logger(name: str) -> Iterator[None]:
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _convert_down(graph: ir.Model, opset: int) -> None:
    with _quiet_logger("onnxscript.version_converter"):
        version_converter.convert_version(graph, opset, fallback=True)
    if graph.opset_imports[""] != opset:
        raise GraphError(
            f"onnx cannot convert this graph to opset {opset}. Choose --opset {OLDEST_TRACED_OPSET} or later."
        )


def _name_output_axes(graph: ir.Model, outputs: Sequence[Tensor], layers: int) -> None:
    """Dynamic output axes get their tasks' names back; what shape inference made of them reads worse."""
    tensors = [tensor for tensor in outputs for _ in names_from_tensor(tensor, layers)]
    for value, tensor in zip(graph.graph.outputs, tensors, strict=True):
        assert value.shape is not None
        value.shape = ir.Shape(
            axis if axis in EXAMPLE_SIZES or axis == BATCH_CHOICES else size
            for axis, size in zip(tensor.axes, value.shape, strict=True)
        )
