"""Builds the C++ runtime once for each state of the sources. Tests are skipped if a tool is missing."""

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from tests.sharing import forget_old, made_once

ROOT: Final = Path(__file__).parents[2]
RUNTIME: Final = ROOT / "runtime/cpp"
HEADERS: Final = ROOT / ".tools/onnxruntime/include"
MOST_DRIVERS: Final = 4
INSTALL: Final = "run .ci/install-tools, which installs it"
TOOLS: Final = {"g++": "g++", "cmake": "cmake", "clang++": "clang", "make": "make"}
"""Commands that are needed, and the Debian packages that have them."""
PREPROCESSED: Final = {"pcre2.h": "libpcre2-dev", "nlohmann/json.hpp": "nlohmann-json3-dev"}
FUZZER: Final = 'extern "C" int LLVMFuzzerTestOneInput(const unsigned char*, unsigned long) { return 0; }'


class Driver:
    """A running driver: the tests' program, which has loaded a file or a bundle and answers requests.

    It runs with sanitizers. An error that they find fails the test that sent the request; a leak is found when it
    stops.
    """

    def __init__(self, *command: object) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 # as long as the process runs
        self._process = subprocess.Popen(
            [str(part) for part in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors
        )

    def ask(self, request: Any) -> Any:
        """Return the answer to a request."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            self.stop()
            pytest.fail(f"the driver ended without an answer to {request}")
        return json.loads(answer)

    def stop(self) -> None:
        """End the program. Fails if the sanitizers or the program itself found an error."""
        with contextlib.suppress(BrokenPipeError):
            self._process.communicate()
        self._errors.seek(0)
        found = self._errors.read().decode(errors="replace")
        self._errors.close()
        assert self._process.returncode == 0, found


@dataclass(frozen=True, kw_only=True)
class Build:
    """A build: the installed runtime, and the tests' own programs."""

    prefix: Path
    programs: Path
    drivers: dict[tuple[object, ...], Driver] = field(default_factory=dict, repr=False)
    """Running drivers, the last used at the end. Loading a bundle takes them seconds, answering takes no time."""

    @property
    def command_line(self) -> Path:
        """The path of the example program."""
        return self.prefix / "bin/rpln-cli"

    @property
    def library(self) -> Path:
        """The path of the library with the C interface."""
        return next((self.prefix / "lib").rglob("librpln_c.so"))

    def fuzzer(self, name: str) -> Path:
        """Return a fuzz target, which is built when it is needed for the first time."""

        def make(stamp: Path) -> None:
            _run("cmake", "--build", self.programs, "--target", name)
            stamp.touch()

        made_once(self.programs / f"{name}.built", make)
        return self.programs / name

    def ask(self, command: str, path: Path, requests: Iterable[Any], **options: Any) -> list[Any]:
        """Return the answer of a driver that was started with the command, the path and the options."""
        arguments = (command, path, json.dumps(options))
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        key = (*arguments, *((file, file.lstat().st_mtime_ns) for file in files))
        driver = self.drivers.pop(key, None) or Driver(self.programs / "driver", *arguments)
        answers = [driver.ask(request) for request in requests]
        self.drivers[key] = driver
        self.stop_drivers(but=MOST_DRIVERS)
        return answers

    def stop_drivers(self, *, but: int = 0) -> None:
        """Stop all drivers except the last used. Fails if one of them found an error."""
        while len(self.drivers) > but:
            self.drivers.pop(next(iter(self.drivers))).stop()


def missing_tools() -> list[str]:
    """Return the packages that the build needs and this machine lacks."""
    missing = [package for command, package in TOOLS.items() if shutil.which(command) is None]
    if missing:
        return missing
    missing += [package for header, package in PREPROCESSED.items() if not compiles("g++", f"#include <{header}>")]
    if not compiles("clang++", FUZZER, "-fsanitize=fuzzer,address,undefined"):
        missing.append("libclang-rt-dev")
    if not (HEADERS / "onnxruntime_cxx_api.h").is_file():
        missing.append("the headers of ONNX Runtime")
    return missing


def compiles(compiler: str, source: str, *flags: str) -> bool:
    """Return whether a source of one line compiles, or its headers are found."""
    mode = flags or ("-fsyntax-only",)
    command = [compiler, "-x", "c++", "-DPCRE2_CODE_UNIT_WIDTH=8", *mode, "-o", os.devnull, "-"]
    return subprocess.run(command, input=source.encode(), capture_output=True, check=False).returncode == 0


def build(parent: Path) -> Build:
    """Build and install the runtime with g++, and then the tests' programs with clang and sanitizers.

    A build of the same sources with the same compilers that is already in `parent` is used again.
    """
    if missing := missing_tools():
        message = f"the C++ runtime is not tested without {', '.join(missing)}: {INSTALL}"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(message)
    folder = parent / _digest_of_sources()
    made = Build(prefix=folder / "prefix", programs=folder / "tests")

    def make(stamp: Path) -> None:
        forget_old(parent, keep=1)
        _build_all(folder, made)
        stamp.touch()

    made_once(folder / "built", make)
    return made


def _digest_of_sources() -> str:
    compilers = [_run("g++", "--version"), _run("clang++", "--version")]
    digest = hashlib.sha256("\n".join([sys.prefix, importlib.metadata.version("onnxruntime"), *compilers]).encode())
    for path in sorted(path for folder in (RUNTIME, Path(__file__).parent) for path in folder.rglob("*")):
        if path.suffix not in {".py", ".pyc"} and path.is_file():
            digest.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return digest.hexdigest()[:32]


def _build_all(folder: Path, made: Build) -> None:
    shutil.rmtree(folder / "onnxruntime", ignore_errors=True)  # left by a build that was interrupted
    options = [f"-DONNXRUNTIME_ROOT={onnxruntime_root(folder / 'onnxruntime')}"]
    runtime = folder / "runtime"
    # Without optimization compiling takes a third of the time, and no test measures speed.
    strictly = ["-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_CXX_COMPILER=g++", "-DCMAKE_CXX_FLAGS=-Werror"]
    _run("cmake", "-S", RUNTIME, "-B", runtime, *options, *strictly)
    _run("cmake", "--build", runtime, "--parallel", "2")
    _run("cmake", "--install", runtime, "--prefix", made.prefix)
    found = [f"-DCMAKE_PREFIX_PATH={made.prefix}", "-DCMAKE_CXX_COMPILER=clang++"]
    _run("cmake", "-S", Path(__file__).parent, "-B", made.programs, *options, *found)
    _run("cmake", "--build", made.programs, "--target", "driver")


def onnxruntime_root(folder: Path) -> Path:
    """Return a folder with headers and Python's own library, laid out like a release archive of ONNX Runtime."""
    spec = importlib.util.find_spec("onnxruntime")
    assert spec is not None
    assert spec.origin is not None
    (library,) = (Path(spec.origin).parent / "capi").glob("libonnxruntime.so.*.*")
    (folder / "lib").mkdir(parents=True)
    (folder / "include").symlink_to(HEADERS)
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (folder / "lib" / name).symlink_to(library)
    return folder


def _run(*command: object) -> str:
    run = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert run.returncode == 0, f"{command}\n{run.stdout[-4000:]}\n{run.stderr[-4000:]}"
    return run.stdout
