"""Every task end to end: what the thin runtime computes from the bundle is what transformers computes.

Nothing here is the exporter's own judgement: other inputs, transformers' model as the reference, other arithmetic.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import transformers
from onnx.reference import ReferenceEvaluator

from rpln_runtime import load
from rpln_runtime.tasks import TASKS
from tests.export.checkpoints import ENCODER_TASKS, PAIRS, USABLE_LENGTH
from tests.export.conftest import Export

Feeds = dict[str, np.ndarray]
Outputs = Mapping[str, np.ndarray]

# The words: fp32 1e-4; fp16 and bf16 2e-2 of the output's range and 99.5% of equal argmaxes.
FP32_DIFFERENCE = 1e-4
HALF_DIFFERENCE = 2e-2
HALF_AGREEMENT = 0.995

PAD = 1
FIRST_TOKEN = frozenset({"text-classification", "multiple-choice"})


def reference(export: Export, task: str, **config_fields: Any) -> Any:
    architecture = getattr(transformers, TASKS[task].architecture)
    return architecture.from_pretrained(
        export.checkpoint, attn_implementation="eager", dtype=torch.float32, **config_fields
    ).eval()


def batches(task: str, vocab_size: int) -> list[Feeds]:
    """Right and left padding, holes, one token, and the longest sequence; a choices axis where the task has one."""
    rng = np.random.default_rng(3)
    masks = [
        np.array([[1] * 9, [1] * 4 + [0] * 5, [1] + [0] * 8]),
        np.array([[1] * 9, [0] * 5 + [1] * 4, [0] * 8 + [1]]),
        np.array([[1, 0, 1, 1, 0, 1], [0, 1, 1, 0, 1, 1]]),
        np.ones((1, 1), dtype=int),
        np.ones((2, USABLE_LENGTH), dtype=int),
    ]
    made = []
    for mask in masks:
        shape = (len(mask), 4, mask.shape[1]) if task == "multiple-choice" else mask.shape
        keep = np.broadcast_to(mask[:, None] if len(shape) == 3 else mask, shape).astype(np.int64)
        ids = np.where(keep == 1, rng.integers(2, vocab_size, shape), PAD)
        types = {"token_type_ids": rng.integers(0, 2, shape)} if task in PAIRS else {}
        made.append({"input_ids": ids, "attention_mask": keep, **types})
    return made


def eager(model: Any, feeds: Feeds) -> Outputs:
    with torch.inference_mode():
        outputs = model(**{name: torch.from_numpy(array.copy()) for name, array in feeds.items()})
    return {name: value.numpy() for name, value in outputs.items() if isinstance(value, torch.Tensor)}


def at_real_tokens(task: str, values: np.ndarray, feeds: Feeds) -> np.ndarray:
    """Rows of an output that belong to real tokens; all of it for tasks that read the first token."""
    real: np.ndarray = values if task in FIRST_TOKEN else values[feeds["attention_mask"] == 1]
    return real


def decisions(task: str, values: np.ndarray, feeds: Feeds) -> list[int]:
    """The winner of every token, row or item; nothing is decided by features."""
    if task == "feature-extraction":
        return []
    if task == "question-answering":
        values = np.where(feeds["attention_mask"] == 1, values, -np.inf)
    else:
        values = at_real_tokens(task, values, feeds)
    winners: list[int] = values.argmax(-1).tolist()
    return winners


@pytest.mark.parametrize("task", ENCODER_TASKS)
def test_an_fp32_bundle_equals_transformers(exported: Callable[..., Export], task: str) -> None:
    export = exported(task)
    session, model = load(export.folder), reference(export, task)
    for feeds in batches(task, model.config.vocab_size):
        expected, found = eager(model, feeds), session.run(feeds)
        assert set(found) == {tensor.name for tensor in TASKS[task].outputs}
        for name, values in found.items():
            assert values.dtype == np.float32
            difference = at_real_tokens(task, values - expected[name], feeds)
            assert np.abs(difference).max() <= FP32_DIFFERENCE


@pytest.mark.parametrize("task", ENCODER_TASKS)
def test_an_fp16_bundle_equals_transformers_within_its_precision(exported: Callable[..., Export], task: str) -> None:
    export = exported(task, "--fp16")
    session, model = load(export.folder), reference(export, task)
    assert_close_in_half_precision(task, model, session.run)
    floats = {
        tensor.data_type
        for tensor in onnx.load(export.folder / "model.onnx").graph.initializer
        if tensor.data_type in {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16} and np.prod(tensor.dims) > 1
    }
    assert floats == {onnx.TensorProto.FLOAT16}


def test_a_bf16_bundle_equals_transformers_within_its_precision(exported: Callable[..., Export]) -> None:
    # onnx's own evaluator, since ONNX Runtime has no bf16 kernels on CPU.
    task = "text-classification"
    export = exported(task, "--bf16")
    evaluator = ReferenceEvaluator(str(export.folder / "model.onnx"))
    names = [output.name for output in evaluator.proto_.graph.output]
    assert_close_in_half_precision(
        task,
        reference(export, task),
        lambda feeds: dict(zip(names, evaluator.run(None, feeds), strict=True)),
    )


def assert_close_in_half_precision(task: str, model: Any, run: Callable[[Feeds], Outputs]) -> None:
    agreeing: list[bool] = []
    for feeds in batches(task, model.config.vocab_size):
        expected, found = eager(model, feeds), run(feeds)
        for name, values in found.items():
            real = at_real_tokens(task, expected[name], feeds)
            difference = np.abs(at_real_tokens(task, values, feeds) - real).max() / np.abs(real).max()
            # Rounding must show: a graph that computes in fp32 would prove nothing.
            assert 1e-6 < difference <= HALF_DIFFERENCE
            pairs = zip(decisions(task, expected[name], feeds), decisions(task, values, feeds), strict=True)
            agreeing.extend(one == other for one, other in pairs)
    assert sum(agreeing) >= HALF_AGREEMENT * len(agreeing)


def test_a_decoder_made_of_a_masked_lm_checkpoint_sees_only_what_is_before(exported: Callable[..., Export]) -> None:
    export = exported("fill-mask", "--task", "text-generation", "--is-decoder")
    session, model = load(export.folder), reference(export, "text-generation", is_decoder=True)
    for feeds in batches("text-generation", model.config.vocab_size):
        difference = np.abs(session.run(feeds)["logits"] - eager(model, feeds)["logits"])
        assert difference[feeds["attention_mask"] == 1].max() <= FP32_DIFFERENCE
    ids = np.arange(5, 15)[None]
    other = np.where(np.arange(10) < 6, ids, ids + 20)
    ones = np.ones_like(ids)
    first, second = (session.run({"input_ids": tokens, "attention_mask": ones})["logits"] for tokens in (ids, other))
    np.testing.assert_allclose(first[:, :6], second[:, :6], atol=1e-5)
    assert np.abs(first[:, 6:] - second[:, 6:]).max() > 0.1
