"""What processes of a test run share is made by one of them, completely or not at all."""

import os
from pathlib import Path

import pytest

from tests.sharing import forget_old, made_once


def test_a_file_is_made_once(tmp_path: Path) -> None:
    made: list[Path] = []

    def make(path: Path) -> None:
        made.append(path)
        path.write_text("made", encoding="utf-8")

    for _ in range(2):
        assert made_once(tmp_path / "new" / "file", make).read_text(encoding="utf-8") == "made"
    assert len(made) == 1


def test_a_folder_that_was_interrupted_is_made_again(tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        path.mkdir()
        (path / "half").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made_once(tmp_path / "folder", fail)
    assert not (tmp_path / "folder").exists()

    made_once(tmp_path / "folder", lambda path: path.mkdir())
    assert list((tmp_path / "folder").iterdir()) == []


def test_the_folders_that_were_used_last_are_kept(tmp_path: Path) -> None:
    for age, name in enumerate(["new", "middle", "old"]):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (1000 - age, 1000 - age))

    forget_old(tmp_path, keep=2)
    assert {path.name for path in tmp_path.iterdir()} == {"new", "middle"}
    forget_old(tmp_path / "missing", keep=2)
