"""Bundles of the previous version still load, and give the answers that they gave then.

They were made by rpln-export 0.1.0, before its packages were regrouped. `answers.json` holds what its runtime answered.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from rpln_export.compare.inspection import inspect_bundle
from rpln_runtime import generator, load, pipeline
from tests.runtime.comparison import assert_same

BUNDLES = Path(__file__).parents[1] / "data" / "bundles-0.1.0"
EXPECTED: dict[str, Any] = json.loads((BUNDLES / "answers.json").read_text(encoding="utf-8"))


def test_a_tagger_answers_as_it_did() -> None:
    tag = pipeline(BUNDLES / "token-classification")
    assert_same([tag(text) for text in EXPECTED["texts"]], EXPECTED["token-classification"])


def test_a_decoder_goes_on_as_it_did() -> None:
    generate = generator(BUNDLES / "text-generation", max_new_tokens=8)
    assert [generate(text) for text in EXPECTED["texts"]] == EXPECTED["text-generation"]


@pytest.mark.parametrize("task", ["token-classification", "text-generation"])
def test_every_graph_opens_in_every_form(task: str) -> None:
    for rewritten in (True, False):
        load(BUNDLES / task, rewritten=rewritten)
    assert inspect_bundle(BUNDLES / task).manifest.task == task
