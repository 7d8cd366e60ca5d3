"""What every RoBERTa-PreLayerNorm model can do beside loading and saving: initialise, resize, prune."""

from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import RobertaPreLayerNormConfig

from rpln_model.checkpoints import BASE_MODEL_PREFIX
from rpln_model.config import check_config, pruned_heads
from rpln_model.network import Network


class RobertaPreLayerNormPreTrainedModel(Network[RobertaPreLayerNormConfig]):
    """A network of this architecture, which may hold a `RobertaPreLayerNormModel` under the base model's name."""

    base_model_prefix = BASE_MODEL_PREFIX
    config_classes = (RobertaPreLayerNormConfig,)

    def __init__(self, config: RobertaPreLayerNormConfig) -> None:
        check_config(config)
        super().__init__(config)

    @property
    def base_model(self) -> Any:
        """The `RobertaPreLayerNormModel` inside, or this model where it is one."""
        return getattr(self, BASE_MODEL_PREFIX, self)

    def renamed(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """A checkpoint's tensors under this model's names: a head's in the base model and the other way round."""
        prefix = f"{BASE_MODEL_PREFIX}."
        in_checkpoint = any(name.startswith(prefix) for name in weights)
        in_model = hasattr(self, BASE_MODEL_PREFIX)
        if in_checkpoint and not in_model:
            weights = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
        if in_model and not in_checkpoint:
            weights = {f"{prefix}{name}": tensor for name, tensor in weights.items()}
        return weights

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


def resized(parameter: Tensor, rows: int) -> nn.Parameter:
    """The first `rows` rows of a parameter, or all of them with their mean behind, repeated."""
    old = parameter.detach()
    mean = old.mean(dim=0, keepdim=True).expand(max(0, rows - old.shape[0]), *old.shape[1:])
    return nn.Parameter(torch.cat([old[:rows], mean]), requires_grad=parameter.requires_grad)
