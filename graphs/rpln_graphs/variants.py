"""VARIANTS: one row per way of running a network. To add one, add a row here, and its name to the tasks that offer it.

A decoder's graphs pass keys and values to each other: the output `present.N.key` of one is the input
`past_key_values.N.key` of the next (Optimum's names), and the output `cross_key_values.N.key` of the encoder's graph is
their input of the same name.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from rpln_runtime.tasks import (
    BATCH,
    CROSS_KEY_VALUES,
    ENCODER_SEQUENCE,
    INT64,
    PAST,
    SEQUENCE,
    TOTAL,
    Tensor,
)

KEY_VALUE: Final = ("key", "value")
"""The tensors of a layer's cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A way to run a network as a graph. Its inputs and outputs are those of the task's row, and some of its own.

    Attributes:
        name: the name in --variants and in the manifest.
        path: the graph's file in a bundle.
        inputs: the inputs that the graph has besides those of the task.
        outputs: the outputs that the graph has besides those of the task.
        reshaped: tensors of the task that have another shape in this graph.
        standalone: whether the graph has none of the task's inputs and outputs.
        shortest_past: the fewest earlier tokens that it can be given, or None if it takes no past.
        steps: the variant that continues this one's prompt token by token, or None if this one does so itself.
        one_attention_kernel: whether TensorRT must compute each attention in one kernel in fp16 and bf16; for a step of
            one token it may choose other kernels.
        not_compiled: the reason why TensorRT builds no engine of it; empty if it does.
    """

    name: str
    path: str
    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()
    reshaped: tuple[Tensor, ...] = ()
    standalone: bool = False
    shortest_past: int | None = None
    steps: str | None = None
    one_attention_kernel: bool = False
    not_compiled: str = ""

    @property
    def cache(self) -> bool:
        """Whether keys and values are among its inputs or outputs."""
        return any(tensor.name == "present" for tensor in self.outputs)

    def shaped(self, tensors: Iterable[Tensor]) -> tuple[Tensor, ...]:
        """Return `tensors` with the shapes that they have in this variant."""
        reshaped = {tensor.name: tensor for tensor in self.reshaped}
        return tuple(reshaped.get(tensor.name, tensor) for tensor in tensors)


def _key_values(name: str, tokens: str) -> Tensor:
    """Return the series of keys and values called `name`; `tokens` is their axis of tokens."""
    return Tensor(name=name, axes=(BATCH, "num_attention_heads", tokens, "head_size"), per_layer=0, parts=KEY_VALUE)


POSITIONS: Final = Tensor(name="position_ids", axes=(BATCH, SEQUENCE), dtype=INT64)
PAST_MASK: Final = Tensor(name="attention_mask", axes=(BATCH, TOTAL), dtype=INT64)
PAST_ATTENTIONS: Final = Tensor(name="attentions", axes=(BATCH, "num_attention_heads", SEQUENCE, TOTAL), per_layer=0)

_STEP: Final[dict[str, Any]] = {
    "inputs": (POSITIONS, _key_values("past_key_values", PAST)),
    "outputs": (_key_values("present", TOTAL),),
    "reshaped": (PAST_MASK, PAST_ATTENTIONS),
}

_ROWS: Final = (
    Variant(name="full", path="full.onnx", one_attention_kernel=True),
    # For ONNX Runtime: one graph for the prompt and for the steps.
    Variant(
        name="with-past",
        path="model.onnx",
        shortest_past=0,
        not_compiled="TensorRT allows no empty past, so prompt and steps need a graph each: --variants prefill,decode",
        **_STEP,
    ),
    # For TensorRT, where no axis may be empty: one graph for the prompt, and one for the steps.
    Variant(
        name="prefill",
        path="prefill.onnx",
        inputs=(POSITIONS,),
        outputs=(_key_values("present", SEQUENCE),),
        steps="decode",
        one_attention_kernel=True,
    ),
    Variant(name="decode", path="decode.onnx", shortest_past=1, **_STEP),
    # What runs once before all steps: an encoder of this architecture, or projections of another encoder's output.
    Variant(
        name="encoder",
        path="encoder.onnx",
        standalone=True,
        one_attention_kernel=True,
        inputs=(
            Tensor(name="input_ids", axes=(BATCH, ENCODER_SEQUENCE), dtype=INT64),
            Tensor(name="attention_mask", axes=(BATCH, ENCODER_SEQUENCE), dtype=INT64),
        ),
        outputs=(
            Tensor(name="last_hidden_state", axes=(BATCH, ENCODER_SEQUENCE, "encoder_hidden_size")),
            CROSS_KEY_VALUES,
        ),
    ),
    Variant(
        name="cross",
        path="cross.onnx",
        standalone=True,
        inputs=(Tensor(name="encoder_hidden_states", axes=(BATCH, ENCODER_SEQUENCE, "encoder_hidden_size")),),
        outputs=(CROSS_KEY_VALUES,),
    ),
)

VARIANTS: Final = {row.name: row for row in _ROWS}
