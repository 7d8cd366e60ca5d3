"""TASKS: one row per task, torch-free, read by the exporter and the runtime alike.

To add a task: one row here, one head in `rpln_model.heads.HEADS`, one row in `rpln_runtime.postprocess.POSTPROCESS`
(docs/adding-a-task.md). Names are the pipeline tags of transformers and Optimum, so is every tensor name.
"""

from dataclasses import dataclass
from typing import Final

BATCH: Final = "batch"
SEQUENCE: Final = "sequence"
CHOICES: Final = "choices"
BATCH_CHOICES: Final = "batch*choices"
ENCODER_SEQUENCE: Final = "encoder_sequence"
PAST: Final = "past_sequence"
MASK_AXIS: Final = "masks"
MASKED_TOKENS: Final = "masked_tokens"
"""All mask tokens of a batch in one list, the first text's first."""
TOTAL: Final = "past_sequence + sequence"
"""An axis named by a sum is as long as the axes it names together."""

TOKEN_AXES: Final = frozenset({SEQUENCE, ENCODER_SEQUENCE})
"""Axes that go over the tokens of an input."""

INT64: Final = "int64"
FLOAT32: Final = "float32"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """A graph input or output. An axis is the name of a dynamic one, the name of a config field, or a fixed size.

    `per_layer` is how many tensors stand behind the name, as an offset to the number of layers: None for one tensor,
    0 for `attentions.0` .. `attentions.{L-1}`, 1 for `hidden_states.0` .. `hidden_states.{L}`. With `parts` each layer
    has one tensor per part: `present.0.key`, `present.0.value`, `present.1.key` ...

    `decides_along` is the index of the axis along which an answer takes the largest value, None where none does so:
    validation counts how often the exported graph decides as PyTorch does.
    """

    name: str
    axes: tuple[str | int, ...]
    dtype: str = FLOAT32
    per_layer: int | None = None
    parts: tuple[str, ...] = ()
    decides_along: int | None = None

    def names(self, layers: int) -> list[str]:
        """The graph's names for it, in order, in a network of so many layers."""
        if self.per_layer is None:
            return [self.name]
        numbered = [f"{self.name}.{index}" for index in range(layers + self.per_layer)]
        return [f"{name}.{part}" for name in numbered for part in self.parts] if self.parts else numbered

    @property
    def per_token(self) -> bool:
        """Whether rows of the tensor belong to tokens, so that its values at padding mean nothing."""
        return not TOKEN_AXES.isdisjoint(self.axes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What is exported for a task, and which row of POSTPROCESS turns its outputs into answers.

    `postprocess` is None for a task that generates: `rpln_runtime.generation` runs it step by step. `variants` are the
    rows of `rpln_graphs.variants.VARIANTS` that it may be exported as, the default first; `encoders` are those of the
    graphs that run once, before the steps. `single_texts` says whether an item is one text, so that a graph can
    tokenize it by itself (`rpln-export --with-tokenizer`).
    """

    name: str
    architecture: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    postprocess: str | None
    variants: tuple[str, ...] = ("full",)
    encoders: tuple[str, ...] = ()
    optional_inputs: tuple[Tensor, ...] = ()
    optional_outputs: tuple[Tensor, ...] = ()
    single_texts: bool = False


def _logits(*axes: str | int) -> Tensor:
    """Logits whose last axis holds the candidates."""
    return Tensor(name="logits", axes=axes, decides_along=-1)


def _ids(*axes: str) -> tuple[Tensor, ...]:
    return tuple(Tensor(name=name, axes=axes, dtype=INT64) for name in ("input_ids", "attention_mask"))


def _optional_inputs(*axes: str) -> tuple[Tensor, ...]:
    return (
        Tensor(name="token_type_ids", axes=axes, dtype=INT64),
        Tensor(name="position_ids", axes=axes, dtype=INT64),
        Tensor(name="inputs_embeds", axes=(*axes, "hidden_size")),
        Tensor(name="head_mask", axes=("num_hidden_layers", "num_attention_heads")),
    )


TOKENS: Final = (BATCH, SEQUENCE)
CHOICE_TOKENS: Final = (BATCH, CHOICES, SEQUENCE)


def _internals(batch: str) -> tuple[Tensor, ...]:
    return (
        Tensor(name="hidden_states", axes=(batch, SEQUENCE, "hidden_size"), per_layer=1),
        Tensor(name="attentions", axes=(batch, "num_attention_heads", SEQUENCE, SEQUENCE), per_layer=0),
    )


DECODERS: Final = ("with-past", "full", "prefill", "decode")
LAST_LOGITS: Final = _logits(BATCH, 1, "vocab_size")
"""Of the last position only: the projection onto the vocabulary is a third of a small decoder's work."""
ALL_LOGITS: Final = _logits(*TOKENS, "vocab_size")
MASKED_LOGITS: Final = _logits(MASKED_TOKENS, "vocab_size")
"""Of the mask tokens that the graph finds itself."""
MASKED_POSITIONS: Final = Tensor(name="masked_positions", axes=(BATCH, MASK_AXIS), dtype=INT64)
"""Where each text's mask tokens are; any place in the text where it has fewer than others."""
LOGITS_AT_POSITIONS: Final = _logits(BATCH, MASK_AXIS, "vocab_size")
ENCODER_MASK: Final = Tensor(name="encoder_attention_mask", axes=(BATCH, ENCODER_SEQUENCE), dtype=INT64)
CROSS_KEY_VALUES: Final = Tensor(
    name="cross_key_values",
    axes=(BATCH, "num_attention_heads", ENCODER_SEQUENCE, "head_size"),
    per_layer=0,
    parts=("key", "value"),
)
"""What each layer's cross-attention reads, projected once from the encoder's output."""


_ROWS: Final = (
    Task(
        name="feature-extraction",
        architecture="RobertaPreLayerNormModel",
        inputs=_ids(*TOKENS),
        outputs=(Tensor(name="last_hidden_state", axes=(*TOKENS, "hidden_size")),),
        optional_inputs=_optional_inputs(*TOKENS),
        optional_outputs=(Tensor(name="pooler_output", axes=(BATCH, "hidden_size")), *_internals(BATCH)),
        postprocess="feature_extraction",
        single_texts=True,
    ),
    Task(
        name="fill-mask",
        architecture="RobertaPreLayerNormForMaskedLM",
        inputs=_ids(*TOKENS),
        outputs=(ALL_LOGITS,),
        optional_inputs=_optional_inputs(*TOKENS),
        optional_outputs=_internals(BATCH),
        postprocess="fill_mask",
        single_texts=True,
    ),
    Task(
        name="text-classification",
        architecture="RobertaPreLayerNormForSequenceClassification",
        inputs=_ids(*TOKENS),
        outputs=(_logits(BATCH, "num_labels"),),
        optional_inputs=_optional_inputs(*TOKENS),
        optional_outputs=_internals(BATCH),
        postprocess="text_classification",
        single_texts=True,
    ),
    Task(
        name="token-classification",
        architecture="RobertaPreLayerNormForTokenClassification",
        inputs=_ids(*TOKENS),
        outputs=(_logits(*TOKENS, "num_labels"),),
        optional_inputs=_optional_inputs(*TOKENS),
        optional_outputs=_internals(BATCH),
        postprocess="token_classification",
        single_texts=True,
    ),
    Task(
        name="question-answering",
        architecture="RobertaPreLayerNormForQuestionAnswering",
        inputs=_ids(*TOKENS),
        outputs=(
            Tensor(name="start_logits", axes=TOKENS, decides_along=1),
            Tensor(name="end_logits", axes=TOKENS, decides_along=1),
        ),
        optional_inputs=_optional_inputs(*TOKENS),
        optional_outputs=_internals(BATCH),
        postprocess="question_answering",
    ),
    Task(
        name="multiple-choice",
        architecture="RobertaPreLayerNormForMultipleChoice",
        inputs=_ids(*CHOICE_TOKENS),
        outputs=(_logits(BATCH, CHOICES),),
        optional_inputs=_optional_inputs(*CHOICE_TOKENS),
        optional_outputs=_internals(BATCH_CHOICES),
        postprocess="multiple_choice",
    ),
    Task(
        name="text-generation",
        architecture="RobertaPreLayerNormForCausalLM",
        inputs=_ids(*TOKENS),
        outputs=(LAST_LOGITS,),
        variants=DECODERS,
        optional_inputs=_optional_inputs(*TOKENS),
        optional_outputs=_internals(BATCH),
        postprocess=None,
    ),
    Task(
        name="text2text-generation",
        architecture="EncoderDecoderModel",
        inputs=(*_ids(*TOKENS), ENCODER_MASK, CROSS_KEY_VALUES),
        outputs=(LAST_LOGITS,),
        variants=DECODERS,
        encoders=("encoder", "cross"),
        optional_inputs=_optional_inputs(*TOKENS),
        optional_outputs=(
            *_internals(BATCH),
            Tensor(
                name="cross_attentions",
                axes=(BATCH, "num_attention_heads", SEQUENCE, ENCODER_SEQUENCE),
                per_layer=0,
            ),
        ),
        postprocess=None,
    ),
)

TASKS: Final[dict[str, Task]] = {row.name: row for row in _ROWS}
