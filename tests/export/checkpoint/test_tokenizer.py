"""The bundle's tokenizer does what the checkpoint's tokenizer.json says, whichever transformers exports it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from click.testing import CliRunner
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from rpln_export.checkpoint.loading import load_checkpoint
from rpln_export.checkpoint.tokenizer import load_tokenizer, save_tokenizer
from rpln_export.cli import export_command
from rpln_export.errors import PlanError
from rpln_export.plan.defaults import DEFAULTS
from rpln_export.plan.export_plan import make_plan
from rpln_runtime import pipeline
from rpln_runtime.manifest import read_manifest
from tests.cpp.texts import random_texts
from tests.export.checkpoints import make_checkpoint, make_tokenizer

Json = dict[str, Any]
TEXTS = ["The Boat", "  a <mask> B", "an <Entity>.", "12ab 3", "É  ǅ", *random_texts(60, seed=11)]
ENTITY = {"content": "<Entity>", "single_word": False, "lstrip": False, "rstrip": True, "normalized": True}


def template(last_type: int) -> Json:
    """Return a post-processor with a single token between two texts, and a token type for the second one."""
    start, end = ({"SpecialToken": {"id": name, "type_id": 0}} for name in ("<s>", "</s>"))
    first, second = ({"Sequence": {"id": name, "type_id": kind}} for name, kind in (("A", 0), ("B", last_type)))
    tokens = {name: {"id": name, "ids": [number], "tokens": [name]} for name, number in (("<s>", 0), ("</s>", 2))}
    return {
        "type": "TemplateProcessing",
        "single": [start, first, end],
        "pair": [start, first, end, second, {"SpecialToken": {"id": "</s>", "type_id": last_type}}],
        "special_tokens": tokens,
    }


def digits_apart(file: Json) -> None:
    digits = {"type": "Digits", "individual_digits": True}
    file["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [digits, file["pre_tokenizer"]]}


CHANGES: dict[str, tuple[Callable[[Json], object], Json]] = {
    "nothing": (lambda _: None, {}),
    "normalizer": (lambda file: file.update(normalizer={"type": "Lowercase"}), {}),
    "pre_tokenizer": (digits_apart, {}),
    "use_regex": (lambda file: file["pre_tokenizer"].update(use_regex=False), {}),
    "post_processor": (lambda file: file.update(post_processor=template(0)), {}),
    "model": (lambda file: file["model"].update(ignore_merges=True), {}),
    "lstrip": (lambda file: file["added_tokens"][4].update(lstrip=False), {}),
    "added": (lambda file: file["added_tokens"].append({"id": 300, "special": False} | ENTITY), {}),
    "truncation": (lambda file: file.update(truncation=TRUNCATION), {}),
    "no class": (lambda file: file.update(normalizer={"type": "NFKC"}), {"tokenizer_class": "PreTrainedTokenizerFast"}),
}
"""What is altered in tokenizer.json, and in tokenizer_config.json."""
KEPT = {"nothing", "lstrip", "added", "truncation", "no class"}
"""The changes that transformers 5 reads, too."""
TRUNCATION: Json = {"direction": "Left", "max_length": 8, "strategy": "LongestFirst", "stride": 0}


def altered(folder: Path, change: Callable[[Json], object], fields: Json) -> Path:
    """Write a tokenizer to `folder` whose files are altered."""
    if not (folder / "tokenizer.json").exists():
        make_tokenizer(folder)
    file = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    change(file)
    (folder / "tokenizer.json").write_text(json.dumps(file), encoding="utf-8")
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    # transformers 4.57 writes the settings of added tokens here, too.
    config.pop("added_tokens_decoder", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(config | fields), encoding="utf-8")
    return folder


def bundled(checkpoint: Path, folder: Path) -> tuple[Path, tuple[str, ...]]:
    """Return the folder with the tokenizer of a bundle, and what the export says of it."""
    folder.mkdir()
    tokenizer, notes = load_tokenizer(str(checkpoint), revision=None, vocab_size=1000)
    save_tokenizer(tokenizer, folder)
    return folder, notes


def tokens(tokenizer: Tokenizer) -> list[tuple[Any, ...]]:
    tokenizer.no_truncation()
    found = [tokenizer.encode(text, pair) for text in TEXTS for pair in (None, "The Cat")]
    return [(row.ids, row.offsets, row.word_ids, row.sequence_ids) for row in found]


@pytest.mark.parametrize("change", CHANGES)
def test_the_file_counts(tmp_path: Path, change: str) -> None:
    checkpoint = altered(tmp_path / "checkpoint", *CHANGES[change])
    folder, notes = bundled(checkpoint, tmp_path / "bundle")
    expected = tokens(Tokenizer.from_file(str(checkpoint / "tokenizer.json")))
    assert tokens(Tokenizer.from_file(str(folder / "tokenizer.json"))) == expected
    # Whoever loads the bundle with transformers gets the same, in both versions.
    assert tokens(AutoTokenizer.from_pretrained(folder).backend_tokenizer) == expected
    rebuilt = transformers.__version__.startswith("5") and change not in KEPT
    assert bool(notes) == rebuilt
    assert all(change in note or change == "use_regex" for note in notes)


def test_the_ids_of_the_issue(tmp_path: Path) -> None:
    checkpoint = altered(tmp_path / "checkpoint", *CHANGES["normalizer"])
    folder, _ = bundled(checkpoint, tmp_path / "bundle")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert tokenizer.encode("THE BOAT").ids == tokenizer.encode("the boat").ids


@pytest.mark.parametrize("fields", [{"add_prefix_space": True}, {"trim_offsets": False}], ids=str)
def test_what_both_versions_take_from_the_config_counts_and_is_said(tmp_path: Path, fields: Json) -> None:
    checkpoint = altered(tmp_path / "checkpoint", lambda _: None, fields)
    folder, notes = bundled(checkpoint, tmp_path / "bundle")
    expected = tokens(AutoTokenizer.from_pretrained(checkpoint).backend_tokenizer)
    assert tokens(Tokenizer.from_file(str(folder / "tokenizer.json"))) == expected
    assert expected != tokens(Tokenizer.from_file(str(checkpoint / "tokenizer.json")))
    assert all(name in " ".join(notes) for name in fields)


def test_tokens_that_only_the_config_names_are_added(tmp_path: Path) -> None:
    decoder = {"300": ENTITY | {"special": False}}
    checkpoint = altered(tmp_path / "checkpoint", lambda _: None, {"added_tokens_decoder": decoder})
    folder, _ = bundled(checkpoint, tmp_path / "bundle")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert tokenizer.encode("an <Entity>.").ids[-3] == 300
    mask = next(token for token in tokenizer.get_added_tokens_decoder().values() if token.content == "<mask>")
    assert mask.lstrip  # as the file says; transformers 5 forgets it here


def test_random_tokens_are_refused(tmp_path: Path) -> None:
    checkpoint = altered(tmp_path / "checkpoint", lambda file: file["model"].update(dropout=0.5), {})
    with pytest.raises(PlanError, match=r"model\.dropout .* 0\.5"):
        load_tokenizer(str(checkpoint), revision=None, vocab_size=1000)


def test_a_tokenizer_without_a_pad_token_answers_as_transformers_does(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "text-classification")
    fields = {"pad_token": None, "tokenizer_class": "PreTrainedTokenizerFast"}
    altered(checkpoint, lambda file: file["added_tokens"].pop(1), fields)
    (checkpoint / "special_tokens_map.json").unlink(missing_ok=True)
    assert AutoTokenizer.from_pretrained(checkpoint).pad_token is None
    exported(checkpoint, tmp_path / "out")
    texts = ["The dog barked and the cat slept.", "Ada"]  # the second is padded
    answers = pipeline(tmp_path / "out", top_k=None)(texts)
    for text, answer in zip(texts, answers, strict=True):
        assert_same_scores(answer, transformers_pipeline(checkpoint)(text, top_k=None))


def test_the_side_of_truncation_is_in_the_manifest_and_what_the_bundle_says(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "text-classification")
    altered(checkpoint, CHANGES["normalizer"][0], {"truncation_side": "left"})
    manifest, said = exported(checkpoint, tmp_path / "out")
    assert manifest.truncation_side == "left"
    assert ("normalizer" in said) == transformers.__version__.startswith("5")
    text = "The dog barked. " * 12 + "Is this London?"
    for item in ({"text": text}, {"text": text, "text_pair": text[::-1]}, {"text": "a", "text_pair": text}):
        ours = pipeline(tmp_path / "out", top_k=None, truncation=True)(item)
        assert_same_scores(ours, transformers_pipeline(checkpoint)(item, top_k=None, truncation=True))


@pytest.mark.parametrize("names", [["input_ids", "attention_mask"], ["input_ids", "token_type_ids", "attention_mask"]])
def test_token_types_are_fed_as_transformers_feeds_them(tmp_path: Path, names: list[str]) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "text-classification", type_vocab_size=2)
    altered(checkpoint, lambda file: file.update(post_processor=template(1)), {"model_input_names": names})
    manifest, _ = exported(checkpoint, tmp_path / "out")
    assert manifest.token_types == ("token_type_ids" in names)
    item = {"text": "The dog barked.", "text_pair": "Is this London?"}
    ours = pipeline(tmp_path / "out", top_k=None)(item)
    assert_same_scores(ours, transformers_pipeline(checkpoint)(item, top_k=None))
    other = pipeline(other_token_types(tmp_path / "out"), top_k=None)(item)
    assert abs(ours[0]["score"] - other[0]["score"]) > 1e-3


def test_token_types_that_nothing_is_said_about_are_refused_for_pairs(tmp_path: Path) -> None:
    checkpoint = altered(
        tmp_path / "checkpoint",
        lambda file: file.update(post_processor=template(1)),
        {"tokenizer_class": "PreTrainedTokenizerFast"},
    )
    with pytest.raises(PlanError, match="model_input_names"):
        load_tokenizer(str(checkpoint), revision=None, vocab_size=1000, type_vocab_size=2)
    load_tokenizer(str(checkpoint), revision=None, vocab_size=1000)


def exported(checkpoint: Path, folder: Path) -> tuple[Any, str]:
    result = CliRunner().invoke(export_command, [str(checkpoint), "-o", str(folder), "--optimize", "none"])
    assert result.exit_code == 0, result.output
    return read_manifest(folder), result.output


def other_token_types(folder: Path) -> Path:
    document = json.loads((folder / "rpln.json").read_text(encoding="utf-8"))
    document["token_types"] = not document["token_types"]
    (folder / "rpln.json").write_text(json.dumps(document), encoding="utf-8")
    return folder


def transformers_pipeline(checkpoint: Path) -> Any:
    """Return transformers' own pipeline, whose tokenizer is read from the file alone."""
    config = json.loads((checkpoint / "tokenizer_config.json").read_text(encoding="utf-8"))
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(checkpoint / "tokenizer.json"),
        pad_token="<pad>",
        model_max_length=64,
        truncation_side=config.get("truncation_side", "right"),
        model_input_names=config.get("model_input_names", ["input_ids", "attention_mask"]),
    )
    return transformers.pipeline("text-classification", model=str(checkpoint), tokenizer=tokenizer)


def assert_same_scores(ours: Any, theirs: Any) -> None:
    assert [row["label"] for row in ours] == [row["label"] for row in theirs]
    np.testing.assert_allclose([row["score"] for row in ours], [row["score"] for row in theirs], atol=1e-5)


@pytest.mark.parametrize(
    ("task", "length", "said"),
    [
        ("text-classification", 32, True),
        ("text-classification", "32", False),
        ("text-classification", 10**30, False),
        ("text-generation", 32, False),
    ],
)
def test_a_length_that_cuts_texts_in_transformers_alone_is_said(
    tmp_path: Path, task: str, length: object, *, said: bool
) -> None:
    folder = Path(shutil.copytree(DEFAULTS[task].folder, tmp_path / "checkpoint"))
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | {"model_max_length": length}))
    notes = load_checkpoint(make_plan(str(folder), task=task)).notes
    assert any("model_max_length of the tokenizer is 32, to which transformers cuts" in note for note in notes) == said
    assert len(notes) == said
