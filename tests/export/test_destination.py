"""A bundle appears completely or not at all, whatever stops the export and wherever it is written."""

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rpln_export.destination import check_destination, published
from rpln_export.errors import DestinationError
from rpln_graphs.temporary import temporary_folder
from rpln_runtime import ManifestError, replacing
from rpln_runtime.manifest import MANIFEST_NAME, read_manifest

GIGABYTE = 10**9


def make_bundle(folder: Path, text: str = "old") -> Path:
    folder.mkdir(parents=True)
    (folder / MANIFEST_NAME).write_text(text, encoding="utf-8")
    return folder


def publish(folder: Path, text: str = "new") -> None:
    with published(folder) as partial:
        (partial / MANIFEST_NAME).write_text(text, encoding="utf-8")


def read(folder: Path) -> None:
    """Read a bundle that has no valid manifest."""
    with pytest.raises(ManifestError, match="not valid JSON"):
        read_manifest(folder)


def contents(folder: Path) -> dict[str, str]:
    """Return every file below `folder`, hidden ones included, with its text."""
    return {
        path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8")
        for path in folder.rglob("*")
        if path.is_file()
    }


def make_leftover(place: Path, name: str = "out") -> Path:
    """The partial folder of a process that was killed while it built the bundle `name`."""
    folder = place / f".{name}.0123abcd.partial"
    make_bundle(folder / "new", "half")
    (folder / "lock").touch()
    return folder


def test_a_bundle_appears_when_the_block_ends_and_not_before(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "out"
    with published(folder) as partial:
        (partial / MANIFEST_NAME).write_text("new", encoding="utf-8")
        assert not folder.exists()
        assert partial.parent.parent == folder.parent
    assert contents(tmp_path) == {"deep/out/rpln.json": "new"}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_block_that_fails_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), published(tmp_path / "out") as partial:
        raise error((partial / "model.onnx").write_text("half", encoding="utf-8"))
    assert list(tmp_path.iterdir()) == []


def test_an_older_bundle_stays_until_the_new_one_is_there_and_is_then_replaced_whole(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "out")
    (folder / "engine.plan").write_text("of the old one", encoding="utf-8")
    with pytest.raises(ValueError, match="stop"), published(folder):
        raise ValueError("stop")
    assert contents(tmp_path) == {"out/rpln.json": "old", "out/engine.plan": "of the old one"}
    publish(folder)
    assert contents(tmp_path) == {"out/rpln.json": "new"}


def test_an_empty_folder_is_a_destination(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    check_destination(folder)
    publish(folder)
    assert contents(tmp_path) == {"out/rpln.json": "new"}


def test_a_link_to_a_bundle_stays_a_link(tmp_path: Path) -> None:
    make_bundle(tmp_path / "v1")
    (tmp_path / "current").symlink_to("v1")
    publish(tmp_path / "current")
    assert (tmp_path / "current").is_symlink()
    assert (tmp_path / "v1" / MANIFEST_NAME).read_text(encoding="utf-8") == "new"
    assert {path.name for path in tmp_path.iterdir()} == {"v1", "current"}


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_is_no_bundle_is_refused_and_untouched(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "out"
    if kind == "folder":
        folder.mkdir()
    kept = folder / "thesis.txt" if kind == "folder" else folder
    kept.write_text("years of work", encoding="utf-8")
    with pytest.raises(DestinationError, match=r"out exists and is not a bundle.*-o"):
        check_destination(folder)
    assert kept.read_text(encoding="utf-8") == "years of work"


def test_what_came_to_the_destination_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    thesis = tmp_path / "out" / "thesis.txt"

    def write_thesis() -> None:
        thesis.parent.mkdir()
        thesis.write_text("years of work", encoding="utf-8")

    with pytest.raises(DestinationError, match="not a bundle"), published(thesis.parent):
        write_thesis()
    assert contents(tmp_path) == {"out/thesis.txt": "years of work"}


def test_a_place_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(DestinationError, match=r"file cannot be written by this user.*-o"):
        check_destination(tmp_path / "file" / "out")
    with pytest.raises(DestinationError, match=r"out cannot be written: .*file'.*-o"):
        publish(tmp_path / "file" / "out")


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """Make a folder that the user may not write to. Root may write everywhere, so root becomes nobody.

    Only the real user id changes, because os.access checks that one.
    """
    tmp_path.chmod(0o555)
    if os.geteuid() == 0:
        os.setresuid(65534, 0, 0)
    yield tmp_path
    if os.geteuid() == 0:
        os.setresuid(0, 0, 0)
    tmp_path.chmod(0o755)


def test_a_folder_without_write_permission_is_refused(read_only: Path) -> None:
    with pytest.raises(DestinationError, match=r"cannot be written by this user.*-o"):
        check_destination(read_only / "out")


def test_too_little_space_is_refused_with_both_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=3 * GIGABYTE // 2)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    check_destination(tmp_path / "out", needed=GIGABYTE)
    with pytest.raises(DestinationError, match=r"1,500\.0 MB free.*needs about 2,000\.0 MB"):
        check_destination(tmp_path / "out", needed=2 * GIGABYTE)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS])
