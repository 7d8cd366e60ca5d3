"""Compares bundles with transformers' own models, with inputs, arithmetic and tolerances of the tests.

Nothing here comes from the exporter, which must not judge itself.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from rpln_runtime.tasks import TASKS

Feeds = dict[str, np.ndarray]
Outputs = Mapping[str, np.ndarray]

# The requirement: 1e-4 in fp32; in fp16 and bf16 2e-2 of the output's range, and 99.5% of argmaxes equal.
FP32_DIFFERENCE = 1e-4
HALF_DIFFERENCE = 2e-2
HALF_AGREEMENT = 0.995

PAD = 1
FIRST_TOKEN = frozenset({"text-classification", "multiple-choice"})


def reference(checkpoint: Path, task: str, **config_fields: Any) -> Any:
    architecture = getattr(transformers, TASKS[task].architecture)
    return architecture.from_pretrained(
        checkpoint, attn_implementation="eager", dtype=torch.float32, **config_fields
    ).eval()


def assert_equal(model: Any, task: str, run: Callable[[Feeds], Outputs]) -> None:
    """Check that `run` computes what `model` computes, to the precision of fp32."""
    for feeds in batches(task, model.config):
        expected, found = eager(model, feeds), run(feeds)
        assert set(found) == {tensor.name for tensor in TASKS[task].outputs}
        for name, values in found.items():
            assert values.dtype == np.float32
            assert values.shape == expected[name].shape
            difference = at_real_tokens(task, values - expected[name], feeds)
            assert np.abs(difference).max() <= FP32_DIFFERENCE


def assert_close(model: Any, task: str, run: Callable[[Feeds], Outputs]) -> None:
    """Check that `run` computes what `model` computes, to the precision of fp16 or bf16 and not to that of fp32."""
    for tensor in TASKS[task].outputs:
        errors: list[float] = []
        reaches: list[float] = []
        agreeing: list[bool] = []
        for feeds in batches(task, model.config):
            expected, found = eager(model, feeds)[tensor.name], run(feeds)[tensor.name]
            errors.append(np.abs(at_real_tokens(task, found - expected, feeds)).max())
            reaches.append(np.abs(at_real_tokens(task, expected, feeds)).max())
            pairs = zip(decisions(task, expected, feeds), decisions(task, found, feeds), strict=True)
            agreeing.extend(one == other for one, other in pairs)
        # The graph must not compute in fp32, so its rounding has to show.
        assert 1e-5 < max(errors) / max(reaches) <= HALF_DIFFERENCE
        assert sum(agreeing) >= HALF_AGREEMENT * len(agreeing)


def batches(task: str, config: Any) -> list[Feeds]:
    """Return batches with padding on either side, with holes, of one token, and of the longest texts."""
    rng = np.random.default_rng(3)
    masks = [
        np.array([[1] * 9, [1] * 4 + [0] * 5, [1] + [0] * 8]),
        np.array([[1] * 9, [0] * 5 + [1] * 4, [0] * 8 + [1]]),
        np.array([[1, 0, 1, 1, 0, 1], [0, 1, 1, 0, 1, 1]]),
        np.ones((1, 1), dtype=int),
        np.ones((2, config.max_position_embeddings - PAD - 1), dtype=int),
    ]
    made = []
    for mask in masks:
        shape = (len(mask), 4, mask.shape[1]) if task == "multiple-choice" else mask.shape
        keep = np.broadcast_to(mask[:, None] if len(shape) == 3 else mask, shape).astype(np.int64)
        ids = np.where(keep == 1, rng.integers(2, config.vocab_size, shape), PAD)
        types = {"token_type_ids": rng.integers(0, 2, shape)} if config.type_vocab_size > 1 else {}
        made.append({"input_ids": ids, "attention_mask": keep, **types})
    return made


def eager(model: Any, feeds: Feeds) -> Outputs:
    with torch.inference_mode():
        outputs = model(**{name: torch.from_numpy(array.copy()) for name, array in feeds.items()})
    return {name: value.numpy() for name, value in outputs.items() if isinstance(value, torch.Tensor)}


def at_real_tokens(task: str, values: np.ndarray, feeds: Feeds) -> np.ndarray:
    """Return the rows of an output for real tokens, or all of it if the task's head reads the first token."""
    real: np.ndarray = values if task in FIRST_TOKEN else values[feeds["attention_mask"] == 1]
    return real


def decisions(task: str, values: np.ndarray, feeds: Feeds) -> list[int]:
    """Return the index of the largest logit of every token, row or item. Feature vectors decide nothing."""
    if task == "feature-extraction":
        return []
    if task == "question-answering":
        values = np.where(feeds["attention_mask"] == 1, values, -np.inf)
    else:
        values = at_real_tokens(task, values, feeds)
    winners: list[int] = values.argmax(-1).tolist()
    return winners
