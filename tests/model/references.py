"""Tiny models of transformers with telling weights, the same models of this package, inputs, and comparisons.

No weight has a value that hides a mistake: LayerNorms scale and shift, biases are not zero, epsilon is large enough to
matter, and no two sizes are equal.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import RobertaPreLayerNormConfig

from rpln_model import HEADS
from rpln_model.base import RobertaPreLayerNormPreTrainedModel
from rpln_model.config import updated_config
from tests.model.lines import TRANSFORMERS_4

VOCABULARY, HIDDEN, HEAD_COUNT, LAYERS, LENGTH, PAD = 43, 24, 4, 2, 7, 1
OUTPUT_TOLERANCE, GRADIENT_TOLERANCE = 1e-5, 1e-4

Inputs = dict[str, Any]

# An encoder-decoder consists of two networks, has another configuration, and has tests of its own.
SINGLE_HEADS = {name: head for name, head in HEADS.items() if issubclass(head, RobertaPreLayerNormPreTrainedModel)}


def tiny_config(**fields: object) -> RobertaPreLayerNormConfig:
    config = RobertaPreLayerNormConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEAD_COUNT,
        intermediate_size=37,
        max_position_embeddings=19,
        type_vocab_size=3,
        pad_token_id=PAD,
        layer_norm_eps=1e-3,
    )
    # This is public only as a keyword of the constructor, whose type differs between transformers 4.57 and 5.
    config._attn_implementation = "eager"
    return updated_config(config, fields)


def reference_model(architecture: str, config: RobertaPreLayerNormConfig, *, seed: int = 0) -> Any:
    """Return transformers' own model in eval mode."""
    model = getattr(transformers, architecture)(config).eval()
    shake(model, seed=seed)
    return model


def shake(model: nn.Module, *, seed: int) -> None:
    """Give every parameter values of order one that no initialisation gives."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() == 2:
                parameter.copy_(0.2 * noise)
            else:
                parameter.copy_(0.3 * noise + (1.0 if name.endswith("weight") else 0.0))


def counterpart(reference: Any) -> RobertaPreLayerNormPreTrainedModel:
    """Return this package's model with the configuration and weights of the reference; all names have to agree."""
    model = SINGLE_HEADS[type(reference).__name__](copy.deepcopy(reference.config))
    model.load_state_dict(reference.state_dict(), strict=True)
    model.train(reference.training)
    return model


def pair(architecture: str, **fields: object) -> tuple[Any, RobertaPreLayerNormPreTrainedModel]:
    reference = reference_model(architecture, tiny_config(**fields))
    return reference, counterpart(reference)


def own_model(architecture: str, *, seed: int = 0, **fields: object) -> RobertaPreLayerNormPreTrainedModel:
    """Return a model of this package with telling weights, for tests that transformers' model cannot judge."""
    model = SINGLE_HEADS[architecture](tiny_config(**fields)).eval()
    shake(model, seed=seed)
    return model


def names(info: dict[str, Any], kind: str) -> set[str]:
    """Return the names under a key of a loading info. transformers 5 adds both shapes to each mismatched one."""
    return {entry if isinstance(entry, str) else entry[0] for entry in info[kind]}


def token_shape(architecture: str, *, batch: int = 3) -> tuple[int, ...]:
    return (batch, 2, LENGTH) if architecture.endswith("MultipleChoice") else (batch, LENGTH)


def random_ids(*shape: int, high: int = VOCABULARY, seed: int = 1) -> Tensor:
    """Return random ids, none of which is padding."""
    return torch.randint(PAD + 1, high, shape, generator=torch.Generator().manual_seed(seed))


def random_values(*shape: int, seed: int = 2) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _right(mask: Tensor) -> None:
    mask[0, ..., -3:] = 0
    mask[-1, ..., -1:] = 0


def _left(mask: Tensor) -> None:
    mask[0, ..., :3] = 0
    mask[-1, ..., :1] = 0


