"""The base class of all models of this package: PreTrainedModel of transformers with safer loading and saving."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, Self, overload

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel
from transformers.utils.import_utils import is_peft_available

from rpln_model.checkpoints import (
    LoadingInfo,
    check_generation_config,
    read_config,
    refuse_callable_activation,
    refuse_mismatched,
    refuse_unmatched,
)
from rpln_model.errors import CheckpointError
from rpln_model.weights import (
    ADAPTER,
    CONFIG,
    GENERATION_CONFIG,
    INDEX_SUFFIX,
    OLD_BUFFERS,
    SAFETENSORS,
    local_folder,
    named_as_in_network,
    read_files,
)

# Options that make transformers read files other than those that are checked here, or fetch files by itself.
_UNCHECKED: Final = (
    "cache_dir", "force_download", "gguf_file", "local_files_only", "proxies", "subfolder", "token", "variant"
)  # fmt: skip

# Files of an older save that would be loaded instead of the new weights.
_WEIGHTS: Final = (SAFETENSORS, SAFETENSORS + INDEX_SUFFIX, "model-*.safetensors")


Location = str | os.PathLike[str] | None
"""What `from_pretrained` loads: a folder, an id on the hub, or None if the weights are given as `state_dict`."""


class Network(PreTrainedModel):
    """A model that loads, saves, ties, resizes and trains by the methods of transformers' PreTrainedModel.

    Loading refuses what transformers loads as random weights with a warning: a checkpoint of another architecture, or
    one without a single weight of the model. It says what is wrong with a damaged file. Saving replaces an older
    checkpoint in the folder only when the new one is complete.
    """

    config_types: ClassVar[tuple[type[PretrainedConfig], ...]]
    supports_gradient_checkpointing = True
    _keys_to_ignore_on_load_unexpected = list(OLD_BUFFERS)  # noqa: RUF012 - the library's attribute

    if TYPE_CHECKING:  # transformers gives these no types, or wider ones
        base_model: Any

        def post_init(self) -> None: ...  # noqa: D102
        def eval(self) -> Self: ...  # noqa: D102
        def half(self) -> Self: ...  # noqa: D102
        def get_output_embeddings(self) -> nn.Linear | None: ...  # noqa: D102

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        """Return False, because attention is written out.

        transformers would search the source of the class for its own attention interface.
        """
        return False

    @classmethod
    def is_custom_code(cls) -> bool:
        """Return False, as transformers' own classes do.

        If it is true and a tied weight is in the checkpoint under neither of its names, transformers 5.23 leaves it
        without memory.
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
        """Return the model in a folder or on the hub, in eval mode. All options of transformers' method are accepted.

        Weights are float32 unless `dtype` says otherwise; "auto" keeps the dtype of the file, which is the default of
        transformers 5. With `output_loading_info` a dict is returned beside the model, whose `missing_keys`,
        `unexpected_keys` and `mismatched_keys` hold names of weights.

        Raises CheckpointError if there is no checkpoint, or if it is broken, of another architecture or of other
        shapes; the message says what to do. Raises ConfigError if the configuration describes no network of this
        architecture.
        """
        model, info = cls.load_with_info(pretrained_model_name_or_path, *args, **options)
        return (model, info) if output_loading_info else model

    @classmethod
    def load_with_info(cls, source: Location, *args: Any, **options: Any) -> tuple[Self, LoadingInfo]:
        """Do what `from_pretrained` does, and always return the loading info, too.

        With the option `ignore_adapter`, the weights in the folder are loaded without the peft adapter beside them.
        """
        ignore_adapter = options.pop("ignore_adapter", False)
        dtype = options.pop("dtype", None) or options.pop("torch_dtype", None) or torch.float32
        options |= {"dtype": dtype, "output_loading_info": True}
        load: Any = super().from_pretrained
        folder = folder_to_check(source, options, ignore_adapter=ignore_adapter)
        if folder is None:
            model, info = load(source, *args, **options)
            return model, info
        if options.get("config") is None:
            read_config(folder, *cls.config_types)
        if cls.can_generate():
            check_generation_config(folder)
        in_files = read_files(folder)
        found = named_as_in_network(in_files, folder=folder)
        if found.keys() == in_files.keys() and not ignore_adapter:
            model, info = load(folder, *args, **options | {"ignore_mismatched_sizes": True})
        else:
            model, info = cls._load_tensors(found, folder, *args, **options | {"ignore_mismatched_sizes": True})
        model.config.name_or_path = model.name_or_path = str(source)
        refuse_unmatched(model, info, found, folder=folder)
        if not options.get("ignore_mismatched_sizes"):
            refuse_mismatched(model, info, found, folder=folder)
        return model, info

    @classmethod
    def _load_tensors(
        cls, tensors: dict[str, Tensor], folder: Path, *args: Any, **options: Any
    ) -> tuple[Self, LoadingInfo]:
        """Do what transformers' `from_pretrained` does with `folder`, but for the weights, which are given by name."""
        options.pop("revision", None)
        if options.get("config") is None:
            kind: Any = cls.config_class
            config, options = kind.from_pretrained(folder, return_unused_kwargs=True, **options)
            options["config"] = config
        load: Any = super().from_pretrained
        model, info = load(None, *args, state_dict=tensors, **options)
        if cls.can_generate() and (folder / GENERATION_CONFIG).is_file():
            model.generation_config = GenerationConfig.from_pretrained(folder)
        elif cls.can_generate() and not hasattr(model.config, "num_beams"):
            # transformers 5 leaves such fields of an old config.json out of its config, and reads the file again.
            model.generation_config = GenerationConfig.from_pretrained(
                folder, config_file_name=CONFIG, _from_model_config=True
            )
        return model, info

    def save_pretrained(self, save_directory: str | os.PathLike[str], **options: Any) -> None:  # type: ignore[override]
        """Write config.json and safetensors to a folder, with the options of transformers' method.

        transformers writes each file in place. If the disk is full, neither the old nor the new checkpoint remains, and
        a `model.safetensors` of an older save is later loaded instead of the new shards. Here all files are complete
        before they get their names, and weights of an older save are removed. The next save removes what
        a killed save has left.

        Raises CheckpointError if the folder cannot be written, or if the config holds a function.
        """
        from rpln_runtime.replacing import partial_folder

        refuse_callable_activation(self.config)
        folder = Path(save_directory)
        if options.get("push_to_hub"):
            options.setdefault("repo_id", folder.name)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with partial_folder(folder / CONFIG) as partial:
                super().save_pretrained(partial.new, **options)
                _publish(partial.new, folder)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"cannot write a checkpoint to {folder}: {error}") from error


