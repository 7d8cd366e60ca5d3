import json
import sys
from pathlib import Path

import pytest

from training import corpora
from training.brown import Document
from training.mails import Mail
from training.split import Split, split_groups


def test_a_group_is_on_one_side_and_one_group_in_ten_on_each_of_the_small_ones() -> None:
    groups = [[f"{group}.{member}" for member in range(group % 3 + 1)] for group in range(40)]
    split = split_groups(groups)
    assert {name.split(".")[0] for name in split.test} == {"0", "10", "20", "30"}
    assert {name.split(".")[0] for name in split.dev} == {"5", "15", "25", "35"}
    sides = (split.train, split.dev, split.test)
    assert sorted(name for side in sides for name in side) == sorted(name for group in groups for name in group)


def test_make_data_says_which_document_is_on_which_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def documents(*names: str) -> list[Document]:
        return [Document(name=name, genre="news", paragraphs=()) for name in names]

    brown = Split(train=documents("a", "b"), dev=documents("c"), test=documents("d"))
    mails: Split[Mail] = Split(train=[], dev=[], test=[Mail(name="m", is_spam=True, subject="", text="")])
    monkeypatch.setattr(corpora, "brown_split", {tmp_path: brown}.__getitem__)
    monkeypatch.setattr(corpora, "mail_split", {tmp_path: mails}.__getitem__)
    monkeypatch.setattr(sys, "argv", ["corpora", "--data", str(tmp_path)])
    corpora.main()
    assert json.loads((tmp_path / "splits.json").read_text()) == {
        "brown": {"train": ["a", "b"], "dev": ["c"], "test": ["d"]},
        "mails": {"train": [], "dev": [], "test": ["m"]},
    }
    assert capsys.readouterr().out.splitlines()[0] == "brown: 2 documents train, 1 documents dev, 1 documents test"