def _holes(mask: Tensor) -> None:
    mask[0, ..., 1::2] = 0
    mask[-1, ..., 2:4] = 0


def _all_padding(mask: Tensor) -> None:
    mask[0] = 0


MASKS: dict[str, Callable[[Tensor], None]] = {
    "right": _right,
    "left": _left,
    "holes": _holes,
    "all_padding": _all_padding,
}


def padding_mask(kind: str, shape: tuple[int, ...]) -> Tensor:
    mask = torch.ones(shape, dtype=torch.long)
    MASKS[kind](mask)
    return mask


def labels_for(architecture: str, *, seed: int = 3) -> Inputs:
    """Return targets by the names that the head gives them, some of them ignored where that is possible."""
    batch, length = 3, LENGTH
    generator = torch.Generator().manual_seed(seed)

    def integers(high: int, *shape: int) -> Tensor:
        return torch.randint(0, high, shape, generator=generator)

    per_token = {"MaskedLM": VOCABULARY, "CausalLM": VOCABULARY, "TokenClassification": 2}
    head = architecture.removeprefix("RobertaPreLayerNormFor")
    if head in per_token:
        labels = integers(per_token[head], batch, length)
        labels[0, 1:3] = -100
        return {"labels": labels}
    if head == "QuestionAnswering":
        ends = integers(length, batch)
        ends[0] = length + 5
        return {"start_positions": integers(length, batch), "end_positions": ends}
    if head in ("SequenceClassification", "MultipleChoice"):
        return {"labels": integers(2, batch)}
    return {}


def flat(outputs: Any) -> dict[str, Tensor]:
    """Return every tensor of a model's outputs by name, with those of caches by layer."""
    result: dict[str, Tensor] = {}
    for name, value in dict(outputs).items():
        if isinstance(value, Tensor):
            result[name] = value
        elif name == "past_key_values":
            result.update(cached(value))
        else:
            result.update({f"{name}.{index}": tensor for index, tensor in enumerate(value)})
    return result


def cached(past: Any) -> dict[str, Tensor]:
    parts = {"self": getattr(past, "self_attention_cache", past), "cross": getattr(past, "cross_attention_cache", None)}
    return {
        f"past.{part}.{index}.{kind}": getattr(layer, kind)
        for part, cache in parts.items()
        for index, layer in enumerate(cache.layers if cache is not None else ())
        for kind in ("keys", "values")
        if getattr(layer, kind) is not None
    }


def assert_equal_outputs(ours: Any, theirs: Any, *, final_norm: nn.Module) -> None:
    """Check that both outputs have the same tensors, equal to 1e-5."""
    got, expected = flat(ours), flat(theirs)
    last = f"hidden_states.{LAYERS}"
    if not TRANSFORMERS_4 and last in got:
        # transformers 5 returns the output of the final LayerNorm here; 4.57 documents its input.
        got[last] = final_norm(got[last])
    assert got.keys() == expected.keys()
    for name in expected:
        assert got[name].shape == expected[name].shape, name
        assert difference(got[name], expected[name]) <= OUTPUT_TOLERANCE, name


def assert_equal_gradients(ours: nn.Module, theirs: nn.Module) -> None:
    """Check that every parameter has the same gradient to 1e-4, or none on either side."""
    got, expected = dict(ours.named_parameters()), dict(theirs.named_parameters())
    assert {name for name in got if got[name].grad is not None} == {
        name for name in expected if name in got and expected[name].grad is not None
    }
    compared = 0
    for name, parameter in got.items():
        if parameter.grad is not None:
            assert difference(parameter.grad, expected[name].grad) <= GRADIENT_TOLERANCE, name
            compared += 1
    assert compared > 10 * LAYERS


def difference(ours: Tensor, theirs: Tensor | None) -> float:
    """Return the largest absolute difference, or infinity if either side is not finite."""
    assert theirs is not None
    gap = (ours.double() - theirs.double()).abs().max().item()
    return gap if gap == gap else float("inf")  # noqa: PLR0124 - NaN is what differs from itself
