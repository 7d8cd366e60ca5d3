"""Bundles of sentence-transformers folders answer as the library's own `encode` does.

The tolerance is that of fp32 answers elsewhere: the values reach about 6, where two implementations differ by 1e-6.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from rpln_export.cli import export_command, rpln_command
from rpln_runtime import InputError, load, pipeline
from tests.export.sentence_folders import POOLINGS, change, dense, encoded, make_old, normalize, save_sentences

TASK: Final = "feature-extraction"
TOLERANCE: Final = 1e-5
TEXTS: Final = (
    "The dog barked and the cat slept.",
    "a",
    "",
    "  Ada Lovelace, in LONDON ",
    "Is this <mask> a question? " * 12,
    "naïve café 東京 😀",
)

Folders = Callable[[str], Path]


def _joined(folder: Path, checkpoint: Path) -> None:
    save_sentences(
        folder,
        checkpoint,
        poolings=POOLINGS,
        prompts={"query": "Is this: ", "passage": "Ada "},
        default_prompt_name="passage",
        truncate_dim=5 * 32 + 7,
    )
    change(folder / "tokenizer_config.json", lambda fields: {**fields, "model_max_length": 30})


def _old(folder: Path, checkpoint: Path) -> None:
    layers = [dense(32, 24), dense(24, 20, activation_function=None, bias=False), normalize()]
    save_sentences(folder, checkpoint, poolings=["mean"], layers=layers)
    make_old(folder, max_seq_length=21, do_lower_case=True)


FOLDERS: Final = {"joined": _joined, "old": _old}


@pytest.fixture(scope="module")
def folders(checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Folders:
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp("sentences") / name
            FOLDERS[name](made[name], checkpoint(TASK))
        return made[name]

    return folder


@pytest.fixture(scope="module")
def bundles(folders: Folders, tmp_path_factory: pytest.TempPathFactory) -> Folders:
    made: dict[str, Path] = {}

    def bundle(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp("bundles") / name
            export(folders(name), made[name])
        return made[name]

    return bundle


def export(source: Path, folder: Path, *options: str) -> None:
    result = CliRunner().invoke(export_command, [str(source), "-o", str(folder), *options], catch_exceptions=False)
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("batch_size", [1, 6])
def test_answers_are_those_of_encode(folders: Folders, bundles: Folders, name: str, batch_size: int) -> None:
    expected = encoded(folders(name), TEXTS)
    found = np.stack(pipeline(bundles(name), batch_size=batch_size)(list(TEXTS)))
    assert found.shape == expected.shape
    assert np.abs(expected).max() > 0.1
    assert np.abs(found - expected).max() <= TOLERANCE


@pytest.mark.parametrize("options", [{"prompt_name": "query"}, {"prompt_name": "document"}, {"prompt": "Who? "}])
def test_prompts_are_those_of_encode(folders: Folders, bundles: Folders, options: dict[str, str]) -> None:
    expected, default = (encoded(folders("joined"), TEXTS, **given) for given in (options, {}))
    found = np.stack(pipeline(bundles("joined"))(list(TEXTS), **options))
    assert np.abs(found - expected).max() <= TOLERANCE
    assert np.abs(found - default).max() > 100 * TOLERANCE


def test_hidden_states_are_left_as_they_are_if_asked_for(folders: Folders, bundles: Folders, tmp_path: Path) -> None:
    export(folders("joined"), tmp_path / "out", "--pooling", "none")
    found = pipeline(tmp_path / "out")(list(TEXTS))
    expected = encoded(folders("joined"), TEXTS, output_value="token_embeddings")
    for ours, theirs in zip(found, expected, strict=True):
        assert np.abs(ours[0] - theirs.numpy()).max() <= TOLERANCE


def test_a_call_may_normalize_and_may_refuse_long_texts(folders: Folders, bundles: Folders) -> None:
    ask = pipeline(bundles("joined"))
    expected = encoded(folders("joined"), TEXTS, normalize_embeddings=True)
    assert np.abs(np.stack(ask(list(TEXTS), normalize=True)) - expected).max() <= TOLERANCE
    with pytest.raises(InputError, match=r"a text has \d+ tokens, but the limit of this model is 64"):
        ask(TEXTS[4] * 2, truncation=False)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pooling": "mean"}, r"pools by itself .*--pooling none"),
        ({"prompt_name": "another"}, r"prompt_name is 'another'.*'query', 'document', 'passage'"),
        ({"prompt_name": "query", "prompt": "a"}, "Leave out one of them"),
        ({"truncation": "no"}, "truncation is 'no'"),
        ({"prompt": 3}, "prompt is 3"),
    ],
)
def test_options_that_the_bundle_does_not_have_are_refused(
    bundles: Folders, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        pipeline(bundles("joined"), **options)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_graphs_that_pool_are_proven_in_every_precision_and_packed(
    checkpoint: Callable[[str], Path], tmp_path: Path, precision: str
) -> None:
    options = ("--pooling", ",".join(POOLINGS), "--pack-padding", "--precision", precision)
    export(checkpoint(TASK), tmp_path / "out", *options)
    manifest = load(tmp_path / "out", provider="cpu").manifest
    (output,) = manifest.graphs[0].outputs
    assert (output.name, output.shape) == ("sentence_embedding", ("batch", len(POOLINGS) * 32))
    assert manifest.passes["PackTokens"] == 2


def test_a_bundle_is_proven_again(folders: Folders, bundles: Folders) -> None:
    arguments = ["validate", str(bundles("old")), str(folders("old"))]
    result = CliRunner().invoke(rpln_command, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    weights = next(folders("old").glob("2_Dense/pytorch_model.bin"))
    content = weights.read_bytes()
    try:
        change_a_weight(weights)
        result = CliRunner().invoke(rpln_command, arguments, catch_exceptions=False)
    finally:
        weights.write_bytes(content)
    assert "which has other weights" in result.output


def change_a_weight(path: Path) -> None:
    weights = torch.load(path, weights_only=True)
    weights["linear.weight"][0, 0] += 1
    torch.save(weights, path)
