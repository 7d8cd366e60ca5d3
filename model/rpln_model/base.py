"""What every model of this package can do: initialise, tie, prune, resize, load and save."""

from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, cast, overload

import torch
from torch import Tensor, nn
from transformers import RobertaPreLayerNormConfig

from rpln_model.checkpoints import BASE_MODEL_PREFIX, LoadingInfo, Shared, load_config, load_model, save_model
from rpln_model.config import check_config, pruned_heads, updated_config
from rpln_model.weights import local_folder


class RobertaPreLayerNormPreTrainedModel(nn.Module):
    """A network with a configuration. Subclasses build their modules and end `__init__` with `finish_init`."""

    base_model_prefix = BASE_MODEL_PREFIX
    # What `from_pretrained` hands to the constructor rather than to the config.
    constructor_options: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: RobertaPreLayerNormConfig) -> None:
        check_config(config)
        super().__init__()
        self.config = config

    @property
    def base_model(self) -> Any:
        """The `RobertaPreLayerNormModel` inside, or this model where it is one."""
        return getattr(self, BASE_MODEL_PREFIX, self)

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
        """Give every parameter its initial value, then join what is shared. A base model inside has done its own."""
        own = [child for child in self.children() if not isinstance(child, RobertaPreLayerNormPreTrainedModel)]
        for module in (module for child in own for module in child.modules()):
            for name, _ in module.named_parameters(recurse=False):
                self.init_parameter(module, name)
        self.tie_weights()

    @torch.no_grad()
    def init_parameter(self, module: nn.Module, name: str) -> None:
        """Normal with deviation `initializer_range`, but 0 for biases and padding rows, 1 for LayerNorm's factors."""
        parameter = cast(Tensor, getattr(module, name))
        if name == "bias":
            parameter.zero_()
        elif isinstance(module, nn.LayerNorm):
            parameter.fill_(1.0)
        else:
            parameter.normal_(0.0, self.config.initializer_range)
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            parameter[module.padding_idx].zero_()

    # -- embeddings ----------------------------------------------------------------------------------------------

    def get_input_embeddings(self) -> nn.Embedding:
        """The table of word embeddings."""
        return cast(nn.Embedding, self.base_model.get_input_embeddings())

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the table of word embeddings; `tie_weights` then joins an output projection to it."""
        self.base_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Linear | None:
        """The projection onto the vocabulary, where the model has one."""
        return None

    def shared_names(self) -> tuple[Shared, ...]:
        """The parameters that have two names in the state dict."""
        return ()

    def tie_weights(self) -> None:
        """Make one parameter of those that `shared_names` lists together."""
        for shared in self.shared_names():
            path, _, name = shared.alias.rpartition(".")
            setattr(self.get_submodule(path), name, self.get_parameter(shared.name))

    def resize_token_embeddings(self, new_num_tokens: int) -> nn.Embedding:
        """Cut or extend the vocabulary, in an output projection too. New rows are the mean of the old ones."""
        old = self.get_input_embeddings()
        new = nn.Embedding(new_num_tokens, old.embedding_dim, padding_idx=old.padding_idx, device="meta")
        new.weight = resized(old.weight, new_num_tokens)
        self.set_input_embeddings(new)
        self.config.vocab_size = new_num_tokens
        self.tie_weights()
        return new

    def prune_heads(self, heads_to_prune: dict[int, list[int]]) -> None:
        """Remove heads of the self-attention: layer -> heads, numbered as in the unpruned model.

        The config's `pruned_heads` records them, so that a saved model loads with the same shape.

        Raises:
            ConfigError: no such layer or head, or none would be left in a layer.
        """
        heads = {layer: set(gone) for layer, gone in heads_to_prune.items()}
        self.base_model.encoder.prune_heads(heads)
        recorded = pruned_heads(self.config)
        for layer, gone in heads.items():
            recorded[layer] = recorded.get(layer, set()) | gone
        self.config.pruned_heads = {layer: sorted(gone) for layer, gone in recorded.items()}

    # -- checkpoints ---------------------------------------------------------------------------------------------

    @overload
    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        config: RobertaPreLayerNormConfig | None = ...,
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
        config: RobertaPreLayerNormConfig | None = ...,
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
        config: RobertaPreLayerNormConfig | None = None,
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
            config = load_config(folder)
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


def resized(parameter: Tensor, rows: int) -> nn.Parameter:
    """The first `rows` rows of a parameter, or all of them with their mean behind, repeated."""
    old = parameter.detach()
    mean = old.mean(dim=0, keepdim=True).expand(max(0, rows - old.shape[0]), *old.shape[1:])
    return nn.Parameter(torch.cat([old[:rows], mean]), requires_grad=parameter.requires_grad)
