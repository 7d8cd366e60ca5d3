"""Makes the masks that attention adds to scores or multiplies probabilities with, once for each forward pass.

`rpln_model.layers` explains the suffixes of tensor names. An additive mask holds 0 for a key that may be attended to,
and the lowest finite value of the dtype for one that may not. If a query may attend to no key at all, its softmax is
then uniform instead of NaN, as in transformers.
"""

import torch
from torch import Tensor

from rpln_model.errors import ModelInputError


def self_attention_mask(
    attention_mask: Tensor | None, *, hidden_BTD: Tensor, past_length: int, is_decoder: bool
) -> Tensor | None:
    """Return the additive mask over T queries and S keys, or None if nothing is masked.

    It can be broadcast to (batch, heads, T, S). To an `attention_mask` (batch, S) a decoder adds the causal mask; one
    of shape (batch, T, S) is taken as it is. Values between 0 and 1 mask a key in part, as in transformers.
    """
    if attention_mask is not None and attention_mask.dim() == 3:
        return _additive(attention_mask[:, None], hidden_BTD)
    if attention_mask is not None and attention_mask.dim() != 2:
        raise ModelInputError(
            f"attention_mask has {attention_mask.dim()} dimensions; expected (batch, sequence) "
            "or (batch, sequence, sequence)"
        )
    queries = hidden_BTD.shape[1]
    if not is_decoder:
        return None if attention_mask is None else _additive(attention_mask[:, None, None], hidden_BTD)
    if attention_mask is None:
        return _additive(_causal(queries, past_length + queries, hidden_BTD), hidden_BTD)
    causal_TS = _causal(queries, attention_mask.shape[-1], hidden_BTD)
    return _additive(attention_mask[:, None, None] * causal_TS.to(attention_mask.dtype), hidden_BTD)


def cross_attention_mask(attention_mask: Tensor | None, *, hidden_BTD: Tensor) -> Tensor | None:
    """Return the additive mask for a mask (batch, S) or (batch, T, S) over an encoder's tokens, or None for None."""
    if attention_mask is None:
        return None
    if attention_mask.dim() not in (2, 3):
        raise ModelInputError(
            f"encoder_attention_mask has {attention_mask.dim()} dimensions; expected (batch, encoder_sequence) "
            "or (batch, sequence, encoder_sequence)"
        )
    return _additive(
        attention_mask[:, None] if attention_mask.dim() == 3 else attention_mask[:, None, None], hidden_BTD
    )


def head_masks(head_mask: Tensor | None, *, layers: int, dtype: torch.dtype) -> list[Tensor | None]:
    """Return for each layer the factors of its heads, (1, heads, 1, 1), of a mask (heads,) or (layers, heads)."""
    if head_mask is None:
        return [None] * layers
    if head_mask.dim() not in (1, 2):
        raise ModelInputError(f"head_mask has {head_mask.dim()} dimensions; expected (heads,) or (layers, heads)")
    if head_mask.dim() == 2 and head_mask.shape[0] != layers:
        raise ModelInputError(f"head_mask is for {head_mask.shape[0]} layers; this model has {layers}")
    factors_LH = head_mask.to(dtype).expand(layers, -1)
    return [factors_LH[layer][None, :, None, None] for layer in range(layers)]


def _causal(queries: int, keys: int, like: Tensor) -> Tensor:
    """Return which keys each query may see: itself and those before it. The queries are the last of the keys."""
    key_S = torch.arange(keys, device=like.device)
    query_T = torch.arange(queries, device=like.device) + (keys - queries)
    return key_S <= query_T[:, None]


def _additive(keep: Tensor, like: Tensor) -> Tensor:
    return (1.0 - keep.to(like.dtype)) * torch.finfo(like.dtype).min