def folder_to_check(source: Location, options: Mapping[str, Any], *, ignore_adapter: bool = False) -> Path | None:
    """Return the folder of the checkpoint that `from_pretrained` reads with these options, fetched if need be.

    Returns None if there is no folder (a state dict is given), if an option makes transformers fetch or choose other
    files, and for the folder of an adapter, which names the checkpoint that it was trained on, unless `ignore_adapter`
    is set. Raises CheckpointError if neither a folder nor a model on the hub or in its cache has this name, and for an
    adapter without peft.
    """
    if source is None or any(options.get(name) for name in _UNCHECKED):
        return None
    folder = local_folder(source, revision=options.get("revision"))
    if ignore_adapter or not (folder / ADAPTER).is_file():
        return folder
    if not is_peft_available():
        raise CheckpointError(
            f"{folder} holds an adapter ({ADAPTER}), which peft reads, but peft is not installed; without it, the "
            "network would be the one before the training. Run: pip install peft"
        )
    return None


def _publish(source: Path, folder: Path) -> None:
    new = {path.name for path in source.iterdir()}
    # The index and the config describe the other files, so they are replaced last.
    for name in sorted(new, key=lambda name: (name.endswith(".json"), name)):
        (source / name).replace(folder / name)
    weights = {path.name for pattern in _WEIGHTS for path in folder.glob(pattern)}
    if weights & new:
        for name in weights - new:
            (folder / name).unlink()
