"""The base class of all RoBERTa-PreLayerNorm models. It can prune heads, which transformers 5 no longer can."""

from transformers import RobertaPreLayerNormConfig

from rpln_model.config import check_config, heads_by_layer, pruned_heads
from rpln_model.network import Network

BASE_MODEL_PREFIX = "roberta_prelayernorm"


class RobertaPreLayerNormPreTrainedModel(Network):
    """The base class of all models of this architecture: the bare `RobertaPreLayerNormModel`, and those with a head."""

    config: RobertaPreLayerNormConfig
    config_class = RobertaPreLayerNormConfig
    config_types = (RobertaPreLayerNormConfig,)
    base_model_prefix = BASE_MODEL_PREFIX
    _no_split_modules = ["Embeddings", "Attention"]  # noqa: RUF012 - the library's attributes

    def __init__(self, config: RobertaPreLayerNormConfig) -> None:
        check_config(config)
        super().__init__(config)

    def prune_heads(self, heads_to_prune: dict[int, list[int]]) -> None:
        """Remove attention heads. `heads_to_prune` maps a layer to its heads, numbered as before any pruning.

        Layer -1 is the last layer. The heads are recorded in the config's `pruned_heads`, so that a saved model is
        loaded with the same shape. Cross-attention is not pruned. Raises ConfigError if a layer or a head does not
        exist, or if a layer would keep no head.
        """
        heads = heads_by_layer(heads_to_prune, layers=self.config.num_hidden_layers)
        self.base_model.encoder.prune_heads(heads)
        recorded = pruned_heads(self.config)
        for layer, gone in heads.items():
            recorded[layer] = recorded.get(layer, set()) | gone
        vars(self.config)["pruned_heads"] = {layer: sorted(gone) for layer, gone in recorded.items()}
