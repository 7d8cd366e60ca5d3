"""TASKS: one row for each task, with the inputs and outputs of its graphs. Exporter and runtime both read it.

Names of tasks and tensors are those of transformers' pipelines and of Optimum. docs/adding-a-task.md lists what a new
task needs besides its row.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

BATCH: Final = "batch"
"""The axis of the rows of a batch."""
SEQUENCE: Final = "sequence"
"""The axis of the tokens of a text; in a decoder, of the new tokens of a step."""
CHOICES: Final = "choices"
"""The axis of the choices of a question of multiple choice."""
BATCH_CHOICES: Final = "batch*choices"
"""The axis of all choices of all questions of a batch."""
ENCODER_SEQUENCE: Final = "encoder_sequence"
"""The axis of the encoder's tokens, which a decoder's cross-attention reads."""
PAST: Final = "past_sequence"
"""The axis of the tokens whose keys and values are in the cache."""
MASK_AXIS: Final = "masks"
"""The axis of the mask tokens of one text."""
MASKED_TOKENS: Final = "masked_tokens"
"""The axis of all mask tokens of a batch, those of the first text first."""
TOTAL: Final = "past_sequence + sequence"
"""The axis of all tokens so far. An axis that is named by a sum is as long as the axes in its name together."""

TOKEN_AXES: Final = frozenset({SEQUENCE, ENCODER_SEQUENCE})
"""The axes that have an entry for each token of an input, padding included."""

INT64: Final = "int64"
FLOAT32: Final = "float32"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """An input or output of a graph, or a series of them with one for each layer.

    Attributes:
        name: the name in the graph; for a series, the part before the layer's number.
        axes: the name of a dynamic axis, the name of a field of the config, or a fixed size, for each axis.
        dtype: the dtype by numpy's name.
        per_layer: None for a single tensor. For a series, how many more tensors there are than layers: 0 for
            `attentions.0` to `attentions.{L-1}`, 1 for `hidden_states.0` to `hidden_states.{L}`.
        parts: for a series with several tensors for each layer, what their names end in: `present.0.key`,
            `present.0.value`, `present.1.key` and so on.
        decides_along: the index of the axis along which an answer takes the largest value; None if no answer does.
            Validation counts how often the exported graph and PyTorch agree on the largest value.
    """

    name: str
    axes: tuple[str | int, ...]
    dtype: str = FLOAT32
    per_layer: int | None = None
    parts: tuple[str, ...] = ()
    decides_along: int | None = None

    def names(self, layers: int) -> list[str]:
        """Return the names in the graph of a network with so many layers, in order."""
        if self.per_layer is None:
            return [self.name]
        numbered = [f"{self.name}.{index}" for index in range(layers + self.per_layer)]
        return [f"{name}.{part}" for name in numbered for part in self.parts] if self.parts else numbered

    @property
    def per_token(self) -> bool:
        """Whether the tensor has an axis of tokens, so that its values at padding mean nothing."""
        return not TOKEN_AXES.isdisjoint(self.axes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A task, with what is exported for it.

    Attributes:
        name: the task as transformers' pipelines call it, such as "fill-mask".
        architecture: the class of transformers, as a config names it in `architectures`.
        inputs: the inputs of every graph of the task.
        outputs: the outputs of every graph of the task.
        postprocess: the row of `rpln_runtime.postprocess.POSTPROCESS` that makes answers of the outputs. None for a
            task that generates text, which `rpln_runtime.generation` runs.
        variants: the rows of `rpln_graphs.variants.VARIANTS` that the task may be exported as. The first is the
            default.
        encoders: the variants that run once, before a decoder's steps. The first is the default.
        optional_inputs: inputs that a graph has if the user asks for them.
        optional_outputs: outputs that a graph has if the user asks for them.
        outputs_instead: outputs that a graph has in place of `outputs` if the user or the checkpoint asks for them.
        single_texts: whether an item of the task is a single text, so that a graph can tokenize it (`rpln-export
            --with-tokenizer`).
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
    outputs_instead: tuple[Tensor, ...] = ()
    single_texts: bool = False

    @property
    def has_choices(self) -> bool:
        """Whether an item of the task is a question with texts to choose from."""
        return any(CHOICES in tensor.axes for tensor in self.inputs)

    @property
    def generates(self) -> bool:
        """Whether the task generates text, token by token."""
        return self.postprocess is None

    def answering(self, given: Iterable[str]) -> list[str]:
        """Return the names of the outputs that answers are made of, among all that a graph has: `given`."""
        known = set(given)
        return [tensor.name for tensor in (*self.outputs, *self.outputs_instead) if tensor.name in known]


def _logits(*axes: str | int) -> Tensor:
    """Return the logits, whose last axis holds the candidates that an answer chooses from."""
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
"""The axes of token ids."""
CHOICE_TOKENS: Final = (BATCH, CHOICES, SEQUENCE)
"""The axes of token ids in multiple choice."""


def _internals(batch: str) -> tuple[Tensor, ...]:
    return (
        Tensor(name="hidden_states", axes=(batch, SEQUENCE, "hidden_size"), per_layer=1),
        Tensor(name="attentions", axes=(batch, "num_attention_heads", SEQUENCE, SEQUENCE), per_layer=0),
    )


DECODERS: Final = ("with-past", "full", "prefill", "decode")
"""The variants of a decoder: rows of `rpln_graphs.variants.VARIANTS`."""
POOLINGS: Final = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
"""The ways to pool hidden states to one vector: rows of `rpln_model.sentences.POOLINGS`."""
LAST_LOGITS: Final = _logits(BATCH, 1, "vocab_size")
"""The logits at the last position. Logits at every position would be a third of a small decoder's work."""
ALL_LOGITS: Final = _logits(*TOKENS, "vocab_size")
"""The logits at every position."""
SENTENCE_EMBEDDING: Final = Tensor(name="sentence_embedding", axes=(BATCH, "embedding_size"))
"""One vector for each text, which the graph pools from the hidden states of its tokens."""
MASKED_LOGITS: Final = _logits(MASKED_TOKENS, "vocab_size")
"""The logits at the mask tokens, which the graph finds in `input_ids` by itself."""
MASKED_POSITIONS: Final = Tensor(name="masked_positions", axes=(BATCH, MASK_AXIS), dtype=INT64)
"""The positions of each text's mask tokens. A text with fewer than others fills up with any of its positions."""
LOGITS_AT_POSITIONS: Final = _logits(BATCH, MASK_AXIS, "vocab_size")
"""The logits at the positions in `masked_positions`."""
ENCODER_MASK: Final = Tensor(name="encoder_attention_mask", axes=(BATCH, ENCODER_SEQUENCE), dtype=INT64)
"""1 for every token of the encoder, and 0 for padding."""
CROSS_KEY_VALUES: Final = Tensor(
    name="cross_key_values",
    axes=(BATCH, "num_attention_heads", ENCODER_SEQUENCE, "head_size"),
    per_layer=0,
    parts=("key", "value"),
)
"""The keys and values of each layer's cross-attention, which are computed once from the encoder's output."""


_ROWS: Final = (
    Task(
        name="feature-extraction",
        architecture="RobertaPreLayerNormModel",
        inputs=_ids(*TOKENS),
        outputs=(Tensor(name="last_hidden_state", axes=(*TOKENS, "hidden_size")),),
        optional_inputs=_optional_inputs(*TOKENS),
        optional_outputs=(Tensor(name="pooler_output", axes=(BATCH, "hidden_size")), *_internals(BATCH)),
        outputs_instead=(SENTENCE_EMBEDDING,),
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
"""The tasks by name."""
