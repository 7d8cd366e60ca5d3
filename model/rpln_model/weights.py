"""Finds weight files in a folder or on the hub, and reads them without running code from them or copying tensors.

The files are those that transformers writes: `model.safetensors`, or `model.safetensors.index.json` with the shards
that it names; or the same two of `pytorch_model.bin`. The latter are read with `weights_only=True`, which refuses a
pickle that would run code.
"""

import os
import re
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import huggingface_hub
import torch
from huggingface_hub.errors import EntryNotFoundError, HFValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from rpln_model.errors import CheckpointError, CheckpointNotFoundError
from rpln_model.hub import uses_cache_only
from rpln_model.json_files import LFS_POINTER, read_json
from rpln_model.names import network_name

SAFETENSORS: Final = "model.safetensors"
PICKLE: Final = "pytorch_model.bin"
INDEX_SUFFIX: Final = ".index.json"
CONFIG: Final = "config.json"
GENERATION_CONFIG: Final = "generation_config.json"
ADAPTER: Final = "adapter_config.json"
SENTENCE_FILES: Final = (
    "modules.json",
    "config_sentence_transformers.json",
    "sentence_*_config.json",
    *(f"[0-9]_*/*.{ending}" for ending in ("json", "txt", "safetensors", "bin")),
)
"""The files of sentence-transformers: its own, and those of modules, in folders such as 0_Transformer and 1_Pooling."""
VOCABULARIES: Final = ("tokenizer.json", "vocab.json")
_MOST_NAME_BYTES: Final = 255
_MOST_PATH_BYTES: Final = 1024

# Buffers that transformers saved until version 4.31. They hold no weights.
OLD_BUFFERS: Final = ("embeddings.position_ids", "embeddings.token_type_ids")

# The parts of an error message of torch.load(weights_only=True) that name the class it refuses to import, and that give
# another reason. The rest of the message advises to switch the check off.
_FOREIGN_CLASS: Final = re.compile(r"GLOBAL (\S+) (?:was not an allowed global|whose module \S+ is blocked)")
_UNPICKLER_REASON: Final = re.compile(r"WeightsUnpickler error:\s*(.+)")

_LIGHTNING: Final = ".ckpt"

# Files of other frameworks: the option of transformers 4 that reads them, and the distribution that it needs.
_FOREIGN: Final = {"tf_model.h5": ("from_tf", "tensorflow"), "flax_model.msgpack": ("from_flax", "flax")}


def local_folder(source: str | os.PathLike[str], *, revision: str | None) -> Path:
    """Return the folder of a checkpoint: `source` itself, or the folder of that id in the local cache of the hub.

    Files that are missing are downloaded, unless HF_HUB_OFFLINE is set or the hub cannot be reached; safetensors are
    preferred to pickles. Raises CheckpointNotFoundError if neither a folder nor a model on the hub or in its cache has
    this name, and CheckpointError for a file.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if not isinstance(source, str) or folder.exists() or source.startswith((".", "/", "~")) or source.count("/") > 1:
        expected = f"Expected a folder with {CONFIG} and weights, or a hub id."
        if folder.exists():
            raise CheckpointError(f"{source} is a file. {expected}")
        raise CheckpointNotFoundError(f"{source} does not exist. {expected}")
    configs = (CONFIG, GENERATION_CONFIG, ADAPTER, *SENTENCE_FILES)
    snapshot = _download(source, revision, [*configs, "model*.safetensors", f"{SAFETENSORS}{INDEX_SUFFIX}"])
    if (snapshot / ADAPTER).is_file():
        snapshot = _download(
            source, revision, [*_ADAPTER_WEIGHTS, *VOCABULARIES, "merges.txt", "tokenizer_config.json"]
        )
    if not list(snapshot.glob("model*.safetensors")):
        snapshot = _download(source, revision, [*configs, "pytorch_model*.bin", f"{PICKLE}{INDEX_SUFFIX}"])
    return snapshot


def _download(model_id: str, revision: str | None, patterns: list[str]) -> Path:
    try:
        return Path(
            huggingface_hub.snapshot_download(
                model_id, revision=revision, allow_patterns=patterns, local_files_only=uses_cache_only()
            )
        )
    except (OSError, HFValidationError, EntryNotFoundError) as error:  # the hub raises only these
        at = f" at revision {revision}" if revision else ""
        raise CheckpointNotFoundError(
            f"{model_id!r}{at} is neither a folder here nor a model that could be fetched from the hub or its cache "
            f"({type(error).__name__}: {error}). Check the name, HF_HUB_OFFLINE, HF_HOME and HF_TOKEN."
        ) from error


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Return every tensor of the checkpoint in `folder` by its name in the network, mapped and not yet in memory.

    Raises CheckpointError where `read_files` does, and if two tensors have the same name in the network.
    """
    return named_as_in_network(read_files(folder), folder=folder)


