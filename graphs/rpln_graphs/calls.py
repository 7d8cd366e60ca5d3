"""A torch model that is called as its graph is: a flat list of tensors in, a flat list of tensors out.

The call is what torch traces, and what graphs are compared with.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import nn

from rpln_graphs.feeds import WantedInput
from rpln_graphs.stages import EncoderStage
from rpln_model.cache import KeyValue, KeyValues
from rpln_model.config import pruned_heads
from rpln_runtime.tasks import (
    CROSS_KEY_VALUES,
    ENCODER_SEQUENCE,
    LAST_LOGITS,
    MASKED_LOGITS,
    MASKED_POSITIONS,
    Tensor,
)

CACHED: Final = ("past_key_values", CROSS_KEY_VALUES.name)
"""The inputs that the model takes as its cache."""


class GraphCall(nn.Module):
    """A call of `model` with the inputs and outputs of one of its graphs, in order.

    An input or output that is a series has a tensor for each layer. If the graph finds mask tokens by itself, it reads
    their id from `mask_token_id` of the model's config.

    Attributes:
        model: one of rpln_model's heads, a SentenceEncoder, or an EncoderStage.
        inputs: the rows of the inputs.
        outputs: the rows of the outputs.
        layers: the number of the network's layers.
        has_cache: whether keys and values are among the inputs or outputs.
        options: keyword arguments of the model that do not change from call to call.
    """

    def __init__(self, model: Any, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        super().__init__()
        self.model = model
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        self.layers: int = model.config.num_hidden_layers
        names = {tensor.name for tensor in self.outputs}
        self.has_cache = bool({tensor.name for tensor in inputs}.intersection(CACHED)) or "present" in names
        self.options: dict[str, Any] = {}
        if not isinstance(model, EncoderStage):
            self.options = {
                "output_hidden_states": "hidden_states" in names,
                "output_attentions": not names.isdisjoint({"attentions", "cross_attentions"}),
                "return_dict": True,
            }
        if LAST_LOGITS in self.outputs:
            self.options["logits_to_keep"] = 1

    @property
    def input_names(self) -> list[str]:
        """The names of the graph's inputs, one for each tensor that `forward` takes."""
        return [name for tensor in self.inputs for name in tensor.names(self.layers)]

    @property
    def output_names(self) -> list[str]:
        """The names of the graph's outputs, one for each tensor that `forward` returns."""
        return [name for tensor in self.outputs for name in tensor.names(self.layers)]

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the outputs in the order of `output_names`, for inputs in the order of `input_names`."""
        flat = iter(tensors)
        given = {tensor.name: [next(flat) for _ in tensor.names(self.layers)] for tensor in self.inputs}
        arguments: dict[str, Any] = {name: values[0] for name, values in given.items() if name not in CACHED}
        if self.has_cache:
            past, cross = (_pairs(given.get(name, [])) for name in CACHED)
            arguments["past_key_values"] = KeyValues(past=past, cross=cross)
        if MASKED_LOGITS in self.outputs:
            arguments[MASKED_POSITIONS.name] = arguments["input_ids"] == self.model.config.mask_token_id
        result = dict(self.model(**arguments, **self.options))
        if self.has_cache:
            result["present"] = [pair for _, pair in sorted(arguments["past_key_values"].present.items())]
        return tuple(_flatten(result[tensor.name] for tensor in self.outputs))

    def shapes(self, tensor: Tensor, sizes: Mapping[str, int]) -> dict[str, list[int]]:
        """Return the shape of each tensor of a row, by its name; dynamic axes are looked up in `sizes`."""
        parts = max(1, len(tensor.parts))
        return {
            name: [
                axis
                if isinstance(axis, int)
                else sizes[axis]
                if axis in sizes
                else self._size(axis, tensor, place // parts)
                for axis in tensor.axes
            ]
            for place, name in enumerate(tensor.names(self.layers))
        }

    def wanted_inputs(self, inputs: Sequence[Tensor], sizes: Mapping[str, int]) -> list[WantedInput]:
        """Return what must be fed for `inputs`, tensor by tensor; dynamic axes are looked up in `sizes`."""
        return [
            WantedInput(name, tensor.dtype, tuple(shape))
            for tensor in inputs
            for name, shape in self.shapes(tensor, sizes).items()
        ]

    def _size(self, axis: str, tensor: Tensor, layer: int) -> int:
        """Return the size of an axis that is named after a field of the config, or after what follows from it."""
        config = self.model.config
        if axis == "num_attention_heads":
            # Only self-attention has heads to prune.
            gone = () if ENCODER_SEQUENCE in tensor.axes else pruned_heads(config).get(layer, ())
            return int(config.num_attention_heads) - len(gone)
        if axis == "head_size":
            return int(config.hidden_size // config.num_attention_heads)
        if axis in {"encoder_hidden_size", "embedding_size"}:
            return int(getattr(self.model, axis))
        return int(getattr(config, axis))


def _pairs(tensors: Sequence[torch.Tensor]) -> list[KeyValue]:
    """Return key and value of each layer, from a list in which they alternate."""
    return list(zip(tensors[::2], tensors[1::2], strict=True))


def _flatten(values: Any) -> list[torch.Tensor]:
    """Return the tensors in nested lists and tuples, in order."""
    return [tensor for value in values for tensor in ([value] if torch.is_tensor(value) else _flatten(value))]