def test_what_the_file_system_refuses_is_a_clear_error_and_leaves_the_older_bundle(tmp_path: Path, code: int) -> None:
    folder = make_bundle(tmp_path / "out")
    with pytest.raises(DestinationError, match=rf"{os.strerror(code)}.*left as it was"), published(folder):
        raise OSError(code, os.strerror(code), "model.onnx")
    assert contents(tmp_path) == {"out/rpln.json": "old"}


def test_other_errors_of_the_system_are_bugs_and_show_themselves(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), published(tmp_path / "out"):
        (tmp_path / "no such file").read_text(encoding="utf-8")


def test_temporary_files_lie_beside_the_destination(tmp_path: Path) -> None:
    with published(tmp_path / "out") as partial, temporary_folder() as folder:
        assert folder.parent.parent == partial.parent
        (partial / MANIFEST_NAME).write_text("new", encoding="utf-8")
    assert contents(tmp_path) == {"out/rpln.json": "new"}


@pytest.mark.parametrize("clean_up", [check_destination, publish])
def test_the_next_export_removes_what_a_killed_one_left(tmp_path: Path, clean_up: Callable[[Path], None]) -> None:
    make_leftover(tmp_path)
    clean_up(tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} <= {"out"}


@pytest.mark.parametrize("use", [publish, check_destination, read])
def test_a_bundle_caught_between_the_two_renames_comes_back(tmp_path: Path, use: Callable[[Path], None]) -> None:
    make_bundle(make_leftover(tmp_path) / "replaced", "old")
    use(tmp_path / "out")
    assert contents(tmp_path) == {"out/rpln.json": "new" if use is publish else "old"}


def test_folders_of_other_names_are_left_alone(tmp_path: Path) -> None:
    others = [".out.v2.0123abcd.partial", ".out.notes.partial"]
    for name in others:
        make_bundle(tmp_path / name, name)
    publish(tmp_path / "out")
    assert contents(tmp_path) == {"out/rpln.json": "new"} | {f"{name}/rpln.json": name for name in others}


@pytest.mark.parametrize("name", ["model[0]", "model*", "модель v1.5"])
def test_a_name_is_taken_as_it_is(tmp_path: Path, name: str) -> None:
    make_leftover(tmp_path, name)
    make_bundle(tmp_path / name)
    publish(tmp_path / name)
    assert contents(tmp_path) == {f"{name}/rpln.json": "new"}


