"""Calibration data: texts through the checkpoint's own tokenizer, one a batch, as inputs of the graph."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from rpln_export.plan import ExportPlan
from rpln_graphs.stress import Feeds, feeds_from_rows
from rpln_model.base import RobertaPreLayerNormPreTrainedModel
from rpln_model.config import padding_row, usable_length
from rpln_runtime.tasks import Tensor

DEFAULT_TEXTS: Final = Path(__file__).with_name("calibration.txt")


def calibration_feeds(tokenizer: Any, model: RobertaPreLayerNormPreTrainedModel, plan: ExportPlan) -> Iterator[Feeds]:
    """One batch of one row for each line of the plan's texts, or of a small set of prose, numbers, code and URLs."""
    limit = usable_length(plan.config)
    for line in (plan.calibration or DEFAULT_TEXTS).read_text(encoding="utf-8").splitlines():
        ids = np.array(tokenizer(line, truncation=True, max_length=limit)["input_ids"][:limit], dtype=np.int64)
        if ids.size:
            yield _feeds_from_ids(ids, plan.inputs, model)


def _feeds_from_ids(ids: np.ndarray, inputs: Sequence[Tensor], model: RobertaPreLayerNormPreTrainedModel) -> Feeds:
    config = model.config
    sizes = {**config.to_dict(), "batch": 1, "choices": 1, "sequence": ids.size}
    made = {
        "input_ids": lambda: ids,
        "attention_mask": lambda: np.ones_like(ids),
        "token_type_ids": lambda: np.zeros_like(ids),
        "position_ids": lambda: padding_row(config) + 1 + np.arange(ids.size),
        "inputs_embeds": lambda: _embedded(model, ids),
        "head_mask": lambda: np.ones((config.num_hidden_layers, config.num_attention_heads)),
    }
    return feeds_from_rows(inputs, sizes, made)


def _embedded(model: RobertaPreLayerNormPreTrainedModel, ids: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        embedded: np.ndarray = model.base_model.get_input_embeddings()(torch.from_numpy(ids)).numpy()
    return embedded
