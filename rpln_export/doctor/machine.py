"""What this machine has: distributions, ONNX Runtime's providers, GPUs and their driver. None of it is imported."""

import importlib.metadata
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from packaging.utils import canonicalize_name

_DRIVER_FILE: Final = Path("/proc/driver/nvidia/version")
_TIMEOUT: Final = 60.0  # seconds; a child that imports ONNX Runtime takes one
_PRINT_PROVIDERS: Final = "import json, onnxruntime; print(json.dumps(onnxruntime.get_available_providers()))"


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """An installed distribution: its version, and its requirements as its metadata states them."""

    version: str
    requires: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The facts about a machine that a diagnosis is made from.

    Attributes:
        python: the version of Python.
        executable: the path of Python.
        distributions: the installed distributions, by normalised names such as `onnxruntime-gpu` and `onnx-ir`.
        torch_cuda: the version of CUDA that torch was built for; None for a CPU build.
        providers: the providers that ONNX Runtime was built with; empty where it cannot be imported.
        providers_error: why it cannot be imported.
        driver: the version of NVIDIA's driver; None where there is none.
        gpus: a line for each GPU.
    """

    python: str
    executable: str
    distributions: Mapping[str, Distribution]
    torch_cuda: str | None = None
    providers: tuple[str, ...] = ()
    providers_error: str | None = None
    driver: str | None = None
    gpus: tuple[str, ...] = ()


def read_machine() -> Machine:
    """Return the facts about the running Python's environment, and about NVIDIA's driver if there is one."""
    providers, providers_error = _providers()
    return Machine(
        python=sys.version.split(maxsplit=1)[0],
        executable=sys.executable,
        distributions=_distributions(),
        torch_cuda=_torch_cuda(),
        providers=providers,
        providers_error=providers_error,
        driver=_driver(),
        gpus=_gpus(),
    )


def _distributions() -> dict[str, Distribution]:
    # Of two with the same name, an import finds the first. Reversed, so that the first overwrites the other here.
    found = reversed(list(importlib.metadata.distributions()))
    return {
        canonicalize_name(one.name): Distribution(version=one.version, requires=tuple(one.requires or ()))
        for one in found
    }


def _providers() -> tuple[tuple[str, ...], str | None]:
    """Return the providers, or why they are not known. A child process is asked: a broken wheel may crash it."""
    if importlib.util.find_spec("onnxruntime") is None:
        return (), None
    output, error = _run(sys.executable, "-c", _PRINT_PROVIDERS)
    return (tuple(json.loads(output)), None) if error is None else ((), error)


def _torch_cuda() -> str | None:
    """Return the version of CUDA that torch was built for, read from its file: importing torch takes seconds."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    source = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    found = re.search(r"^cuda\b.*= *'([\d.]+)'", source, re.MULTILINE)
    return found[1] if found else None


def _driver() -> str | None:
    """Return the driver's version, from the kernel module's file or, as in WSL and on Windows, from nvidia-smi."""
    if _DRIVER_FILE.is_file():
        found = re.search(r"\b\d+\.\d+(\.\d+)?\b", _DRIVER_FILE.read_text(encoding="utf-8"))
        return found[0] if found else "of unknown version"
    versions = _nvidia_smi("driver_version")
    return versions[0] if versions else None


def _gpus() -> tuple[str, ...]:
    return _nvidia_smi("name,compute_cap,memory.total")


def _nvidia_smi(fields: str) -> tuple[str, ...]:
    """Return a line for each GPU; none where there is no GPU, no driver or no nvidia-smi."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ()
    output, error = _run(tool, f"--query-gpu={fields}", "--format=csv,noheader")
    return tuple(output.splitlines()) if error is None else ()


def _run(*command: str) -> tuple[str, str | None]:
    """Return what a command printed and None, or an empty text and the last line of its error."""
    try:
        # No shell, and nothing of the commands comes from a user.
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT, check=True)  # noqa: S603
    except subprocess.CalledProcessError as error:
        lines = (error.stderr or "").strip().splitlines()
        return "", lines[-1] if lines else f"exit code {error.returncode}"
    except (OSError, subprocess.TimeoutExpired) as error:
        return "", str(error)
    return done.stdout, None
