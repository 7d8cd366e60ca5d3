"""Bundles of the previous version still load, and give the answers that they gave then.

They were made by rpln-export 0.1.0, before its packages were regrouped. `answers.json` holds what its runtime answered.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rpln_export.compare.inspection import inspect_bundle
from rpln_runtime import generator, load, pipeline
from rpln_runtime.limits import OPTIONAL_FIELDS
from rpln_runtime.manifest import MANIFEST_NAME
from tests.runtime.bundles import Bundle
from tests.runtime.comparison import assert_same

BUNDLES = Path(__file__).parents[1] / "data" / "bundles-0.1.0"
EXPECTED: dict[str, Any] = json.loads((BUNDLES / "answers.json").read_text(encoding="utf-8"))


def test_a_tagger_answers_as_it_did() -> None:
    tag = pipeline(BUNDLES / "token-classification")
    assert_same([tag(text) for text in EXPECTED["texts"]], EXPECTED["token-classification"])


def test_a_decoder_goes_on_as_it_did() -> None:
    generate = generator(BUNDLES / "text-generation", max_new_tokens=8)
    assert [generate(text) for text in EXPECTED["texts"]] == EXPECTED["text-generation"]


def test_a_decoder_takes_the_options_of_today() -> None:
    generate = generator(BUNDLES / "text-generation", max_new_tokens=8)
    text = EXPECTED["texts"][0]
    prompt = generate._tokens_from_text(text)
    ((usual,),) = generate.tokens([prompt])
    often = usual.tokens[1]

    ((other,),) = generate.tokens(
        [prompt], suppress_tokens=[often], bad_words_ids=[[usual.tokens[0]]], min_new_tokens=8
    )
    assert not {often, usual.tokens[0]} & set(other.tokens)
    ((forced,),) = generate.tokens([prompt], forced_eos_token_id=often, no_repeat_ngram_size=1)
    assert forced.tokens[-1] == often


def test_a_bundle_without_the_fields_that_came_later_takes_the_options_of_today(
    bundle_of: Callable[..., Bundle], tmp_path: Path
) -> None:
    old = Path(shutil.copytree(bundle_of("feature-extraction").folder, tmp_path / "old"))
    document = json.loads((old / MANIFEST_NAME).read_text(encoding="utf-8"))
    later = OPTIONAL_FIELDS & document.keys()
    assert later >= {"sentences", "token_types", "truncation_side"}
    (old / MANIFEST_NAME).write_text(json.dumps({name: document[name] for name in document.keys() - later}))

    text = EXPECTED["texts"][0]
    vector = pipeline(old, pooling="mean", normalize=True, truncation=True, prompt="a: ")(text)
    (states,) = pipeline(old)(f"a: {text}")
    mean = states.mean(axis=0)
    np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), rtol=0, atol=1e-6)


@pytest.mark.parametrize("task", ["token-classification", "text-generation"])
def test_every_graph_opens_in_every_form(task: str) -> None:
    for rewritten in (True, False):
        load(BUNDLES / task, rewritten=rewritten)
    assert inspect_bundle(BUNDLES / task).manifest.task == task
