"""What of a checkpoint is read and checked here, where transformers' loader would go on or fail without a reason."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers import EncoderDecoderConfig, PretrainedConfig, PreTrainedModel, RobertaPreLayerNormConfig

from rpln_model.config import Config
from rpln_model.errors import CheckpointError
from rpln_model.weights import CONFIG, GENERATION_CONFIG, local_folder

LoadingInfo = dict[str, Any]
"""transformers' loading info: under `missing_keys`, `unexpected_keys` and `mismatched_keys` names of weights."""

# The parts of a configuration that must not be left to a default: transformers 5.x would put in a BERT.
_PARTS: Final = {EncoderDecoderConfig.model_type: ("encoder", "decoder")}


def load_config(source: str | Path, *, revision: str | None = None) -> RobertaPreLayerNormConfig:
    """The configuration of one network in a folder or on the hub; see `read_config`."""
    return read_config(local_folder(source, revision=revision), RobertaPreLayerNormConfig)


def read_config(folder: Path, *kinds: type[Config]) -> Config:
    """The configuration in a folder, of the one of `kinds` that its model type says.

    Raises:
        CheckpointError: there is none, it cannot be read, or it is of another architecture.
    """
    path = folder / CONFIG
    by_type = {kind.model_type: kind for kind in kinds}
    if not path.is_file():
        raise CheckpointError(f"no {CONFIG} in {folder}; expected the folder of a {' or '.join(by_type)} checkpoint")
    fields = read_fields(path)
    model_type = fields.get("model_type")
    if model_type not in by_type:
        raise CheckpointError(
            f"{path} describes a model of type {model_type!r}; expected {' or '.join(map(repr, by_type))}. No other "
            "architecture can be loaded: its weights mean something else even where their names agree."
        )
    for part in _PARTS.get(model_type, ()):
        if not isinstance(fields.get(part), dict):
            raise CheckpointError(f"{path} has no configuration of its {part}; expected one under {part!r}")
    return config_from_fields(by_type[model_type], fields, path=path)


def read_fields(path: Path, *, cure: str = "copy it again") -> dict[str, Any]:
    """Return the JSON object in `path`; `cure` is what to do with a file that holds none.

    Raises:
        CheckpointError: it holds no JSON object.
    """
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(
            f"{path} is not valid JSON ({error}). Correct it, or copy the checkpoint again."
        ) from error
    if not isinstance(fields, dict):
        raise CheckpointError(f"{path} holds no JSON object. Correct it, or {cure}.")
    return fields


def check_generation_config(folder: Path) -> None:
    """Refuse a generation_config.json that holds no JSON object, of which transformers says nothing or fails later.

    Raises:
        CheckpointError: saying what it is.
    """
    path = folder / GENERATION_CONFIG
    if path.is_file():
        read_fields(path, cure="remove it")


def config_from_fields(kind: type[Config], fields: dict[str, Any], *, path: Path) -> Config:
    """The configuration of `kind` with the fields that stand in the file `path`.

    Raises:
        CheckpointError: a value has a type that the config refuses.
    """
    try:
        return kind.from_dict(fields)
    except (StrictDataclassError, TypeError, ValueError, AttributeError, KeyError) as error:
        raise CheckpointError(f"{path} is no valid configuration: {error}") from error


def refuse_unmatched(model: PreTrainedModel, info: LoadingInfo, found: Mapping[str, Tensor], *, folder: Path) -> None:
    """Refuse weights of which the model has used none: by their names they are those of another network.

    Raises:
        CheckpointError: all the weights `found` in the folder are unexpected ones of the loading info.
    """
    if len(info["unexpected_keys"]) >= len(found):
        raise CheckpointError(
            f"the weights in {folder} ({', '.join(sorted(found)[:3])}...) have no name of a "
            f"{type(model).__name__}; expected a checkpoint of {model.config.model_type}"
        )


def refuse_mismatched(model: PreTrainedModel, info: LoadingInfo, found: Mapping[str, Tensor], *, folder: Path) -> None:
    """Refuse weights whose shapes are not the model's.

    Raises:
        CheckpointError: the loading info has mismatched ones; the message gives both shapes of each.
    """
    if mismatches := mismatched_shapes(model, info, found):
        raise CheckpointError(
            f"weights in {folder} do not fit the configuration: {'; '.join(mismatches)}. Correct {CONFIG} or the "
            "override that changed a size, or pass ignore_mismatched_sizes=True to initialise these tensors anew."
        )


def mismatched_shapes(model: PreTrainedModel, info: LoadingInfo, found: Mapping[str, Tensor]) -> list[str]:
    """For each mismatched weight of the loading info its name and both shapes."""
    # In transformers 4.57 the loading info gives the names alone, in 5.x tuples of a name and both shapes.
    names = {each if isinstance(each, str) else each[0] for each in info["mismatched_keys"]}
    return [
        f"{name} is {_shape_in_file(name, found)}, not {tuple(weight.shape)}"
        for name, weight in model.state_dict().items()
        if name in names
    ]


def _shape_in_file(name: str, found: Mapping[str, Tensor]) -> tuple[int, ...]:
    """The shape under this name, which in the file may lack the base model's prefix or have it in front."""
    return next(
        tuple(tensor.shape)
        for given, tensor in found.items()
        if given == name or given.endswith(f".{name}") or name.endswith(f".{given}")
    )


def refuse_callable_activation(config: PretrainedConfig) -> None:
    """Refuse to save a configuration whose activation is a function.

    Raises:
        CheckpointError: the `hidden_act` of the network, or of one of two networks, is a callable.
    """
    parts = (config, *(getattr(config, part) for part in _PARTS.get(config.model_type, ())))
    if any(callable(getattr(part, "hidden_act", None)) for part in parts):
        raise CheckpointError("hidden_act is a callable, which config.json cannot hold; set it to a name to save")


def check_finite(model: nn.Module) -> None:
    """Refuse a model whose weights hold NaN or infinity.

    Raises:
        CheckpointError: naming the tensors.
    """
    # The extremes show both (NaN passes through them) and, unlike isfinite, need no memory of the tensor's size.
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
