"""What every RoBERTa-PreLayerNorm model has in common, and what transformers 5 no longer has: pruned heads."""

from transformers import RobertaPreLayerNormConfig

from rpln_model.config import check_config, heads_by_layer, pruned_heads
from rpln_model.network import Network

BASE_MODEL_PREFIX = "roberta_prelayernorm"


class RobertaPreLayerNormPreTrainedModel(Network):
    """A network of this architecture, which may hold a `RobertaPreLayerNormModel` under the base model's name."""

    config: RobertaPreLayerNormConfig
    config_class = RobertaPreLayerNormConfig
    config_types = (RobertaPreLayerNormConfig,)
    base_model_prefix = BASE_MODEL_PREFIX
    _no_split_modules = ["Embeddings", "Attention"]  # noqa: RUF012 - the library's attributes

    def __init__(self, config: RobertaPreLayerNormConfig) -> None:
        check_config(config)
        super().__init__(config)

    def prune_heads(self, heads_to_prune: dict[int, list[int]]) -> None:
        """Remove heads of the self-attention: layer -> heads, numbered as in the unpruned model; layer -1 is the last.

        The config's `pruned_heads` records them, so that a saved model loads with the same shape.

        Raises:
            ConfigError: no such layer or head, or none would be left in a layer.
        """
        heads = heads_by_layer(heads_to_prune, layers=self.config.num_hidden_layers)
        self.base_model.encoder.prune_heads(heads)
        recorded = pruned_heads(self.config)
        for layer, gone in heads.items():
            recorded[layer] = recorded.get(layer, set()) | gone
        vars(self.config)["pruned_heads"] = {layer: sorted(gone) for layer, gone in recorded.items()}
