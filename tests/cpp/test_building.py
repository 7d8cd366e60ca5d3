"""Tests of C++ are skipped, or fail in CI, where a tool is missing; drivers report errors; CMake finds ONNX Runtime."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cpp import building


@pytest.mark.parametrize(("ci", "outcome"), [("false", pytest.skip.Exception), ("true", pytest.fail.Exception)])
def test_a_missing_tool_is_named(
    ci: str, outcome: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", ci)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(outcome, match=r"g\+\+, cmake, clang, make.*\.ci/install-tools"):
        building.build(tmp_path)


def test_a_driver_answers_until_it_finds_something() -> None:
    script = "import sys; print(input(), flush=True); input(); sys.exit('a leak')"
    driver = building.Driver(sys.executable, "-c", script)
    assert driver.ask({"a": 1}) == {"a": 1}
    with pytest.raises(AssertionError, match="a leak"):
        driver.ask(None)


def test_what_a_driver_finds_as_it_stops_is_not_lost() -> None:
    driver = building.Driver(sys.executable, "-c", "import sys; print(input(), flush=True); sys.exit('a leak')")
    assert driver.ask(5) == 5
    with pytest.raises(AssertionError, match="a leak"):
        driver.stop()


def configure(tmp_path: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    """Configure a project, in which nothing is compiled, that needs ONNX Runtime."""
    if shutil.which("cmake") is None:
        pytest.skip("there is no cmake")
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.22)\nproject(user LANGUAGES NONE)\n"
        f'list(APPEND CMAKE_MODULE_PATH "{building.RUNTIME / "cmake"}")\nfind_package(OnnxRuntime REQUIRED)\n'
    )
    command = ["cmake", "-S", ".", "-B", "build", *options]
    return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)


def test_cmake_takes_a_relative_folder(tmp_path: Path) -> None:
    for name in ("include/onnxruntime_cxx_api.h", "lib/libonnxruntime.so"):
        (tmp_path / "unpacked" / name).parent.mkdir(parents=True)
        (tmp_path / "unpacked" / name).touch()
    found = configure(tmp_path, "-DONNXRUNTIME_ROOT=unpacked")
    assert found.returncode == 0, found.stderr
    assert f"Found OnnxRuntime: {tmp_path}/unpacked/lib/libonnxruntime.so" in found.stdout


def test_cmake_names_the_folder_that_it_searched(tmp_path: Path) -> None:
    found = configure(tmp_path, "-DONNXRUNTIME_ROOT=nowhere")
    assert found.returncode != 0
    assert f"ONNXRUNTIME_ROOT is {tmp_path}/nowhere. Pass -DONNXRUNTIME_ROOT=FOLDER" in found.stderr
