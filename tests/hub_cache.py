"""Lays a bundle out as the Hugging Face hub's cache does: a snapshot, whose files are links into blobs."""

import os
import shutil
from pathlib import Path


def snapshot_of(folder: Path, cache: Path) -> Path:
    """Copy the bundle in `folder` into the cache of a hub, and return the folder of its snapshot."""
    repository = cache / "models--org--name"
    snapshot, blobs = repository / "snapshots" / ("5" * 40), repository / "blobs"
    blobs.mkdir(parents=True)
    for number, path in enumerate(sorted(path for path in folder.rglob("*") if path.is_file())):
        link = snapshot / path.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, blobs / f"{number:040}")
        link.symlink_to(os.path.relpath(blobs / f"{number:040}", link.parent))
    return snapshot


def point_at(link: Path, target: Path) -> None:
    """Let a link of a snapshot lead to a copy of its file at `target`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(link, target)
    link.unlink()
    link.symlink_to(target)


def spoil_by_other_folder(snapshot: Path, name: str) -> None:
    """Let a file lie outside the cache."""
    point_at(snapshot / name, snapshot.parents[2] / "secret")


def spoil_by_subfolder(snapshot: Path, name: str) -> None:
    """Let a file lie in a folder of the blobs, where the hub has none."""
    point_at(snapshot / name, snapshot.parents[1] / "blobs" / "folder" / "secret")


def spoil_by_other_cache(snapshot: Path, name: str) -> None:
    """Let a file lie in the blobs of another repository."""
    point_at(snapshot / name, snapshot.parents[2] / "models--other" / "blobs" / "secret")


def spoil_by_linked_blobs(snapshot: Path, name: str) -> None:
    """Let the blobs be a link to another folder."""
    blobs = snapshot.parents[1] / "blobs"
    blobs.rename(snapshot.parents[2] / "elsewhere")
    blobs.symlink_to(snapshot.parents[2] / "elsewhere")


def spoil_by_other_name(snapshot: Path, name: str) -> None:
    """Let the folder of the snapshots have another name than in the hub's cache."""
    snapshot.parent.rename(snapshot.parents[1] / "versions")


SPOILS = (
    spoil_by_other_folder,
    spoil_by_subfolder,
    spoil_by_other_cache,
    spoil_by_linked_blobs,
    spoil_by_other_name,
)
"""Ways to make a link of a snapshot lead to where none of the hub's cache leads."""
