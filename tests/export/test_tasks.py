"""Every task end to end: the runtime computes from the bundle what transformers computes from the checkpoint."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from rpln_runtime import load
from tests.export.checkpoints import ENCODER_TASKS
from tests.export.conftest import Export
from tests.export.references import assert_close, assert_equal, reference


@pytest.mark.parametrize("task", ENCODER_TASKS)
def test_an_fp32_bundle_equals_transformers(exported: Callable[..., Export], task: str) -> None:
    export = exported(task)
    assert_equal(reference(export.checkpoint, task), task, load(export.folder).run)


@pytest.mark.parametrize("task", ENCODER_TASKS)
def test_an_fp16_bundle_equals_transformers_within_its_precision(exported: Callable[..., Export], task: str) -> None:
    export = exported(task, "--fp16")
    assert_close(reference(export.checkpoint, task), task, load(export.folder).run)
    floats = {
        tensor.data_type
        for tensor in onnx.load(export.folder / "model.onnx").graph.initializer
        if tensor.data_type in {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16} and np.prod(tensor.dims) > 1
    }
    assert floats == {onnx.TensorProto.FLOAT16}


def test_a_bf16_bundle_equals_transformers_within_its_precision(exported: Callable[..., Export]) -> None:
    # onnx's own evaluator runs the graph, because ONNX Runtime has no bf16 kernels on the CPU.
    export = exported("text-classification", "--bf16")
    evaluator = ReferenceEvaluator(str(export.folder / "model.onnx"))
    assert_close(
        reference(export.checkpoint, "text-classification"),
        "text-classification",
        lambda feeds: dict(zip(["logits"], evaluator.run(None, feeds), strict=True)),
    )


def test_a_decoder_made_of_a_masked_lm_checkpoint_sees_only_what_is_before(exported: Callable[..., Export]) -> None:
    export = exported("fill-mask", "--task=text-generation", "--is-decoder", "--variants=full", "--logits=all")
    session = load(export.folder)
    assert_equal(reference(export.checkpoint, "text-generation", is_decoder=True), "text-generation", session.run)
    ids = np.arange(5, 15)[None]
    other = np.where(np.arange(10) < 6, ids, ids + 20)
    ones = np.ones_like(ids)
    first, second = (session.run({"input_ids": tokens, "attention_mask": ones})["logits"] for tokens in (ids, other))
    np.testing.assert_allclose(first[:, :6], second[:, :6], atol=1e-5)
    assert np.abs(first[:, 6:] - second[:, 6:]).max() > 0.1
