"""Exports of decoders in which OpenVINO is the fastest: it is proven and chosen, and writes what ONNX Runtime does."""

from pathlib import Path

import pytest

from rpln_export import pipeline
from rpln_export.forms import candidates
from rpln_export.forms.candidates import Entry
from rpln_export.forms.speeds import REFERENCE, MeasuredSpeed, Speed
from rpln_export.plan.defaults import DEFAULTS
from rpln_export.plan.export_plan import make_plan
from rpln_runtime import generator

pytest.importorskip("openvino", reason="OpenVINO is not installed (extra [openvino])")

PROMPT = "the old man walked to the boat in atlanta"
NEW_TOKENS = 8
"""Greedy texts part for good at the first other word, which rounding may choose."""


def measured(*arguments: object, **_: object) -> MeasuredSpeed:
    """Return what a machine would measure where OpenVINO is twice as fast."""
    (entry,) = (one for one in arguments if isinstance(one, Entry))
    found = Speed(median=2.0, low=2.0, high=2.0) if entry.provider == "openvino" else REFERENCE
    return MeasuredSpeed(processor=found, elapsed=found)


@pytest.mark.usefixtures("measuring")
@pytest.mark.parametrize(
    ("task", "precision"),
    [
        ("text-generation", "fp32"),
        ("text-generation", "int8-weight-only"),
        ("text-generation", "int4"),
        ("text2text-generation", "int4"),
    ],
)
def test_openvino_is_proven_and_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str, precision: str
) -> None:
    monkeypatch.setattr(candidates, "_speed", measured)
    folder = tmp_path / "bundle"
    pipeline.export(make_plan(str(DEFAULTS[task].folder), task=task, precision=precision, destination=folder))

    generate, cpu = (generator(folder, provider=name, threads=1, max_new_tokens=NEW_TOKENS) for name in (None, "cpu"))
    assert generate._decoder.step.provider == "openvino"
    assert generate(PROMPT) == cpu(PROMPT)
