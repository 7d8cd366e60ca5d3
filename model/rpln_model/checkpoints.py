"""Checkpoints in, checkpoints out, in the layout and with the names that transformers uses."""

import json
import logging
import math
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import huggingface_hub
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import EncoderDecoderConfig, RobertaPreLayerNormConfig

from rpln_model.config import Config, updated_config
from rpln_model.errors import CheckpointError
from rpln_model.weights import CONFIG, INDEX_SUFFIX, PICKLE, SAFETENSORS, local_folder, read_weights

if TYPE_CHECKING:
    from rpln_model.network import Network

_log = logging.getLogger(__name__)
_Model = TypeVar("_Model", bound="Network[Any]")


BASE_MODEL_PREFIX: Final = "roberta_prelayernorm"

# The parts of a configuration that must not be left to a default: transformers 5.x would put in a BERT.
_PARTS: Final = {EncoderDecoderConfig.model_type: ("encoder", "decoder")}


class Shared(NamedTuple):
    """A parameter with two names in the state dict."""

    name: str  # the one that a checkpoint has
    alias: str
    read: str  # the one of the two that counts where a checkpoint has both and they differ
    saved_once: bool = True  # under `name` alone; or else under both, where transformers does not join them


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadingInfo:
    """How a checkpoint's tensors and a model's parameters differ, by the model's names."""

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[str, ...]


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


def read_fields(path: Path) -> dict[str, Any]:
    """What a config.json says, as it stands there; nothing where that is no JSON object.

    Raises:
        CheckpointError: it is not valid JSON.
    """
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from error
    return fields if isinstance(fields, dict) else {}


def config_from_fields(kind: type[Config], fields: dict[str, Any], *, path: Path) -> Config:
    """The configuration of `kind` with the fields that stand in the file `path`.

    Raises:
        CheckpointError: a value has a type that the config refuses.
    """
    try:
        return kind.from_dict(fields)
    except (StrictDataclassError, TypeError, ValueError, AttributeError, KeyError) as error:
        raise CheckpointError(f"{path} is no valid configuration: {error}") from error


def load_model(
    build: Callable[[], _Model],
    folder: Path,
    *,
    dtype: torch.dtype = torch.float32,
    ignore_mismatched_sizes: bool = False,
) -> tuple[_Model, LoadingInfo]:
    """A model made by `build`, in eval mode, with a folder's weights; what the folder lacks is initialised.

    The model is made without memory and its parameters are the mapped files' own, so that the peak is about once the
    weights in `dtype`.

    Raises:
        CheckpointError: weights that cannot be read, or whose shapes are not the model's.
    """
    with torch.device("meta"):
        model = build()
    aliases = {shared.alias for shared in model.shared_names()}
    expected = {name: tensor for name, tensor in model.state_dict().items() if name not in aliases}
    weights = _weights_for(model, folder)
    mismatched = tuple(name for name in expected if name in weights and weights[name].shape != expected[name].shape)
    if mismatched and not ignore_mismatched_sizes:
        raise _wrong_shapes(folder, mismatched, weights, expected)

    used = {name: weights[name].to(dtype=dtype) for name in expected if name in weights and name not in mismatched}
    model.load_state_dict(used, strict=False, assign=True)
    absent = [name for name in expected if name not in used]
    for name in absent:
        _initialise(model, name, dtype)
    model.tie_weights()

    info = LoadingInfo(
        missing=tuple(name for name in absent if name not in mismatched),
        unexpected=tuple(sorted(weights.keys() - expected)),
        mismatched=mismatched,
    )
    _report(info, model, folder)
    return model.eval(), info


def _weights_for(model: "Network[Any]", folder: Path) -> dict[str, Tensor]:
    """The folder's tensors under the model's names, one name each."""
    found = read_weights(folder)
    weights = under_one_name(model.renamed(found), model)
    if weights.keys().isdisjoint(model.state_dict()):
        raise CheckpointError(
            f"the weights in {folder} ({', '.join(sorted(found)[:3]) or 'none at all'}...) have no name of a "
            f"{type(model).__name__}; expected a checkpoint of {model.config.model_type}"
        )
    return weights


