"""Checkpoints with outlying channels: blind int8 decides otherwise, and the export finds what to do about it."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from rpln_export import pipeline
from rpln_export.bundle.report import QuantizedFormReport
from rpln_export.plan.defaults import DEFAULTS
from rpln_export.plan.export_plan import make_plan
from rpln_runtime import pipeline as answering
from rpln_runtime.manifest import read_manifest
from tests.export.conftest import share_traces

TASK = "token-classification"
ATTENTIONS = {"encoder.layer.1.attention", "encoder.layer.2.attention"}
"""The attentions of the checkpoint that have outlying channels."""
CHANNELS = [3, 40, 77]
FACTOR = 300.0
SENTENCE = "The old man walked to the boat, and his crew watched the stars."


@pytest.fixture(scope="module", autouse=True)
def _one_trace_for_all() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        share_traces(monkeypatch, {})
        yield


@pytest.fixture(scope="module")
def outlying(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the embedded tagger, some of whose values are 300 times as large and weighted with a 300th.

    In fp32 the network computes the same. Rounded to steps of one size, values of the other channels are lost.
    """
    folder = tmp_path_factory.mktemp("checkpoint") / "outlying"
    shutil.copytree(DEFAULTS[TASK].folder, folder)
    weights = load_file(folder / "model.safetensors")
    for block in ATTENTIONS:
        path = f"roberta_prelayernorm.{block}"
        for part in ("weight", "bias"):
            weights[f"{path}.self.value.{part}"][CHANNELS] *= FACTOR
        weights[f"{path}.output.dense.weight"][:, CHANNELS] /= FACTOR
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def exported(checkpoint: Path, folder: Path, precision: str, agreement: float) -> QuantizedFormReport:
    """Export the checkpoint, and return how its first form was quantized."""
    plan = make_plan(str(checkpoint), precision=precision, min_agreement=agreement, destination=folder)
    quantization = pipeline.export(plan).quantization
    assert quantization is not None
    return quantization.forms[0]


def tags(folder: Path) -> list[str]:
    return [token["entity"] for token in answering(folder, provider="cpu", threads=1)(SENTENCE)]


def test_the_gate_keeps_the_outlying_attention_in_fp32(outlying: Path, tmp_path: Path) -> None:
    form = exported(outlying, tmp_path / "out", "int8-dynamic", 0.99)
    blind, *_, last = form.curve
    agreements = [row.agreement for row in (blind, last)]

    assert agreements[0] is not None
    assert agreements[0] < 0.99 <= (agreements[1] or 0)
    assert form.holds
    assert 0 < len(last.kept) <= 2
    assert set(last.kept) <= ATTENTIONS
    # They cost more than all others.
    assert {block for block, _ in sorted(form.costs.items(), key=lambda row: -row[1])[:2]} == ATTENTIONS
    manifest = read_manifest(tmp_path / "out")
    assert manifest.passes["QuantizeDynamically"] == 24 - 4 * len(last.kept)
    assert tags(tmp_path / "out")[:3] == ["DET", "ADJ", "NOUN"]


def test_ranges_that_clip_the_outliers_save_a_static_graph(outlying: Path, tmp_path: Path) -> None:
    form = exported(outlying, tmp_path / "out", "int8-static", 0.99)
    by_ranges = {row.way: row for row in form.tried}

    assert (by_ranges["min-max"].agreement or 0) < 0.99 <= (form.curve[-1].agreement or 0)
    assert form.curve[-1].way == min(by_ranges, key=lambda name: by_ranges[name].rms) != "min-max"
    assert form.holds


def test_equalized_channels_save_it_with_whole_ranges(outlying: Path, tmp_path: Path) -> None:
    form = exported(outlying, tmp_path / "out", "int8-static", 0.99)
    by_way = {row.way: row for row in form.tried}

    assert by_way["min-max, equalized"].rms < by_way["min-max"].rms / 2
    assert "equalized" in form.curve[-1].way
    assert form.curve[-1].kept == ()
    passes = read_manifest(tmp_path / "out").passes
    # Four layers: two LayerNorms and one attention's result in each.
    assert passes["EqualizeChannels"] == 3 * 4
