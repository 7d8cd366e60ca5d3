"""Makes, on a machine with a network, what a machine with a GPU and no network needs: wheels, bundles, and pieces.

`python -m benchmarks.gpu.prepare` exports the bundles of BUNDLES, downloads the wheels of WHEELS, and packs both into
pieces. What is there already is used again. `--no-wheels` is for a machine that has its packages already.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks.gpu.bundles import BUNDLES, export_bundle
from benchmarks.gpu.pieces import pack

FOLDER: Final = Path("build/gpu")
MIB: Final = 2**20
PIECE_MIB: Final = 30
"""The size of a piece: 64 MiB are the most that a transfer takes, with a copy of this repository."""
PYTHON: Final = "3.12"
WHEELS: Final = ("onnxruntime-gpu==1.31.1", "cloup==4.0.0")
"""What the lent machine lacks, for its Python and its CUDA 13. It has torch, transformers, onnx and what these need."""
PLATFORMS: Final = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


def main() -> None:
    """Export, download and pack."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=FOLDER, help="the folder to write to [default: build/gpu]")
    parser.add_argument("--no-wheels", action="store_true", help="download no wheels")
    parser.add_argument("--wheel", action="append", help=f"a wheel to download; again for others [default: {WHEELS}]")
    parser.add_argument("--python", default=PYTHON, help=f"the Python of the other machine [default: {PYTHON}]")
    parser.add_argument("--small", action="store_true", help="networks of two layers, to rehearse quickly")
    parser.add_argument("--piece-mib", type=int, default=PIECE_MIB, help="the most MiB of a piece [default: 30]")
    arguments = parser.parse_args()
    content = arguments.output / "content"
    facts, chosen = content / "facts.json", json.dumps({"small": arguments.small}) + "\n"
    if facts.exists() and facts.read_text(encoding="utf-8") != chosen:
        parser.error(f"{arguments.output} holds networks of the other size: remove it, or choose another --output.")
    content.mkdir(parents=True, exist_ok=True)
    facts.write_text(chosen, encoding="utf-8")
    export_all(content / "bundles", arguments.output / "checkpoints", rehearsal=arguments.small)
    if not arguments.no_wheels:
        download(content / "wheels", arguments.wheel or WHEELS, python=arguments.python)
    pieces = pack_all(content, arguments.output / "pieces", most_bytes=arguments.piece_mib * MIB)
    print(f"{arguments.output / 'pieces'}: {len(pieces)} pieces, {sum(path.stat().st_size for path in pieces):,} bytes")


def export_all(folder: Path, checkpoints: Path, *, rehearsal: bool) -> None:
    """Export every bundle that is not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    for row in BUNDLES:
        started = time.monotonic()
        export_bundle(row, folder, checkpoints, rehearsal=rehearsal)
        print(f"{row.name}: {time.monotonic() - started:.0f} s", flush=True)


def download(folder: Path, wheels: Sequence[str], *, python: str) -> None:
    """Download wheels without what they need."""
    platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
        "-d",
        str(folder),
    ]
    command += ["--python-version", python, "--implementation", "cp", *platforms, *wheels]
    subprocess.run(command, check=True)  # noqa: S603 # pip, with the rows above


def pack_all(content: Path, pieces: Path, *, most_bytes: int) -> list[Path]:
    """Write the pieces anew."""
    pieces.mkdir(parents=True, exist_ok=True)
    for old in pieces.iterdir():
        old.unlink()
    return pack(content, pieces, most_bytes=most_bytes)


if __name__ == "__main__":
    main()
