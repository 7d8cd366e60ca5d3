"""The names of a RoBERTa's weights in fairseq, and the names of the same weights in transformers.

A layer of fairseq's TransformerEncoder with `--encoder-normalize-before` is the same as a layer of
RoBERTa-PreLayerNorm. Its `final_layer_norm` comes before the feed-forward part. A name below that ends with neither
`.weight` nor `.bias` is the name of a module.

Source: models/roberta/model.py, models/transformer/transformer_encoder.py and modules/transformer_layer.py of fairseq
0.12.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Final

from rpln_model.base import BASE_MODEL_PREFIX

BODY: Final = "encoder.sentence_encoder"
WORDS: Final = f"{BODY}.embed_tokens.weight"
POSITIONS: Final = f"{BODY}.embed_positions.weight"
PROJECTION: Final = "encoder.lm_head.weight"

_AFFINE: Final = ("weight", "bias")

_LAYER: Final = {
    "self_attn.q_proj": "attention.self.query",
    "self_attn.k_proj": "attention.self.key",
    "self_attn.v_proj": "attention.self.value",
    "self_attn.out_proj": "attention.output.dense",
    "self_attn_layer_norm": "attention.LayerNorm",
    "fc1": "intermediate.dense",
    "final_layer_norm": "intermediate.LayerNorm",
    "fc2": "output.dense",
}

_OUTSIDE: Final = {
    f"{BODY}.layernorm_embedding": f"{BASE_MODEL_PREFIX}.embeddings.LayerNorm",
    f"{BODY}.layer_norm": f"{BASE_MODEL_PREFIX}.LayerNorm",
}

_TABLES: Final = {
    WORDS: f"{BASE_MODEL_PREFIX}.embeddings.word_embeddings.weight",
    POSITIONS: f"{BASE_MODEL_PREFIX}.embeddings.position_embeddings.weight",
}

LM_HEAD: Final = {
    "encoder.lm_head.dense.weight": "lm_head.dense.weight",
    "encoder.lm_head.dense.bias": "lm_head.dense.bias",
    "encoder.lm_head.layer_norm.weight": "lm_head.layer_norm.weight",
    "encoder.lm_head.layer_norm.bias": "lm_head.layer_norm.bias",
    PROJECTION: "lm_head.decoder.weight",
    "encoder.lm_head.bias": "lm_head.bias",
}
"""The names of the masked-LM head. Its projection is the table of words, under a second name, or a table of its own."""

_CLASSIFIER: Final = ("dense", "out_proj")

# How names of older versions are changed, as in the method `upgrade_state_dict_named` of fairseq's model.
_OLDER: Final = (
    (re.compile(r"^decoder\."), "encoder."),
    (re.compile(r"\.emb_layer_norm\."), ".layernorm_embedding."),
)
# A number for the version of the module's layout, which is not a weight.
_NO_WEIGHTS: Final = frozenset({f"{BODY}.version"})

_LAYER_NUMBER: Final = re.compile(rf"{re.escape(BODY)}\.layers\.(\d+)\.")
_HEAD_NAME: Final = re.compile(r"classification_heads\.([^.]+)\.")


def current_name(name: str) -> str | None:
    """Return the name in fairseq 0.12 of what any version calls `name`, or None if it is not a weight."""
    for pattern, replacement in _OLDER:
        name = pattern.sub(replacement, name)
    return None if name in _NO_WEIGHTS else name


def layer_count(names: Mapping[str, object]) -> int:
    """Return the number of layers that have weights among `names`."""
    return len({match[1] for name in names if (match := _LAYER_NUMBER.match(name))})


def head_names(names: Mapping[str, object]) -> list[str]:
    """Return the names of the classification heads whose weights are among `names`, in the order they appear in."""
    return list(dict.fromkeys(match[1] for name in names if (match := _HEAD_NAME.match(name))))


def body_names(layers: int) -> dict[str, str]:
    """Return transformers' name for fairseq's name of each weight outside the heads, for at least one layer."""
    return _TABLES | dict(_both(_OUTSIDE)) | dict(_layer_names(max(1, layers)))


def classifier_names(head: str) -> dict[str, str]:
    """Return transformers' name for fairseq's name of each weight of a classification head."""
    return dict(_both({f"classification_heads.{head}.{module}": f"classifier.{module}" for module in _CLASSIFIER}))


def _layer_names(layers: int) -> Iterator[tuple[str, str]]:
    for layer in range(layers):
        theirs, ours = f"{BODY}.layers.{layer}", f"{BASE_MODEL_PREFIX}.encoder.layer.{layer}"
        yield from _both({f"{theirs}.{module}": f"{ours}.{_LAYER[module]}" for module in _LAYER})


def _both(modules: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for theirs, ours in modules.items():
        for kind in _AFFINE:
            yield f"{theirs}.{kind}", f"{ours}.{kind}"