def named_as_in_network(found: dict[str, Tensor], *, folder: Path) -> dict[str, Tensor]:
    """Return the tensors of the files in `folder` by their names in the network (`rpln_model.names.network_name`).

    Raises CheckpointError if two of them have the same one.
    """
    given: dict[str, str] = {}
    for name in found:
        other = given.setdefault(network_name(name), name)
        if other != name:
            raise CheckpointError(
                f"the weights in {folder} hold {network_name(name)} twice, as {other} and as {name}; remove one of them"
            )
    return {name: found[in_file] for name, in_file in given.items()}


def read_files(folder: Path) -> dict[str, Tensor]:
    """Return every tensor of the checkpoint in `folder` by its name in the files, mapped and not yet in memory.

    Raises CheckpointError if there are no weights, or if a file is missing, truncated, corrupt, or of another format
    than its name says.
    """
    kind, files = _find(folder)
    found = {name: tensor for path in files for name, tensor in _READERS[kind](path).items()}
    weights = {name: tensor for name, tensor in found.items() if not name.endswith(OLD_BUFFERS)}
    for name, tensor in weights.items():
        if not tensor.is_floating_point():
            raise CheckpointError(
                f"{name} in {folder} holds {tensor.dtype}, which is no floating-point type; quantized weights cannot "
                "be loaded, expected float32, float16 or bfloat16"
            )
    return weights


def read_adapter(folder: Path) -> dict[str, Tensor]:
    """Return every tensor of the peft adapter in `folder` by its name in the file, mapped and not yet in memory.

    Raises CheckpointError where `adapter_file` does, and if the file is truncated, corrupt or unsafe.
    """
    path = adapter_file(folder)
    return _ADAPTER_WEIGHTS[path.name](path)


def adapter_file(folder: Path) -> Path:
    """Return the file with the weights of the peft adapter in `folder`: safetensors if there are any.

    Raises CheckpointError if there is none.
    """
    for name in _ADAPTER_WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    raise CheckpointError(
        f"{folder} holds {ADAPTER}, but no weights of the adapter; expected {' or '.join(_ADAPTER_WEIGHTS)}. Copy or "
        "download the adapter again."
    )


def has_weights(folder: Path) -> bool:
    """Return whether there are weights of a network in `folder`, as safetensors or a pickle, in one file or in more."""
    return any((folder / f"{name}{end}").is_file() for name in _READERS for end in ("", INDEX_SUFFIX))


def weight_files(folder: Path) -> list[Path]:
    """Return the files that the weights of the checkpoint are read from, sorted. Other files are not used.

    Raises CheckpointError if there are none, or if an index names a file that does not exist.
    """
    return _find(folder)[1]


def _find(folder: Path) -> tuple[str, list[Path]]:
    """Return the format of the weights and their files. If both formats are there, safetensors are taken."""
    for name in _READERS:
        if (folder / name).is_file():
            return name, [folder / name]
        if (folder / f"{name}{INDEX_SUFFIX}").is_file():
            return name, _shards(folder / f"{name}{INDEX_SUFFIX}")
    for name, (option, framework) in _FOREIGN.items():
        if (folder / name).is_file():
            raise CheckpointError(
                f"{folder} holds weights only as {name}; expected {SAFETENSORS} or {PICKLE}. Convert them where "
                f'`pip install "transformers<5" torch {framework}` was run: python -c "from transformers import '
                f"{_architecture(folder)} as M; "
                f"M.from_pretrained('{folder}', {option}=True).save_pretrained('{folder}')\""
            )
    if saved := sorted(folder.glob(f"*{_LIGHTNING}")):
        raise CheckpointError(
            f"{folder} holds weights only as {saved[0].name} of Lightning; expected {SAFETENSORS} or {PICKLE}. Copy it "
            f"to {folder / PICKLE}: its state_dict is read from there"
        )
    raise CheckpointError(
        f"no weights in {folder}; expected {', '.join(_READERS)} or one of them with {INDEX_SUFFIX} and its shards"
    )


