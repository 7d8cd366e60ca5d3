"""One vector for a text: its tokens' hidden states are pooled, and layers follow, as in sentence-transformers.

Suffixes: B batch, T tokens of a text, D hidden size, E embedding size.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn

from rpln_model.base import RobertaPreLayerNormPreTrainedModel
from rpln_model.encoder import RobertaPreLayerNormModel


class SentenceEncoder(RobertaPreLayerNormPreTrainedModel):
    """A network whose output is one vector for each text, for which it shares the weights of `network`.

    Attributes:
        embedding_size: the number of values of a vector.
    """

    def __init__(
        self,
        network: RobertaPreLayerNormModel,
        *,
        poolings: Sequence[str],
        layers: Sequence[nn.Module] = (),
        embedding_size: int | None = None,
    ) -> None:
        """Add a head to `network`.

        Args:
            network: the network.
            poolings: rows of POOLINGS. The vectors of several poolings are joined.
            layers: what the pooled vectors, (batch, len(poolings) * hidden size), go through.
            embedding_size: how many values of the result are kept; None keeps all.
        """
        super().__init__(network.config)
        self.roberta_prelayernorm = network
        self.poolings = tuple(poolings)
        self.layers = nn.ModuleList(layers)
        sizes = [layer.out_features for layer in layers if isinstance(layer, Dense)]
        whole = sizes[-1] if sizes else len(poolings) * network.config.hidden_size
        self.embedding_size = min(whole, embedding_size or whole)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **inputs: Any,
    ) -> dict[str, Any]:
        """Return the outputs of the network and `sentence_embedding`, (batch, embedding size).

        `inputs` are further inputs of the network. `attention_mask` has to be given.
        """
        assert attention_mask is not None
        outputs = self.roberta_prelayernorm(input_ids, attention_mask=attention_mask, **inputs)
        pooled = [POOLINGS[name](outputs.last_hidden_state, attention_mask) for name in self.poolings]
        embedding_BE = torch.cat(pooled, dim=-1) if len(pooled) > 1 else pooled[0]
        for layer in self.layers:
            embedding_BE = layer(embedding_BE)
        return {**outputs, "sentence_embedding": embedding_BE[:, : self.embedding_size]}


class Dense(nn.Module):
    """A linear layer with an activation and, if `residual` says so, its input added to the result.

    An input of another size than the output goes through a linear layer of its own for that.
    """

    def __init__(
        self, in_features: int, out_features: int, *, bias: bool, activation: nn.Module, residual: bool = False
    ) -> None:
        super().__init__()
        self.out_features = out_features
        self.linear = nn.Linear(in_features, out_features, bias=bias)
        self.activation = activation
        self.adds_input = residual
        if residual and in_features != out_features:
            self.residual = nn.Linear(in_features, out_features, bias=False)

    def forward(self, x_BE: Tensor) -> Tensor:
        """Return the vectors of `out_features` values."""
        y_BE: Tensor = self.activation(self.linear(x_BE))
        if not self.adds_input:
            return y_BE
        return y_BE + (self.residual(x_BE) if hasattr(self, "residual") else x_BE)


class Normalize(nn.Module):
    """A layer that divides each vector by its length. A vector of zeros stays as it is."""

    def forward(self, x_BE: Tensor) -> Tensor:
        """Return vectors of length 1.

        torch's `normalize` divides by at least 1e-12, which fp16 rounds to 0.
        """
        length_B1 = torch.linalg.vector_norm(x_BE, dim=-1, keepdim=True)
        return x_BE / torch.where(length_B1 == 0, 1.0, length_B1)


def _weighted(weights_BT: Tensor, x_BTD: Tensor) -> Tensor:
    """Return the sum of the hidden states, (batch, hidden size), each times its weight.

    It is a product of matrices: products add up in fp32 in every precision, and padding takes no part in it.
    """
    return (weights_BT.to(x_BTD.dtype).unsqueeze(1) @ x_BTD).squeeze(1)


def _count(mask_BT: Tensor) -> Tensor:
    """Return the number of real tokens of each text, (batch, 1), at least 1."""
    return mask_BT.sum(dim=1, keepdim=True).clamp(min=1)


def _cls(x_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    return _weighted(mask_BT * (mask_BT.cumsum(dim=1) == 1), x_BTD)


def _last(x_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    return _weighted(mask_BT * (mask_BT.cumsum(dim=1) == mask_BT.sum(dim=1, keepdim=True)), x_BTD)


def _max(x_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    lowest = torch.finfo(torch.float32).min
    largest_BD = torch.where(mask_BT.unsqueeze(-1) == 0, lowest, x_BTD).amax(dim=1)
    return torch.where(mask_BT.sum(dim=1, keepdim=True) == 0, 0.0, largest_BD)


def _mean(x_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    return _weighted(mask_BT.to(x_BTD.dtype) / _count(mask_BT).to(x_BTD.dtype), x_BTD)


def _mean_sqrt_len(x_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    return _weighted(mask_BT.to(x_BTD.dtype) / _count(mask_BT).to(x_BTD.dtype).sqrt(), x_BTD)


def _weighted_mean(x_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    begun_BT = (mask_BT.cumsum(dim=1) > 0).to(mask_BT.dtype)
    places_BT = mask_BT * begun_BT.cumsum(dim=1)
    return _weighted(places_BT.to(x_BTD.dtype) / _count(places_BT).to(x_BTD.dtype), x_BTD)


POOLINGS: Final[dict[str, Callable[[Tensor, Tensor], Tensor]]] = {
    "cls": _cls,
    "max": _max,
    "mean": _mean,
    "mean_sqrt_len_tokens": _mean_sqrt_len,
    "weightedmean": _weighted_mean,
    "lasttoken": _last,
}
"""The functions that pool hidden states (B, T, D) to (B, D), by sentence-transformers' names.

They take the hidden states and the attention mask, int64 (B, T). A text without a real token gets zeros. `cls` is the
first real token, `weightedmean` a mean in which the n-th token from the first real one has the weight n.
"""
