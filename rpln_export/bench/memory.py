"""Peak memory: a process of its own opens a bundle, or the checkpoint in eager torch, and runs each case once."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np

from rpln_export.bench.cases import BenchCase, case_feeds, case_prompts
from rpln_runtime.errors import RplnError
from rpln_runtime.manifest import Manifest

_PRINTED: Final = """\
status = pathlib.Path("/proc/self/status").read_text(encoding="ascii")
print(next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM")))
"""
_BUNDLE: Final = f"""\
import json, pathlib, sys
import numpy as np
from rpln_runtime import generator, load
folder = pathlib.Path(sys.argv[1])
job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
options = {{"provider": job["provider"], "threads": job["threads"], "verify": False}}
if job["prompts"]:
    generate = generator(job["bundle"], batch_size=job["batch_size"], stop_token_ids=(), **options)
    for prompts in job["prompts"]:
        generate.tokens(prompts, max_new_tokens=job["new_tokens"], do_sample=False, num_beams=1)
else:
    session = load(job["bundle"], **options)
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as arrays:
            session.run(dict(arrays))
{_PRINTED}"""
"""What the process of a bundle does. It imports nothing that a server with the thin runtime would not."""
_TORCH: Final = f"""\
import json, pathlib, sys, time
from rpln_export.bench.cases import BenchCase
from rpln_export.bench.contenders import torch_contender
from rpln_runtime.manifest import read_manifest
job = json.loads((pathlib.Path(sys.argv[1]) / "job.json").read_text(encoding="utf-8"))
bundle, cases = pathlib.Path(job["bundle"]), [BenchCase(**case) for case in job["cases"]]
manifest, sizes = read_manifest(bundle, verify=False), {{"threads": job["threads"], "new_tokens": job["new_tokens"]}}
with torch_contender(bundle, manifest, job["checkpoint"], **sizes) as torch:
    for case in cases:
        torch.prepare(case)(time.perf_counter)
{_PRINTED}"""
"""What the process of eager torch does: it loads the checkpoint as an export does."""


def peak_memory(
    bundle: Path,
    manifest: Manifest,
    cases: Sequence[BenchCase],
    *,
    provider: str,
    threads: int | None,
    new_tokens: int,
) -> int | None:
    """Return the peak resident memory of a process that runs each case once, in bytes, with Python and its libraries.

    None where the system is not Linux. Raises RplnError where the process fails, as with too little memory.
    """
    if not Path("/proc/self/status").exists():
        return None
    job: dict[str, Any] = {
        "bundle": str(bundle.absolute()),
        "provider": provider,
        "threads": threads,
        "prompts": [],
        "new_tokens": new_tokens + 1,
        "batch_size": max(len(batch) for case in cases for batch in case.batches),
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for place, case in enumerate(cases):
            if manifest.generation is not None:
                job["prompts"] += case_prompts(case, manifest)
                continue
            for batch, feeds in enumerate(case_feeds(case, manifest.graphs[0], manifest)):
                arrays: dict[str, Any] = dict(feeds)
                np.savez(folder / f"{place:03}-{batch:03}.npz", **arrays)
        return _peak(_BUNDLE, folder, job, of=f"{bundle} on {provider}")


def peak_memory_of_torch(
    bundle: Path, checkpoint: str | None, cases: Sequence[BenchCase], *, threads: int | None, new_tokens: int
) -> int | None:
    """Return the same of a process that runs the checkpoint of a bundle in eager torch. Raises what `peak_memory` does.

    The libraries of this project that load a checkpoint are part of it, beside torch and transformers.
    """
    if not Path("/proc/self/status").exists():
        return None
    job = {
        "bundle": str(bundle.absolute()),
        "checkpoint": checkpoint,
        "cases": list(map(asdict, cases)),
        "threads": threads,
        "new_tokens": new_tokens,
    }
    with tempfile.TemporaryDirectory() as name:
        return _peak(_TORCH, Path(name), job, of=f"the checkpoint of {bundle} in torch")


def _peak(code: str, folder: Path, job: Mapping[str, Any], *, of: str) -> int:
    """Return what a process prints that runs `code` with a folder in which the job lies."""
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    command = [sys.executable, "-c", code, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - one of the codes above
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise RplnError(
            f"the process that measures the memory of {of} failed ({reason}). Free memory for it, or add --no-memory."
        )
    return int(done.stdout.split()[-1])