def _architecture(folder: Path) -> str:
    """Return the class that config.json names first, or that of the network without a head."""
    try:
        return str(read_json(folder / CONFIG, cure="")["architectures"][0])
    except (CheckpointError, TypeError, LookupError):
        return "RobertaPreLayerNormModel"


def _shards(index: Path) -> list[Path]:
    document = read_json(index, cure="Copy or download the checkpoint again.")
    listed = document.get("weight_map") if isinstance(document, dict) else None
    if not isinstance(listed, dict) or not all(isinstance(name, str) for name in listed.values()):
        raise CheckpointError(f'{index} is no weight index; expected {{"weight_map": {{tensor: file}}}}')
    names = sorted(set(listed.values()))
    if not names:
        raise CheckpointError(f"{index} names no file with weights; copy or download the checkpoint again")
    for name in names:
        if Path(name).name != name or name in ("", ".", "..") or not is_file_name(name):
            raise CheckpointError(f"{index} names {name[:300]!r}; a shard must be a file in the same folder")
        if not (index.parent / name).is_file():
            raise CheckpointError(f"{index} names {name}, which is not in the folder; copy or download it again")
    return [index.parent / name for name in names]


def is_file_name(name: str) -> bool:
    """Whether a file can be called so: file systems take 255 bytes, and neither a NUL nor half of a surrogate pair."""
    try:
        return len(name.encode()) <= _MOST_NAME_BYTES and "\0" not in name
    except UnicodeEncodeError:
        return False


def is_file_path(path: str) -> bool:
    """Whether a file can have this path: each of its parts can be a name, and the whole is no longer than systems take.

    Python's questions about any other path end in an OSError or a ValueError instead of an answer.
    """
    return len(path.encode(errors="replace")) <= _MOST_PATH_BYTES and all(map(is_file_name, path.split("/")))


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - a safe_open is no dict
    except (SafetensorError, OSError, ValueError) as error:
        raise _corrupt(path, error) from error


def read_pickle(path: Path, *, allowed: Sequence[Callable[..., Any]] = ()) -> object:
    """Return what `torch.save` wrote to the file `path`, with tensors mapped from it.

    Raises CheckpointError if the file is truncated or corrupt, or if it contains classes other than `allowed`.
    """
    # At its end, `safe_globals` removes every class it was given, even those that the user had allowed before.
    new: list[Any] = [kind for kind in allowed if kind not in torch.serialization.get_safe_globals()]
    try:
        with torch.serialization.safe_globals(new):
            # Only files in the zip format, which torch writes since 1.6, can be mapped. Older files are read whole.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # damaged bytes can make the unpickler raise any exception
        raise _corrupt(path, error) from error


def _read_pickle(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a state dict, or those of the `state_dict` beside what Lightning saves besides.

    The names of the latter begin with `state_dict.`.
    """
    content = read_pickle(path)
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = {f"state_dict.{name}": value for name, value in content["state_dict"].items()}
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    ):
        raise CheckpointError(f"{path} holds no state dict; expected tensors by name")
    return content


def _corrupt(path: Path, error: Exception) -> CheckpointError:
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as unreadable:
        return CheckpointError(f"{path} cannot be read ({unreadable.strerror}); check its permissions")
    if start.startswith(LFS_POINTER):
        return CheckpointError(f"{path} is a Git LFS pointer, not the weights; run `git lfs pull` in its folder")
    if foreign := _FOREIGN_CLASS.search(str(error)):
        return CheckpointError(
            f"{path} is unsafe: its pickle calls for {foreign[1]}, which would run code. If you trust it, "
            "load it where that is installed, and save it again with tensors, numbers, strings, lists and dicts only."
        )
    below = _UNPICKLER_REASON.search(str(error))
    reason = below[1] if below else str(error).strip().split("\n")[0]
    return CheckpointError(f"{path} is truncated, corrupt or unsafe ({type(error).__name__}: {reason}); fetch it again")


_READERS: Final[dict[str, Callable[[Path], dict[str, Tensor]]]] = {
    SAFETENSORS: _read_safetensors,
    PICKLE: _read_pickle,
}
_ADAPTER_WEIGHTS: Final[dict[str, Callable[[Path], dict[str, Tensor]]]] = {
    "adapter_model.safetensors": _read_safetensors,
    "adapter_model.bin": _read_pickle,
}
