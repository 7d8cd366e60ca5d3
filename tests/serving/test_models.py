"""What a process answers a batch with: an item that fails does so alone, and the work of a batch has a bound."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rpln_runtime import pipeline
from rpln_runtime.serve import models
from rpln_runtime.serve.models import EncoderModel
from rpln_runtime.triton.request import Asked
from tests.runtime.bundles import CORPUS
from tests.runtime.comparison import LONG_TEXT
from tests.serving.comparison import same
from tests.triton.networks import make_toy_bundle

pytestmark = pytest.mark.usefixtures("_extra")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tagger")
    make_toy_bundle(folder, "token-classification")
    return folder


@pytest.fixture
def model(folder: Path) -> EncoderModel:
    return EncoderModel(folder, provider="cpu", threads=1, batch_size=4)


@pytest.fixture
def batches(model: EncoderModel, monkeypatch: pytest.MonkeyPatch) -> list[list[Any]]:
    """Return the list of batches that run together from now on. A batch with the text "fails" raises an error."""
    batches: list[list[Any]] = []
    run = model._scores

    def scores(items: Sequence[Any]) -> Any:
        batches.append([item.asked.item for item in items])
        if "fails" in batches[-1]:
            raise TypeError("std::bad_alloc")
        return run(items)

    monkeypatch.setattr(model, "_scores", scores)
    return batches


def test_an_error_of_the_server_is_that_of_one_item_and_not_a_wrong_request(
    model: EncoderModel, folder: Path, batches: list[list[Any]]
) -> None:
    asked = [CORPUS[0], "fails", CORPUS[1]]
    found = model.answer([Asked(text, {"stride": 5}) for text in asked])
    assert batches == [asked, *([text] for text in asked)]
    assert [outcome.status for outcome in found] == [200, 500, 200]
    assert "bad_alloc" in found[1].log
    answer = pipeline(folder, provider="cpu", threads=1)
    same([found[0].answer, found[2].answer], answer([CORPUS[0], CORPUS[1]], stride=5))


def test_rows_of_several_items_are_together_no_more_than_an_item_may_have(
    model: EncoderModel, folder: Path, batches: list[list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = pipeline(folder, provider="cpu", threads=1)
    rows = len(answer.postprocess.encode(LONG_TEXT))
    assert rows > 2
    monkeypatch.setattr(models, "MOST_ROWS", rows + 1)
    asked = [CORPUS[0], LONG_TEXT, CORPUS[1], CORPUS[2], LONG_TEXT]
    found = model.answer([Asked(text, {}) for text in asked])
    assert batches == [asked[:2], asked[2:4], asked[4:]]
    same([outcome.answer for outcome in found], answer(asked))
