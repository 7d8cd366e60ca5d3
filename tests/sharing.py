"""Lets the processes of a test run share what is expensive to make: one makes it, the others wait for it."""

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that all processes of this run share. pytest removes it, as it does `tmp_path`."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


def made_once(path: Path, make: Callable[[Path], object]) -> Path:
    """Return `path`, a file or a folder, after `make` has written it if it did not exist.

    `make` gets another path to write to, which is renamed when it returns. So nothing incomplete is left at `path` if
    it is interrupted. If it fails, the next process tries again.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f"{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            part = path.with_name(f"{path.name}.part")
            shutil.rmtree(part, ignore_errors=True)
            make(part)
            part.rename(path)
    return path


def forget_old(parent: Path, *, keep: int) -> None:
    """Remove all folders in `parent` except those that were made or used last."""
    newest_first = sorted(parent.glob("*/"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in newest_first[keep:]:
        shutil.rmtree(path, ignore_errors=True)