def under_one_name(weights: dict[str, Tensor], model: "Network[Any]") -> dict[str, Tensor]:
    """The tensors of shared parameters without their aliases, whichever of the names the checkpoint has."""
    result = dict(weights)
    for name, alias, read, _ in model.shared_names():
        if alias not in result:
            continue
        if name in result and not torch.equal(result[name], result[alias]):
            _log.warning("%s and %s differ in the checkpoint, but are one here; %s is used", name, alias, read)
        used = result[read] if name in result else result[alias]
        result[name] = used
        del result[alias]
    return result


def _wrong_shapes(
    folder: Path, names: tuple[str, ...], weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> CheckpointError:
    listed = "; ".join(f"{name} is {tuple(weights[name].shape)}, not {tuple(expected[name].shape)}" for name in names)
    return CheckpointError(
        f"weights in {folder} do not fit the configuration: {listed}. Correct {CONFIG} or the override that changed a "
        "size, or pass ignore_mismatched_sizes=True to initialise these tensors anew."
    )


def _initialise(model: "Network[Any]", name: str, dtype: torch.dtype) -> None:
    """Give a parameter that is still on the meta device memory and its initial value."""
    parameter = model.get_parameter(name)
    path, _, last = name.rpartition(".")
    module = model.get_submodule(path)
    memory = torch.empty(parameter.shape, dtype=dtype)
    setattr(module, last, nn.Parameter(memory, requires_grad=parameter.requires_grad))
    model.init_parameter(module, last)


def _report(info: LoadingInfo, model: nn.Module, folder: Path) -> None:
    kind = type(model).__name__
    if info.unexpected:
        _log.info("%s has no place for these weights of %s: %s", kind, folder, ", ".join(info.unexpected))
    anew = (*info.missing, *info.mismatched)
    if anew:
        _log.warning(
            "These weights of %s are not in %s or have another shape there, and are initialised at random: %s. "
            "Train the model before you use it.",
            kind,
            folder,
            ", ".join(anew),
        )


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


def save_model(model: "Network[Any]", folder: str | Path, *, max_shard_size: int | str = "5GB") -> None:
    """Write `config.json` and safetensors that transformers 4.57, 5.x and this package load.

    Files appear under their names only when all of them are complete; weights of an older save are removed.

    Raises:
        CheckpointError: the folder cannot be written, or the config holds a callable, which no file can.
    """
    folder = Path(folder)
    config = updated_config(
        model.config, {"architectures": [type(model).__name__], "dtype": str(model.dtype).removeprefix("torch.")}
    )
    parts = (config, *(getattr(config, part) for part in _PARTS.get(config.model_type, ())))
    if any(callable(getattr(part, "hidden_act", None)) for part in parts):
        raise CheckpointError("hidden_act is a callable, which config.json cannot hold; set it to a name to save")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".saving-", dir=folder) as temporary:
            config.save_pretrained(temporary)
            huggingface_hub.save_torch_state_dict(_saved_tensors(model), temporary, max_shard_size=max_shard_size)
            _publish(Path(temporary), folder)
    except (OSError, SafetensorError, TypeError, ValueError) as error:
        raise CheckpointError(f"cannot write a checkpoint to {folder}: {error}") from error


def _saved_tensors(model: "Network[Any]") -> dict[str, Tensor]:
    """The state dict, shared parameters under one name."""
    tensors = dict(model.state_dict())
    for shared in model.shared_names():
        if shared.saved_once:
            del tensors[shared.alias]
        else:
            # safetensors holds no memory twice.
            tensors[shared.alias] = tensors[shared.alias].clone()
    return tensors


def _publish(source: Path, folder: Path) -> None:
    new = {path.name for path in source.iterdir()}
    # The index and the config name what the other files hold, so that they come last.
    for name in sorted(new, key=lambda name: (name.endswith(".json"), name)):
        (source / name).replace(folder / name)
    for pattern in ("model*.safetensors", SAFETENSORS + INDEX_SUFFIX, "pytorch_model*.bin", PICKLE + INDEX_SUFFIX):
        for stale in folder.glob(pattern):
            if stale.name not in new:
                stale.unlink()
