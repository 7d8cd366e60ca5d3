"""Describes the machine that the figures come from: its processor, and the versions of what was measured."""

import importlib.metadata
import os
import platform
from collections.abc import Sequence
from pathlib import Path


def describe_machine(*, threads: int) -> dict[str, str | int]:
    """Return a sentence on the processor, the number of cores that are used, and the system."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count() or 0,
        "threads": threads,
        "system": f"{platform.system()} {platform.machine()}",
    }


def versions_of(distributions: Sequence[str]) -> dict[str, str]:
    """Return the versions of Python and of those `distributions` that are installed."""
    return {"Python": platform.python_version()} | {name: _version(name) for name in distributions}


def _processor() -> str:
    """Return the name that Linux gives the processor, and the names of its most important instruction sets."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return platform.processor() or platform.machine()
    fields = dict(line.split(":", 1) for line in path.read_text(encoding="utf-8").splitlines() if ":" in line)
    facts = {name.strip(): value.strip() for name, value in fields.items()}
    flags = facts.get("flags", "").split()
    known = [name for name in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile") if name in flags]
    return f"{facts.get('model name', platform.machine())} ({', '.join(known) or 'no AVX2'})"


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
