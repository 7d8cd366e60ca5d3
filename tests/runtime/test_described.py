"""What manifests, sessions, pipelines and generators show of themselves, compared with what was opened."""

import dataclasses
import html
import pickle
import re
from collections.abc import Callable
from typing import Any

from rpln_runtime import generator, load, pipeline
from rpln_runtime.described import Described
from rpln_runtime.manifest import Manifest, Sentences, read_manifest
from tests.runtime.bundles import Bundle
from tests.runtime.decoders import DecoderBundle


def facts_of(shown: Described) -> dict[str, str]:
    """Return the facts that a terminal shows, after comparing them with those of a notebook."""
    title, *lines = repr(shown).splitlines()
    facts = dict(re.split(r"  +", line.strip(), maxsplit=1) for line in lines)
    page = shown._repr_html_()
    cells = [html.unescape(cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", page)]
    assert title == type(shown).__name__
    assert f"<caption>{title}</caption>" in page
    assert dict(zip(cells[::2], cells[1::2], strict=True)) == facts == shown.described()
    return facts


def test_a_session(bundle_of: Callable[..., Bundle]) -> None:
    folder = bundle_of("token-classification").folder
    session = load(folder, provider="cpu")
    facts = facts_of(session)
    file = session.graph.path_for("cpu")
    assert (folder / file).is_file()
    assert facts["graph"] == f"{file}, variant full"
    assert facts["provider"] == "cpu"
    assert facts["inputs"].startswith("input_ids int64 [batch, sequence], attention_mask int64 ")
    assert f"sequence from 1 to {session.manifest.axes['sequence'].maximum}" in facts["limits"]


def test_a_pipeline(bundle_of: Callable[..., Bundle]) -> None:
    tag = pipeline(bundle_of("token-classification").folder, aggregation_strategy="simple", batch_size=5)
    facts = facts_of(tag)
    assert facts["task"] == "token-classification"
    assert facts["options"].startswith("aggregation_strategy='simple', ")
    assert facts["limits"] == f"texts of at most {tag.session.manifest.usable_length} tokens, 5 rows in a batch"


def test_a_pipeline_of_sentences_says_what_its_graph_does_and_where_texts_are_cut(
    bundle_of: Callable[..., Bundle],
) -> None:
    opened = pipeline(bundle_of("feature-extraction").folder)
    sentences = Sentences(poolings=("mean",), max_length=7, prompts={}, default_prompt=None)
    opened.session.manifest = dataclasses.replace(opened.session.manifest, sentences=sentences)
    facts = facts_of(opened)
    assert facts["graph"].endswith(".onnx, which makes the vectors of texts by itself (mean)")
    assert facts["limits"].startswith("texts of at most 7 tokens, ")
    assert facts_of(opened.session.manifest)["limits"] == "texts of at most 7 tokens"


def test_a_generator(causal_lm: DecoderBundle) -> None:
    facts = facts_of(generator(causal_lm.folder, max_new_tokens=3, do_sample=True, seed=1))
    assert (facts["task"], facts["new text"]) == ("text-generation", "continues a prompt")
    assert facts["options"] == "max_new_tokens=3, do_sample=True, seed=1"
    assert facts["provider"] == "cpu"


def test_a_manifest(bundle_of: Callable[..., Bundle]) -> None:
    folder = bundle_of("token-classification").folder
    manifest = read_manifest(folder)
    facts = facts_of(manifest)
    largest = max((path for path in folder.iterdir() if path.name != "rpln.json"), key=lambda path: path.stat().st_size)
    assert facts["task"] == f"token-classification, {len(manifest.labels)} labels"
    assert f"the largest is {largest.name}, {largest.stat().st_size / 1e6:,.1f} MB" in facts["files"]
    assert len(repr(manifest).splitlines()) == 9


def test_what_users_wrote_is_no_markup(bundle_of: Callable[..., Bundle]) -> None:
    manifest = read_manifest(bundle_of("token-classification").folder)
    hostile = dataclasses.replace(manifest, source=dataclasses.replace(manifest.source, name="<b>&'\""))
    assert "<b>" not in hostile._repr_html_()
    assert facts_of(hostile)["checkpoint"] == "<b>&'\""


def test_a_manifest_from_elsewhere_can_be_shown(bundle_of: Callable[..., Bundle]) -> None:
    manifest = read_manifest(bundle_of("token-classification").folder)
    damaged: list[dict[str, Any]] = [
        {},
        {"comparisons": 3},
        {"comparisons": []},
        {"comparisons": [None, {"difference": "x", "cases": "x"}]},
    ]
    for validation in damaged:
        shown = facts_of(dataclasses.replace(manifest, validation=validation, files=()))
        assert shown["files"] == "0 files, 0.0 MB, and rpln.json"
        assert "PyTorch" in shown["proven"]


def test_a_manifest_is_a_dataclass_as_before(bundle_of: Callable[..., Bundle]) -> None:
    manifest = read_manifest(bundle_of("token-classification").folder)
    copied = pickle.loads(pickle.dumps(manifest))  # noqa: S301 # made here
    assert isinstance(copied, Manifest)
    assert copied == manifest
    assert dataclasses.replace(manifest, task="fill-mask") != manifest
    assert not hasattr(manifest, "__dict__")
