"""Fill-mask bundles that give logits for mask tokens only give those of transformers at these tokens."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from click.testing import CliRunner
from numpy.typing import NDArray

from rpln_export.cli import rpln_command
from rpln_runtime import load, pipeline
from rpln_runtime.manifest import Axis
from tests.export.conftest import Export, Sabotaged
from tests.export.references import reference

TASK = "fill-mask"
TEXTS = ("The <mask> is here.", "<mask>", "One <mask>, <mask> and <mask>.", "A rather longer text than others <mask>")
WHICH = pytest.mark.parametrize("which", ["masked", "positions"])


def masked_batch(mask: int) -> dict[str, NDArray[np.int64]]:
    """Return texts with two masks, one and none; the last one is padded."""
    ids = np.array([[0, mask, 9, mask, 2], [0, 8, mask, 7, 2], [0, 12, 2, 1, 1]])
    return {"input_ids": ids, "attention_mask": (ids != 1).astype(np.int64)}


@WHICH
@pytest.mark.parametrize(("precision", "tolerance"), [((), 1e-4), (("--fp16",), 2e-2)])
def test_logits_are_those_of_transformers(
    exported: Callable[..., Export], which: str, precision: tuple[str, ...], tolerance: float
) -> None:
    export = exported(TASK, f"--logits={which}", *precision)
    session = load(export.folder)
    mask = session.manifest.mask_token_id
    assert mask is not None
    feeds = masked_batch(mask)
    expected = expected_logits(export, feeds)
    if which == "positions":
        feeds["masked_positions"] = np.array([[1, 3], [2, 0], [0, 0]])
        found = session.run(feeds)["logits"]
        assert found.shape[:2] == (3, 2)
        found = np.stack([found[0, 0], found[0, 1], found[1, 0]])
    else:
        found = session.run(feeds)["logits"]
    wanted = np.stack([expected[0, 1], expected[0, 3], expected[1, 2]])
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= tolerance * max(1.0, float(np.abs(wanted).max()))


@WHICH
def test_a_pipeline_answers_as_with_all_logits(exported: Callable[..., Export], which: str) -> None:
    every = pipeline(exported(TASK).folder, batch_size=3)(list(TEXTS))
    answers = pipeline(exported(TASK, f"--logits={which}").folder, batch_size=3)(list(TEXTS))
    for ours, theirs in zip(fillings(answers), fillings(every), strict=True):
        assert (ours["token"], ours["sequence"]) == (theirs["token"], theirs["sequence"])
        assert ours["score"] == pytest.approx(theirs["score"], abs=1e-5)


@WHICH
def test_the_last_layer_computes_rows_of_masks(exported: Callable[..., Export], which: str) -> None:
    export = exported(TASK, f"--logits={which}")
    assert load(export.folder).manifest.passes["SelectRows"] == 1
    value = ir.load(export.folder / "model.onnx").graph
    (norm,) = (node for node in value if node.name == "LayerNorm.LayerNormalization")
    assert str(norm.outputs[0].shape)[:-3] == {"masked": "[1,masked_tokens,", "positions": "[batch,masks,"}[which]


@WHICH
def test_the_proof_covers_the_stress_set_and_can_be_repeated(exported: Callable[..., Export], which: str) -> None:
    export = exported(TASK, f"--logits={which}")
    arguments = ["validate", str(export.folder), str(export.checkpoint), "--json"]
    result = CliRunner().invoke(rpln_command, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    (row, *_) = json.loads(result.stdout)
    assert row["cases"] == 46
    assert row["decisions"] > 40


def test_axes_of_masks_may_be_empty(exported: Callable[..., Export]) -> None:
    limits = {which: load(exported(TASK, f"--logits={which}").folder).manifest for which in ("masked", "positions")}
    assert limits["masked"].axes["masked_tokens"] == Axis(minimum=0, maximum=None)
    assert limits["positions"].axes["masks"] == Axis(minimum=0, maximum=limits["positions"].usable_length)


def test_a_graph_that_looks_for_another_token_is_refused(sabotaged: Sabotaged) -> None:
    def look_elsewhere(model: ir.Model) -> None:
        (node,) = (node for node in model.graph if node.op_type == "NonZero")
        equal = node.inputs[0].producer() if node.inputs[0] is not None else None
        assert equal is not None
        equal.op_type = "Greater"

    result = sabotaged(look_elsewhere, TASK, "--logits=masked")
    assert result.exit_code != 0


def expected_logits(export: Export, feeds: dict[str, NDArray[np.int64]]) -> NDArray[Any]:
    """Return transformers' logits of all tokens."""
    with torch.inference_mode():
        outputs = reference(export.checkpoint, TASK)(**{name: torch.from_numpy(ids) for name, ids in feeds.items()})
    logits: NDArray[Any] = outputs.logits.numpy()
    return logits


def fillings(answer: Any) -> list[Any]:
    """Return all fillings of an answer, or of a list of answers, in one list."""
    return [answer] if isinstance(answer, dict) else [filling for item in answer for filling in fillings(item)]
