"""VARIANTS: one row per way of running a network. To add one: a row here, its name in the tasks that offer it.

A decoder's graphs pass keys and values on: what one gives as `present.N.key` the next takes as `past_key_values.N.key`
(the names of Optimum), and what the encoder's graph gives as `cross_key_values.N.key` they take under that name.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A graph of a task.

    It takes and gives what the task's row says, tensors of `reshaped` in the shape they have there, and besides
    `inputs` and `outputs`. A `standalone` one has nothing of the task's row. `path` is its file in a bundle, and
    `shortest_past` the fewest earlier tokens it may be given, None where it takes none.

    `steps` names the variant that goes on from this one's prompt token by token, None where this one does so itself.
    `one_attention_kernel` says whether TensorRT computes each attention of it in one kernel in fp16 and bf16; a step of
    one token may take another kernel, so that nothing is demanded there. `not_compiled` is the reason why TensorRT
    makes no engine of it, empty where it does.
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
        """Whether keys and values come in or go out."""
        return any(tensor.name == "present" for tensor in self.outputs)

    def shaped(self, tensors: Iterable[Tensor]) -> tuple[Tensor, ...]:
        """`tensors` in the shapes that they have in this variant."""
        reshaped = {tensor.name: tensor for tensor in self.reshaped}
        return tuple(reshaped.get(tensor.name, tensor) for tensor in tensors)


def _key_values(name: str, tokens: str) -> Tensor:
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
    # ONNX Runtime: one graph for prompt and steps.
    Variant(
        name="with-past",
        path="model.onnx",
        shortest_past=0,
        not_compiled="a graph that runs with no past and with one is two engines: --variants prefill,decode",
        **_STEP,
    ),
    # TensorRT, whose axes are at least 1: a graph for the prompt and one for the steps.
    Variant(
        name="prefill",
        path="prefill.onnx",
        inputs=(POSITIONS,),
        outputs=(_key_values("present", SEQUENCE),),
        steps="decode",
        one_attention_kernel=True,
    ),
    Variant(name="decode", path="decode.onnx", shortest_past=1, **_STEP),
    # Once for all steps: an encoder of this architecture, or the hidden states of any other.
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
