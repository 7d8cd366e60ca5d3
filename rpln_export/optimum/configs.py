"""What Optimum's exporter must know of roberta-prelayernorm: the inputs of a graph, their axes, and the tasks."""

from typing import Final

from optimum.exporters.onnx.config import TextDecoderWithPositionIdsOnnxConfig, TextEncoderOnnxConfig
from optimum.exporters.tasks import TasksManager
from optimum.utils import NormalizedTextConfig

MODEL_TYPE: Final = "roberta-prelayernorm"

ENCODER_TASKS: Final = (
    "feature-extraction",
    "fill-mask",
    "multiple-choice",
    "question-answering",
    "text-classification",
    "token-classification",
)
DECODER_TASKS: Final = ("text-generation", "text-generation-with-past")

Axes = dict[int, str]


def register_configs() -> None:
    """Enter both configurations into Optimum's table of model types. Calling it again changes nothing."""
    register = TasksManager.create_register("onnx")
    register(MODEL_TYPE, *ENCODER_TASKS)(EncoderOnnxConfig)
    register(MODEL_TYPE, *DECODER_TASKS)(DecoderOnnxConfig)


class EncoderOnnxConfig(TextEncoderOnnxConfig):  # type: ignore[misc] # optimum is not typed
    """The configuration of an encoder with any of its heads, and of either half of an encoder-decoder.

    The graph computes positions itself, from `input_ids`, so that padding may be on either side.
    """

    NORMALIZED_CONFIG_CLASS = NormalizedTextConfig

    @property
    def inputs(self) -> dict[str, Axes]:
        """The names of the inputs, with the names of their dynamic axes. The type of each is int64."""
        names = ["batch_size", *(["num_choices"] if self.task == "multiple-choice" else []), "sequence_length"]
        axes = dict(enumerate(names))
        # Without this input the graph would take every token for one of type 0.
        types = ["token_type_ids"] if self._config.type_vocab_size > 1 else []
        return dict.fromkeys(["input_ids", "attention_mask", *types], axes)


class DecoderOnnxConfig(TextDecoderWithPositionIdsOnnxConfig):  # type: ignore[misc] # optimum is not typed
    """The configuration of a causal language model, with a cache or without one.

    Its graph takes `position_ids`, because transformers' `generate` passes them, and because the class of transformers
    counts the padding in the cache when it computes positions itself.
    """

    NORMALIZED_CONFIG_CLASS = NormalizedTextConfig
