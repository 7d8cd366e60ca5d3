"""How positions are counted, against what transformers computes."""

from typing import Any

import numpy as np
import torch
from transformers.models.roberta_prelayernorm import modeling_roberta_prelayernorm as reference

from rpln_runtime.generation.positions import FORWARD, TRANSFORMERS_GENERATE, positions_from_scheme
from rpln_runtime.manifest import Generation

MASK = np.array([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [0, 1, 1, 0, 1], [0, 0, 0, 0, 1]])


def generation(**fields: Any) -> Generation:
    ids: dict[str, Any] = {"pad_token_id": 3, "bos_token_id": 0, "eos_token_ids": (2,), "start_token_id": None}
    return Generation(**{**ids, "first_position": 4, "pad_position": 3, **fields})


def test_forward_counts_as_transformers_own_forward() -> None:
    embeddings = reference.RobertaPreLayerNormEmbeddings
    make: Any = getattr(reference, "create_position_ids_from_input_ids", None)
    make = make or embeddings.create_position_ids_from_input_ids
    ids = torch.from_numpy(np.where(MASK, 7, 3))
    assert positions_from_scheme(FORWARD, generation()).of(MASK).tolist() == make(ids, 3).tolist()


def test_generate_counts_from_0() -> None:
    positions = positions_from_scheme(TRANSFORMERS_GENERATE, generation()).of(MASK)
    assert positions.tolist() == [[0, 0, 0, 1, 2], [0, 1, 2, 3, 4], [0, 0, 1, 0, 2], [0, 0, 0, 0, 0]]


def test_a_decoder_that_an_encoder_feeds_counts_as_forward_in_both() -> None:
    fed = generation(start_token_id=0)
    assert positions_from_scheme(TRANSFORMERS_GENERATE, fed) == positions_from_scheme(FORWARD, fed)