def test_a_mount_point_gets_the_files_of_the_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # tests/runtime/test_replacing.py mounts a folder, where the user may; here, a system that says it is mounted.
    folder = tmp_path / "out"
    folder.mkdir()
    make_leftover(folder, "rpln")
    inode = folder.stat().st_ino
    monkeypatch.setattr(replacing, "is_mount_point", lambda path: path == folder)
    for text in ("old", "new"):
        check_destination(folder)
        with published(folder) as partial:
            assert partial.is_relative_to(folder)
            check_destination(folder)
            (partial / MANIFEST_NAME).write_text(text, encoding="utf-8")
    assert contents(tmp_path) == {"out/rpln.json": "new"}
    assert folder.stat().st_ino == inode


@pytest.mark.parametrize("code", [errno.EBUSY, errno.EXDEV])
def test_a_bundle_that_cannot_be_renamed_gets_other_contents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    folder = make_bundle(tmp_path / "out")
    (folder / "engine.plan").write_text("of the old one", encoding="utf-8")
    rename = Path.rename

    def refused(path: Path, target: Path) -> Path:
        if folder in {path, target}:
            raise OSError(code, os.strerror(code))
        return rename(path, target)

    monkeypatch.setattr(replacing, "exchange", refused)
    monkeypatch.setattr(Path, "rename", refused)
    publish(folder)
    assert contents(tmp_path) == {"out/rpln.json": "new"}


@pytest.mark.parametrize("name", ["x" * 250, "x" * 300, "no/" + "x" * 300 + "/out", "loop"])
def test_a_name_that_cannot_be_written_is_refused_before_any_work(tmp_path: Path, name: str) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(DestinationError, match=r"cannot be written: .*-o"):
        check_destination(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["loop"]


def test_leftovers_of_an_interrupted_build_are_not_the_users(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "out", json.dumps({"files": []}))
    (folder / f".{MANIFEST_NAME}").write_text("half", encoding="utf-8")
    make_leftover(folder, "engines")
    publish(folder)
    assert contents(tmp_path) == {"out/rpln.json": "new"}


@pytest.mark.parametrize("stop_after", [0, 1], ids=["before-any-rename", "between-the-two"])
def test_an_interrupt_while_replacing_keeps_the_older_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_after: int
) -> None:
    def unknown(one: Path, other: Path) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    folder = make_bundle(tmp_path / "out")
    monkeypatch.setattr(replacing, "exchange", unknown)
    monkeypatch.setattr(Path, "rename", interrupted_after(stop_after, Path.rename))
    with pytest.raises(KeyboardInterrupt):
        publish(folder)
    assert contents(tmp_path) == {"out/rpln.json": "old"}


def interrupted_after(count: int, rename: Callable[[Path, Path], Path]) -> Callable[[Path, Path], Path]:
    """Return a `rename` that raises KeyboardInterrupt once, after `count` calls that worked."""
    left = iter([True] * count + [False])

    def stopped(path: Path, target: Path) -> Path:
        if not next(left, True):
            raise KeyboardInterrupt
        return rename(path, target)

    return stopped


def test_two_exports_to_one_destination_end_with_one_whole_bundle(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    with published(folder) as first:
        (first / MANIFEST_NAME).write_text("first", encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-c", PUBLISH_SECOND, str(folder)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert contents(folder) == {MANIFEST_NAME: "second"}
        assert first.is_dir()
    assert contents(tmp_path) == {"out/rpln.json": "first"}


PUBLISH_SECOND = """
import sys
from pathlib import Path
from rpln_export.destination import published
with published(Path(sys.argv[1])) as partial:
    (partial / "rpln.json").write_text("second", encoding="utf-8")
"""


def test_a_destination_that_is_taken_meanwhile_is_said_to_be_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "out"
    rename = Path.rename

    def overtaken(path: Path, target: Path) -> Path:
        make_bundle(folder, "of another")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", overtaken)
    with pytest.raises(DestinationError, match=r"could not be replaced: .*Directory not empty"):
        publish(folder)
    monkeypatch.undo()
    assert contents(tmp_path) == {"out/rpln.json": "of another"}
