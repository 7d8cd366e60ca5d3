"""What every model of this package adds to transformers' PreTrainedModel: checkpoints are checked, and saved whole."""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, Self, overload

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from rpln_model.checkpoints import (
    LoadingInfo,
    check_generation_config,
    read_config,
    refuse_callable_activation,
    refuse_mismatched,
    refuse_unmatched,
)
from rpln_model.errors import CheckpointError
from rpln_model.weights import ADAPTER, INDEX_SUFFIX, OLD_BUFFERS, SAFETENSORS, local_folder, read_weights

# Options with which transformers reads other files than those that are checked here, or fetches them by itself.
_UNCHECKED: Final = (
    "cache_dir", "force_download", "gguf_file", "local_files_only", "proxies", "subfolder", "token", "variant"
)  # fmt: skip

# What an older save may have left in a folder, and a load would take in place of the new weights.
_WEIGHTS: Final = (SAFETENSORS, SAFETENSORS + INDEX_SUFFIX, "model-*.safetensors")


Location = str | os.PathLike[str] | None
"""What `from_pretrained` loads: a folder, an id on the hub, or None where the weights are given as `state_dict`."""


class Network(PreTrainedModel):
    """A model that loads, saves, ties, resizes and trains by the code of transformers.

    Loading and saving add what that code lacks. It loads a checkpoint of another architecture, or one without a single
    weight of the model, as random weights with a warning; here that is an error, as is every damaged file, with its
    reason. A save replaces the older one in its folder only when it is complete.
    """

    config_types: ClassVar[tuple[type[PretrainedConfig], ...]]
    supports_gradient_checkpointing = True
    _keys_to_ignore_on_load_unexpected = list(OLD_BUFFERS)  # noqa: RUF012 - the library's attribute

    if TYPE_CHECKING:  # the library leaves these without types, or with wider ones
        base_model: Any

        def post_init(self) -> None: ...  # noqa: D102
        def eval(self) -> Self: ...  # noqa: D102
        def half(self) -> Self: ...  # noqa: D102
        def get_output_embeddings(self) -> nn.Linear | None: ...  # noqa: D102

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        """False: attention is written out. The library would look for its interface in a class's source."""
        return False

    @classmethod
    def is_custom_code(cls) -> bool:
        """False, as for transformers' own classes.

        Of others, transformers 5.23 takes a tied weight that a checkpoint has under neither name for initialised, and
        leaves it without memory.
        """
        return False

    @overload
    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: Location,
        *args: Any,
        output_loading_info: Literal[False] = ...,
        **options: Any,
    ) -> Self: ...

    @overload
    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Location, *args: Any, output_loading_info: Literal[True], **options: Any
    ) -> tuple[Self, LoadingInfo]: ...

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Location, *args: Any, output_loading_info: bool = False, **options: Any
    ) -> Self | tuple[Self, LoadingInfo]:
        """Return the model of a folder or of an id on the hub, in eval mode; all options of transformers' method work.

        Weights are float32 unless `dtype` says otherwise ("auto": as in the file), which transformers 5 no longer does.
        With `output_loading_info` a dict comes back beside the model, whose `missing_keys`, `unexpected_keys` and
        `mismatched_keys` name weights.

        Raises:
            CheckpointError: there is nothing to load, or it is broken, of another architecture or of other shapes; the
                message says what to do.
            ConfigError: the configuration describes no network of this architecture.
        """
        model, info = cls.load_with_info(pretrained_model_name_or_path, *args, **options)
        return (model, info) if output_loading_info else model

    @classmethod
    def load_with_info(cls, source: Location, *args: Any, **options: Any) -> tuple[Self, LoadingInfo]:
        """Do what `from_pretrained` does, and return the loading info in any case."""
        dtype = options.pop("dtype", None) or options.pop("torch_dtype", None) or torch.float32
        options |= {"dtype": dtype, "output_loading_info": True}
        load: Any = super().from_pretrained
        folder = folder_to_check(source, options)
        if folder is None:
            model, info = load(source, *args, **options)
            return model, info
        if options.get("config") is None:
            read_config(folder, *cls.config_types)
        if cls.can_generate():
            check_generation_config(folder)
        found = read_weights(folder)
        model, info = load(folder, *args, **options | {"ignore_mismatched_sizes": True})
        model.config.name_or_path = model.name_or_path = str(source)
        refuse_unmatched(model, info, found, folder=folder)
        if not options.get("ignore_mismatched_sizes"):
            refuse_mismatched(model, info, found, folder=folder)
        return model, info

    def save_pretrained(self, save_directory: str | os.PathLike[str], **options: Any) -> None:  # type: ignore[override]
        """Write `config.json` and safetensors, as transformers' method does and with its options.

        The library's own method writes file after file in place: a disk that is full leaves neither the old nor the
        new checkpoint, and a `model.safetensors` that lies beside new shards is read instead of them. Here the files
        get their names when all of them are complete, and weights of an older save are removed.

        Raises:
            CheckpointError: the folder cannot be written, or the config holds a callable, which no file can.
        """
        refuse_callable_activation(self.config)
        folder = Path(save_directory)
        if options.get("push_to_hub"):
            options.setdefault("repo_id", folder.name)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".saving-", dir=folder) as temporary:
                super().save_pretrained(temporary, **options)
                _publish(Path(temporary), folder)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"cannot write a checkpoint to {folder}: {error}") from error


def folder_to_check(source: Location, options: Mapping[str, Any]) -> Path | None:
    """The folder of the checkpoint that `from_pretrained` reads with these options, fetched from the hub if need be.

    None where there is none (a state dict), where the library fetches or chooses other files than those that are
    checked here, and for an adapter's folder, which names the checkpoint that it was trained on.

    Raises:
        CheckpointError: no such folder, and no such model on the hub or in its cache.
    """
    if source is None or any(options.get(name) for name in _UNCHECKED):
        return None
    folder = local_folder(source, revision=options.get("revision"))
    return None if (folder / ADAPTER).is_file() else folder


def _publish(source: Path, folder: Path) -> None:
    new = {path.name for path in source.iterdir()}
    # The index and the config name what the other files hold, so that they come last.
    for name in sorted(new, key=lambda name: (name.endswith(".json"), name)):
        (source / name).replace(folder / name)
    weights = {path.name for pattern in _WEIGHTS for path in folder.glob(pattern)}
    if weights & new:
        for name in weights - new:
            (folder / name).unlink()
