"""Positions are counted as transformers computes them."""

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


def of_whole(scheme: str, ids: np.ndarray, mask: np.ndarray) -> Any:
    positions = positions_from_scheme(scheme, generation())
    return positions.of(positions.counted(ids, mask)).tolist()


def test_forward_counts_as_transformers_own_forward() -> None:
    embeddings = reference.RobertaPreLayerNormEmbeddings
    make: Any = getattr(reference, "create_position_ids_from_input_ids", None)
    make = make or embeddings.create_position_ids_from_input_ids
    ids = np.where(MASK, 7, 3)
    assert of_whole(FORWARD, ids, MASK) == make(torch.from_numpy(ids), 3).tolist()


def test_a_real_token_with_the_id_of_padding_does_not_count() -> None:
    make: Any = getattr(reference, "create_position_ids_from_input_ids", None)
    make = make or reference.RobertaPreLayerNormEmbeddings.create_position_ids_from_input_ids
    ids = np.array([[3, 7, 3, 8, 9], [7, 8, 3, 3, 9]])
    assert of_whole(FORWARD, ids, np.ones_like(ids)) == make(torch.from_numpy(ids), 3).tolist()


def test_generate_counts_from_0() -> None:
    # Only the mask decides, not the ids.
    found = of_whole(TRANSFORMERS_GENERATE, np.full_like(MASK, 3), MASK)
    assert found == [[0, 0, 0, 1, 2], [0, 1, 2, 3, 4], [0, 0, 1, 0, 2], [0, 0, 0, 0, 0]]


def test_a_decoder_that_an_encoder_feeds_counts_as_forward_in_both() -> None:
    fed = generation(start_token_id=0)
    assert positions_from_scheme(TRANSFORMERS_GENERATE, fed) == positions_from_scheme(FORWARD, fed)
