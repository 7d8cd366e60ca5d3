"""Checks of a checkpoint's configuration and weights, where transformers has none or gives no clear message."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers import (
    EncoderDecoderConfig,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    RobertaPreLayerNormConfig,
)

from rpln_model.config import MODEL_TYPE, Config
from rpln_model.config_fields import wrong_fields
from rpln_model.errors import CheckpointError
from rpln_model.json_files import read_json
from rpln_model.weights import CONFIG, GENERATION_CONFIG, local_folder

LoadingInfo = dict[str, Any]
"""The loading info of transformers. `missing_keys`, `unexpected_keys` and `mismatched_keys` hold names of weights."""

# The parts that a configuration must have. For a missing one transformers 5 would take the configuration of a BERT.
_PARTS: Final = {EncoderDecoderConfig.model_type: ("encoder", "decoder")}


def load_config(source: str | Path, *, revision: str | None = None) -> RobertaPreLayerNormConfig:
    """Return the configuration of a single network, from a folder or the hub. Raises what `read_config` raises."""
    return read_config(local_folder(source, revision=revision), RobertaPreLayerNormConfig)


def read_config(folder: Path, *kinds: type[Config]) -> Config:
    """Return the configuration in `folder`, as the class among `kinds` that has its model type.

    Raises CheckpointError if the configuration is missing, broken, or of another architecture.
    """
    path = folder / CONFIG
    by_type = {kind.model_type: kind for kind in kinds}
    if not path.is_file():
        raise CheckpointError(f"no {CONFIG} in {folder}; expected the folder of a {' or '.join(by_type)} checkpoint")
    fields = read_fields(path)
    model_type = fields.get("model_type")
    if not isinstance(model_type, str) or model_type not in by_type:
        raise CheckpointError(
            f"{path} describes a model of type {model_type!r}; expected {' or '.join(map(repr, by_type))}. No other "
            "architecture can be loaded: its weights mean something else even where their names agree."
        )
    for part in _PARTS.get(model_type, ()):
        if not isinstance(fields.get(part), dict):
            raise CheckpointError(f"{path} has no configuration of its {part}; expected one under {part!r}")
    _check_fields(fields, path, parts=_PARTS.get(model_type, ()))
    for network in (fields, *(fields[part] for part in _PARTS.get(model_type, ()))):
        # The attention that it was trained with: here attention is written out, whatever computed it there.
        for name in ("attn_implementation", "_attn_implementation"):
            network.pop(name, None)
    return config_from_fields(by_type[model_type], fields, path=path)


def _check_fields(fields: dict[str, Any], path: Path, *, parts: tuple[str, ...]) -> None:
    """Raise CheckpointError for a value that FIELDS does not allow, and for quantized weights.

    Of the `parts`, those of this architecture are checked.
    """
    networks = {f"{part}.": fields[part] for part in parts if fields[part].get("model_type") == MODEL_TYPE}
    for prefix, network in {"": fields, **networks}.items():
        for wrong in wrong_fields(network):
            raise CheckpointError(f"{path}: {prefix}{wrong}. Correct this field.")
        if quantized := network.get("quantization_config"):
            method = quantized.get("quant_method") if isinstance(quantized, dict) else None
            raise CheckpointError(
                f"{path} has a {prefix}quantization_config ({method or 'of an unknown method'}), but quantized weights "
                f"cannot be loaded; expected float32, float16 or bfloat16. Save the model with dequantize() of "
                "transformers, or remove the field if the weights are not quantized."
            )


def read_fields(path: Path, *, cure: str = "copy the checkpoint again") -> dict[str, Any]:
    """Return the JSON object in the file `path`.

    Raises CheckpointError for any other content. `cure` is the advice in its message.
    """
    fields = read_json(path, cure=f"Correct it, or {cure}.")
    if not isinstance(fields, dict):
        raise CheckpointError(f"{path} holds no JSON object. Correct it, or {cure}.")
    return fields


def check_generation_config(folder: Path) -> None:
    """Raise CheckpointError if there is a generation_config.json that is no JSON object, or that transformers refuses.

    transformers ignores a file of the first kind, or fails later without saying why.
    """
    path = folder / GENERATION_CONFIG
    if path.is_file():
        check_generation_fields(read_fields(path, cure="remove it"), path=path)


def check_generation_fields(fields: Mapping[str, Any], *, path: str | Path = GENERATION_CONFIG) -> None:
    """Raise CheckpointError if transformers refuses the fields of a generation_config.json. `path` names the file."""
    try:
        GenerationConfig.from_dict(dict(fields))
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise CheckpointError(f"transformers refuses {path}: {error}. Correct it, or remove it.") from error


def config_from_fields(kind: type[Config], fields: dict[str, Any], *, path: Path) -> Config:
    """Return a configuration of the class `kind` with the given fields, which were read from the file `path`.

    Raises CheckpointError for a value whose type the class refuses.
    """
    try:
        return kind.from_dict(fields)
    except (StrictDataclassError, TypeError, ValueError, AttributeError, KeyError) as error:
        raise CheckpointError(f"{path} is no valid configuration: {error}") from error


def refuse_unmatched(model: PreTrainedModel, info: LoadingInfo, found: Mapping[str, Tensor], *, folder: Path) -> None:
    """Raise CheckpointError if the model uses none of the weights `found`, which then belong to another network.

    `info` is the loading info after transformers loaded the weights.
    """
    if len(info["unexpected_keys"]) >= len(found):
        raise CheckpointError(
            f"the weights in {folder} ({', '.join(sorted(found)[:3])}...) have no name of a "
            f"{type(model).__name__}; expected a checkpoint of {model.config.model_type}"
        )


def refuse_mismatched(model: PreTrainedModel, info: LoadingInfo, found: Mapping[str, Tensor], *, folder: Path) -> None:
    """Raise CheckpointError, with both shapes, for weights whose shapes in the file are not those of the model."""
    if mismatches := mismatched_shapes(model, info, found):
        raise CheckpointError(
            f"weights in {folder} do not fit the configuration: {'; '.join(mismatches)}. Correct {CONFIG} or the "
            "override that changed a size, or pass ignore_mismatched_sizes=True to initialise these tensors anew."
        )


def mismatched_shapes(model: PreTrainedModel, info: LoadingInfo, found: Mapping[str, Tensor]) -> list[str]:
    """Return a phrase for each mismatched weight of the loading info: its name and both shapes."""
    # The loading info of transformers 4.57 holds names; that of 5 holds tuples of a name and both shapes.
    names = {each if isinstance(each, str) else each[0] for each in info["mismatched_keys"]}
    return [
        f"{name} is {_shape_in_file(name, found)}, not {tuple(weight.shape)}"
        for name, weight in model.state_dict().items()
        if name in names
    ]


def _shape_in_file(name: str, found: Mapping[str, Tensor]) -> tuple[int, ...]:
    """Return the shape of a weight in the file, where its name may have the base model's prefix or lack it."""
    return next(
        tuple(tensor.shape)
        for given, tensor in found.items()
        if given == name or given.endswith(f".{name}") or name.endswith(f".{given}")
    )


def refuse_callable_activation(config: PretrainedConfig) -> None:
    """Raise CheckpointError if `hidden_act` is a function, which no config.json can hold.

    For an encoder-decoder, the configurations of both networks are checked.
    """
    parts = (config, *(getattr(config, part) for part in _PARTS.get(config.model_type, ())))
    if any(callable(getattr(part, "hidden_act", None)) for part in parts):
        raise CheckpointError("hidden_act is a callable, which config.json cannot hold; set it to a name to save")


def check_finite(model: nn.Module) -> None:
    """Raise CheckpointError, with their names, for weights that hold NaN or infinity."""
    # The extremes of a tensor show infinity and NaN. Unlike isfinite, aminmax allocates nothing of the tensor's size.
    bad = [
        name
        for name, parameter in model.named_parameters()
        if parameter.numel() and not all(math.isfinite(extreme.item()) for extreme in parameter.detach().aminmax())
    ]
    if bad:
        raise CheckpointError(
            f"NaN or infinite values in {', '.join(bad)}. Nothing computed from them means anything; load an earlier "
            "checkpoint of this training, or one in a wider dtype."
        )
