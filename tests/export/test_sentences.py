"""Bundles of sentence-transformers folders answer as the library's own `encode` does.

The tolerance is that of fp32 answers elsewhere: the values reach about 6, where two implementations differ by 1e-6.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import pytest
from click.testing import CliRunner

from rpln_export.cli import export_command
from rpln_runtime import pipeline
from tests.export.sentence_folders import POOLINGS, change, dense, encoded, make_old, save_sentences
from tests.export.sentence_folders import Normalize as NormalizeModule

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
    layers = [dense(32, 24), dense(24, 20, activation_function=None, bias=False), NormalizeModule()]
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
