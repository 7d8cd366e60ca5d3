"""Reads and checks the fields of a `RobertaPreLayerNormConfig` of transformers 4.57 or 5.

transformers 5 dropped fields that version 4.56 documents (`position_embedding_type`, `pruned_heads`), made
`use_return_dict` a deprecated alias, and accepts only a string as `hidden_act`. The functions below give every field
its documented meaning with both versions. The rest of the package reads these fields only through them.
"""

import copy
from collections.abc import Collection, Mapping
from typing import Any, Final, TypeVar

from huggingface_hub.errors import StrictDataclassError
from transformers import PretrainedConfig, RobertaPreLayerNormConfig

from rpln_model.activations import ACTIVATIONS, Activation
from rpln_model.config_fields import FIELDS, wrong_fields
from rpln_model.errors import ConfigError

Config = TypeVar("Config", bound=PretrainedConfig)

MODEL_TYPE: Final = "roberta-prelayernorm"
ABSOLUTE: Final = "absolute"
RELATIVE_KEY: Final = "relative_key"
RELATIVE_KEY_QUERY: Final = "relative_key_query"
POSITION_TYPES: Final = (ABSOLUTE, RELATIVE_KEY, RELATIVE_KEY_QUERY)

REGRESSION: Final = "regression"
PROBLEM_TYPES: Final = (REGRESSION, "single_label_classification", "multi_label_classification")

# Documented fields that are not plain attributes of a config in transformers 4.57, in 5, or in both.
_OTHER_FIELDS: Final = frozenset({"num_labels", "output_attentions", "position_embedding_type", "pruned_heads"})


def usable_length(config: RobertaPreLayerNormConfig) -> int:
    """Return the most tokens that a sequence may have.

    The table of positions has a fixed size, and the first token's position is `pad_token_id + 1`.
    """
    return config.max_position_embeddings - padding_row(config) - 1


def padding_row(config: RobertaPreLayerNormConfig) -> int:
    """Return `pad_token_id`: the row of padding in the table of words and in the table of positions.

    Raises ConfigError if there is none, or if it is outside the vocabulary.
    """
    row = config.pad_token_id
    if not isinstance(row, int) or not 0 <= row < config.vocab_size:
        raise ConfigError(
            f"pad_token_id is {row}; expected a row of the vocabulary, 0 to {config.vocab_size - 1}: positions are "
            "counted from it"
        )
    return row


def label_count(config: RobertaPreLayerNormConfig) -> int:
    """Return the number of outputs of a classifier."""
    return int(config.num_labels or 0)


def position_type(config: RobertaPreLayerNormConfig) -> str:
    """Return the type of position embeddings, which should be one of POSITION_TYPES."""
    return str(getattr(config, "position_embedding_type", ABSOLUTE))


def returns_dict(config: PretrainedConfig, *, asked: bool | None = None) -> bool:
    """Return whether a forward pass returns a `ModelOutput`: as `asked`, or as the config says if that is None."""
    return bool(config.return_dict) and not getattr(config, "torchscript", False) if asked is None else asked


def pruned_heads(config: RobertaPreLayerNormConfig) -> dict[int, set[int]]:
    """Return the heads that were pruned from each layer, numbered as before any pruning."""
    return heads_by_layer(getattr(config, "pruned_heads", None) or {}, layers=config.num_hidden_layers)


def heads_by_layer(heads: Mapping[Any, Collection[int]], *, layers: int) -> dict[int, set[int]]:
    """Return the heads of each layer, with layers numbered from 0.

    The keys of `heads` may also count from the last layer, as -1, or be texts, as JSON has them.
    """
    result: dict[int, set[int]] = {}
    for layer, some in heads.items():
        number = int(layer)
        result.setdefault(number + layers if number < 0 else number, set()).update(some)
    return result


def activation(config: RobertaPreLayerNormConfig) -> Activation:
    """Return the function that `hidden_act` names, or `hidden_act` itself if it is a function.

    Raises ConfigError for a name that ACTIVATIONS does not have.
    """
    hidden_act: Any = config.hidden_act
    if callable(hidden_act):
        return hidden_act  # type: ignore[no-any-return]  # a callable config field has no signature to check
    if hidden_act not in ACTIVATIONS:
        raise ConfigError(
            f"hidden_act is {hidden_act!r}; expected a callable or one of {', '.join(sorted(ACTIVATIONS))}. "
            "An activation with weights of its own (prelu, xielu) has no place in this architecture's checkpoints."
        )
    return ACTIVATIONS[hidden_act]


def updated_config(config: Config, fields: Mapping[str, object]) -> Config:
    """Return a deep copy of `config` with `fields` set. `hidden_act` may be a function in transformers 4.57 and 5.

    Raises TypeError for a name that is no field of the config, and ConfigError for a value that the config refuses.
    """
    result = copy.deepcopy(config)
    for name, value in fields.items():
        if (name not in vars(result) and name not in _OTHER_FIELDS) or name.startswith("_"):
            raise TypeError(f"{name!r} is neither an option of from_pretrained nor a field of {type(result).__name__}")
        if name == "hidden_act" and callable(value):
            # transformers 5 refuses a function here, although its own modules can call one.
            vars(result)[name] = value
            continue
        try:
            setattr(result, name, value)
        except (StrictDataclassError, TypeError, ValueError) as error:
            raise ConfigError(f"cannot set the config's {name} to {value!r}: {error}") from error
    return result


def check_config(config: RobertaPreLayerNormConfig) -> None:
    """Raise ConfigError for a config that describes no network of this architecture.

    The message names the field, its value and what was expected.
    """
    if config.model_type != MODEL_TYPE:
        raise ConfigError(
            f"this config is of model_type {config.model_type!r}; expected {MODEL_TYPE!r}. Other architectures, "
            "RoBERTa with its LayerNorm after each sublayer among them, are other networks under similar names."
        )
    for wrong in wrong_fields({name: getattr(config, name) for name in FIELDS if hasattr(config, name)}):
        raise ConfigError(wrong)
    if position_type(config) not in POSITION_TYPES:
        raise ConfigError(
            f"position_embedding_type is {position_type(config)!r}; expected one of {', '.join(POSITION_TYPES)}"
        )
    if config.hidden_size % config.num_attention_heads:
        raise ConfigError(
            f"hidden_size {config.hidden_size} is not a multiple of num_attention_heads {config.num_attention_heads}"
        )
    if usable_length(config) < 1:
        raise ConfigError(
            f"max_position_embeddings {config.max_position_embeddings} leaves no position after pad_token_id "
            f"{config.pad_token_id}; expected at least {padding_row(config) + 2}"
        )
    if config.problem_type not in (None, *PROBLEM_TYPES):
        raise ConfigError(
            f"problem_type is {config.problem_type!r}; expected one of {', '.join(PROBLEM_TYPES)}, or none"
        )
    if config.add_cross_attention and not config.is_decoder:
        raise ConfigError("add_cross_attention needs is_decoder=True: only a decoder attends to an encoder's output")
    activation(config)
