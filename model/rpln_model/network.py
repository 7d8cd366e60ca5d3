"""What every model of this package can do, of one network or of two: initialise, tie, load and save."""

from functools import partial
from pathlib import Path
from typing import ClassVar, Generic, Literal, Self, cast, overload

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from rpln_model.checkpoints import LoadingInfo, Shared, load_model, read_config, save_model
from rpln_model.config import Config, updated_config
from rpln_model.weights import local_folder


class Network(nn.Module, Generic[Config]):
    """Modules with a configuration. Subclasses build their modules and end `__init__` with `finish_init`."""

    config_classes: ClassVar[tuple[type[PretrainedConfig], ...]]
    # What `from_pretrained` hands to the constructor rather than to the config.
    constructor_options: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def num_parameters(self, *, only_trainable: bool = False) -> int:
        """How many numbers the weights are; shared ones count once."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad or not only_trainable)

    # -- initial values ------------------------------------------------------------------------------------------

    def finish_init(self) -> None:
        """Give every parameter its initial value, then join what is shared. A network inside has done its own."""
        own = [child for child in self.children() if not isinstance(child, Network)]
        for module in (module for child in own for module in child.modules()):
            for name, _ in module.named_parameters(recurse=False):
                self.init_parameter(module, name)
        self.tie_weights()

    def init_parameter(self, module: nn.Module, name: str) -> None:
        """Give a module's parameter its initial value."""
        raise NotImplementedError

    # -- names of weights ----------------------------------------------------------------------------------------

    def shared_names(self) -> tuple[Shared, ...]:
        """The parameters that have two names in the state dict."""
        return ()

    def tie_weights(self) -> None:
        """Make one parameter of those that `shared_names` lists together."""
        for shared in self.shared_names():
            path, _, name = shared.alias.rpartition(".")
            setattr(self.get_submodule(path), name, self.get_parameter(shared.name))

    def renamed(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """A checkpoint's tensors under this model's names."""
        return weights

    # -- checkpoints ---------------------------------------------------------------------------------------------

    @overload
    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        config: Config | None = ...,
        revision: str | None = ...,
        dtype: torch.dtype | None = ...,
        ignore_mismatched_sizes: bool = ...,
        output_loading_info: Literal[False] = ...,
        **config_overrides: object,
    ) -> Self: ...

    @overload
    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        config: Config | None = ...,
        revision: str | None = ...,
        dtype: torch.dtype | None = ...,
        ignore_mismatched_sizes: bool = ...,
        output_loading_info: Literal[True],
        **config_overrides: object,
    ) -> tuple[Self, LoadingInfo]: ...

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        config: Config | None = None,
        revision: str | None = None,
        dtype: torch.dtype | None = None,
        ignore_mismatched_sizes: bool = False,
        output_loading_info: bool = False,
        **config_overrides: object,
    ) -> Self | tuple[Self, LoadingInfo]:
        """The model of a checkpoint, in eval mode.

        Args:
            source: a folder, or an id on the hub (fetched with huggingface_hub, which heeds HF_HUB_OFFLINE).
            config: used instead of the checkpoint's own.
            revision: branch, tag or commit on the hub.
            dtype: of the weights, float32 when not given, whatever the file holds.
            ignore_mismatched_sizes: initialise weights whose shape differs instead of refusing the checkpoint.
            output_loading_info: also return which weights were missing, unexpected or mismatched.
            config_overrides: config fields to set first, such as `num_labels=3` or `is_decoder=True`, and
                `add_pooling_layer` for the base model.

        Raises:
            CheckpointError: nothing to load, or something broken; the message says what to do.
            ConfigError: the configuration describes no network of this architecture.
            TypeError: an override is no field of the config.
        """
        folder = local_folder(source, revision=revision)
        if config is None:
            config = cast(Config, read_config(folder, *cls.config_classes))
            config.name_or_path = str(source)
        options = {name: config_overrides.pop(name) for name in cls.constructor_options if name in config_overrides}
        config = updated_config(config, config_overrides)
        model, info = load_model(
            partial(cls, config, **options),
            folder,
            dtype=dtype or torch.float32,
            ignore_mismatched_sizes=ignore_mismatched_sizes,
        )
        return (model, info) if output_loading_info else model

    def save_pretrained(self, save_directory: str | Path, *, max_shard_size: int | str = "5GB") -> None:
        """Write `config.json` and safetensors, in several files above `max_shard_size` bytes (or "5GB").

        Raises:
            CheckpointError: the folder cannot be written, or the config holds a callable.
        """
        save_model(self, save_directory, max_shard_size=max_shard_size)
