"""The two wheels: their content, their requirements, and that they work where nothing else is installed."""

import dataclasses
import email
import json
import os
import subprocess
import sys
import zipfile
from email.message import Message
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from rpln_export.extras import EXTRAS

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / "constraints.txt"
CONSTRAINTS_457 = ROOT / "constraints-transformers457.txt"
MEGABYTE = 1 << 20

SOURCES = {
    "rpln_export": ROOT / "rpln_export",
    "rpln_graphs": ROOT / "graphs" / "rpln_graphs",
    "rpln_model": ROOT / "model" / "rpln_model",
    "rpln_runtime": ROOT / "runtime" / "rpln_runtime",
}
ROOT_PACKAGES = ("rpln_export", "rpln_graphs", "rpln_model")
MOVED = {"rpln_export/optimum/register_rpln_export.py": "optimum/commands/register/register_rpln_export.py"}
"""The place in the wheel of a file that is not installed where it lies here."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Wheel:
    path: Path
    names: frozenset[str]
    metadata: Message

    @property
    def requirements(self) -> list[Requirement]:
        return [Requirement(line) for line in self.metadata.get_all("Requires-Dist") or []]

    def base_requirements(self) -> list[Requirement]:
        return [one for one in self.requirements if one.marker is None or one.marker.evaluate({"extra": ""})]

    def required_by_extra(self, extra: str) -> set[str]:
        base = {one.name for one in self.base_requirements()}
        marked = {one.name for one in self.requirements if one.marker and one.marker.evaluate({"extra": extra})}
        return marked - base


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Wheel]:
    folder = tmp_path_factory.mktemp("wheels")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    arguments = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder)]
    subprocess.run([*pip, *arguments, str(ROOT / "runtime"), str(ROOT)], check=True)
    found = [read_wheel(path) for path in folder.glob("*.whl")]
    return {str(wheel.metadata["Name"]): wheel for wheel in found}


def read_wheel(path: Path) -> Wheel:
    with zipfile.ZipFile(path) as archive:
        names = frozenset(archive.namelist())
        (metadata,) = [name for name in names if name.endswith(".dist-info/METADATA")]
        return Wheel(path=path, names=names, metadata=email.message_from_bytes(archive.read(metadata)))


@pytest.mark.parametrize(
    ("distribution", "packages"),
    [("rpln-export", {*ROOT_PACKAGES, "optimum"}), ("rpln-runtime", {"rpln_runtime"})],
    ids=["rpln-export", "rpln-runtime"],
)
def test_a_wheel_installs_its_packages_and_nothing_else(
    wheels: dict[str, Wheel], distribution: str, packages: set[str]
) -> None:
    top_level = {name.split("/")[0] for name in wheels[distribution].names}
    assert {name for name in top_level if not name.endswith(".dist-info")} == packages
    assert set(wheels) == {"rpln-export", "rpln-runtime"}


def test_one_file_lies_where_optimum_looks_for_plugins(wheels: dict[str, Wheel]) -> None:
    found = {name for name in wheels["rpln-export"].names if name.startswith("optimum/")}
    assert found == set(MOVED.values())


@pytest.mark.parametrize("package", SOURCES)
def test_a_wheel_holds_every_file_of_a_package(wheels: dict[str, Wheel], package: str) -> None:
    source = SOURCES[package]
    files = {
        MOVED.get(name := f"{package}/{path.relative_to(source).as_posix()}", name)
        for path in source.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    wheel = wheels["rpln-export" if package in ROOT_PACKAGES else "rpln-runtime"]
    assert {f"{package}/__init__.py", f"{package}/py.typed"} <= files
    assert files - wheel.names == set()


def test_the_root_wheel_carries_the_default_checkpoint(wheels: dict[str, Wheel]) -> None:
    wanted = {"config.json", "model.safetensors", "tokenizer.json", "README.md"}
    assert {f"rpln_export/default_checkpoints/token-classification/{name}" for name in wanted} <= wheels[
        "rpln-export"
    ].names
    assert (
        sum(path.stat().st_size for path in (ROOT / "rpln_export/default_checkpoints/token-classification").iterdir())
        <= 4_000_000
    )


def test_the_runtime_wheel_is_small(wheels: dict[str, Wheel]) -> None:
    assert wheels["rpln-runtime"].path.stat().st_size < MEGABYTE


@pytest.mark.parametrize("distribution", ["rpln-export", "rpln-runtime"])
def test_a_wheel_carries_the_licence(wheels: dict[str, Wheel], distribution: str) -> None:
    (name,) = [name for name in wheels[distribution].names if name.endswith(".dist-info/licenses/LICENSE")]
    with zipfile.ZipFile(wheels[distribution].path) as archive:
        assert archive.read(name) == (ROOT / "LICENSE").read_bytes()


def test_both_have_one_version_and_the_exporter_requires_it(wheels: dict[str, Wheel]) -> None:
    version = wheels["rpln-runtime"].metadata["Version"]
    assert wheels["rpln-export"].metadata["Version"] == version
    (runtime,) = [one for one in wheels["rpln-export"].base_requirements() if one.name == "rpln-runtime"]
    assert str(runtime.specifier) == f"=={version}"


def test_no_base_install_requires_an_onnxruntime_wheel(wheels: dict[str, Wheel]) -> None:
    required = {one.name for wheel in wheels.values() for one in wheel.base_requirements()}
    assert {"torch", "numpy"} <= required
    assert {name for name in required if name.startswith("onnxruntime")} == set()


@pytest.mark.parametrize("name", EXTRAS)
def test_an_extra_brings_what_its_row_says(wheels: dict[str, Wheel], name: str) -> None:
    exporter, runtime = wheels["rpln-export"], wheels["rpln-runtime"]
    passed_on = any(one.name == "rpln-runtime" and name in one.extras for one in exporter.requirements)
    brought = runtime.required_by_extra(name) if passed_on else exporter.required_by_extra(name)
    assert brought == {EXTRAS[name].distribution, *EXTRAS[name].beside}


def pins(file: Path) -> dict[str, str]:
    pinned = [Requirement(line) for line in file.read_text().splitlines() if not line.startswith("#")]
    assert {clause.operator for one in pinned for clause in one.specifier} == {"=="}
    return {canonicalize_name(one.name): str(one.specifier).removeprefix("==") for one in pinned}


@pytest.mark.parametrize(
    ("constraints", "extras"),
    [
        (CONSTRAINTS, {"cpu", "test", "peft", "triton", "dev"}),
        (CONSTRAINTS_457, {"cpu", "test", "peft", "triton", "optimum"}),
    ],
    ids=["transformers-5", "transformers-4.57"],
)
def test_everything_make_installs_is_pinned_within_its_range(
    wheels: dict[str, Wheel], constraints: Path, extras: set[str]
) -> None:
    pinned = pins(constraints)
    environments = [{"extra": extra} for extra in ("", *extras)]
    required = [
        one
        for wheel in wheels.values()
        for one in wheel.requirements
        if not one.name.startswith("rpln-")
        and (one.marker is None or any(one.marker.evaluate(environment) for environment in environments))
    ]
    assert len(required) > 15
    assert {canonicalize_name(one.name) for one in required} - pinned.keys() == set()
    assert [str(one) for one in required if not one.specifier.contains(pinned[canonicalize_name(one.name)])] == []


def test_the_two_sets_of_pins_differ_only_where_transformers_457_forces_it() -> None:
    main, second = pins(CONSTRAINTS), pins(CONSTRAINTS_457)
    assert main["torch"] == second["torch"] == "2.13.0"
    assert {name for name in main.keys() & second.keys() if main[name] != second[name]} == {
        "huggingface-hub",
        "sentence-transformers",
        "tokenizers",
        "transformers",
    }


class Environment:
    """A virtual environment that holds only what a test installs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)

    def install(self, *requirements: str) -> None:
        # --no-compile halves the time, because only a few of the ten thousand modules are imported.
        pip = ["-m", "pip", "install", "--quiet", "--no-compile", "--constraint", str(CONSTRAINTS)]
        done = self.run("python", *pip, *requirements)
        assert done.returncode == 0, done.stderr

    def run(self, script: str, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run a script of the environment, which sees no import path of this process."""
        variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        command = [str(self.folder / "bin" / script), *arguments]
        return subprocess.run(command, cwd=cwd, env=variables, capture_output=True, text=True, check=False)

    def distributions(self) -> set[str]:
        listed = json.loads(self.run("python", "-m", "pip", "list", "--format=json").stdout)
        return {canonicalize_name(row["name"]) for row in listed}


EXPORT = ("rpln-export", "--task", "token-classification", "--fp16")
TAG = """
import json, sys
from rpln_runtime import pipeline
print(json.dumps({"words": [row["word"] for row in pipeline(sys.argv[1])("The old man the boat.")]}))
"""


@pytest.mark.full
@pytest.mark.slow
def test_the_wheels_export_the_default_checkpoint_and_a_server_without_torch_runs_it(
    wheels: dict[str, Wheel], tmp_path: Path
) -> None:
    exporter, runtime = (str(wheels[name].path) for name in ("rpln-export", "rpln-runtime"))
    work = tmp_path / "work"
    work.mkdir()

    workstation = Environment(tmp_path / "workstation")
    workstation.install(runtime, exporter)
    assert {name for name in workstation.distributions() if name.startswith("onnxruntime")} == set()
    refused = workstation.run(*EXPORT, cwd=work)
    assert (refused.returncode, 'pip install "rpln-export[cpu]"' in refused.stderr) == (6, True), refused.stderr
    assert list(work.iterdir()) == []

    workstation.install(f"{exporter}[cpu]")
    exported = workstation.run(*EXPORT, cwd=work)
    assert exported.returncode == 0, exported.stderr
    (bundle,) = work.iterdir()

    server = Environment(tmp_path / "server")
    server.install(f"{runtime}[cpu]")
    assert {"onnxruntime", "rpln-runtime"} <= server.distributions()
    assert {"torch", "transformers", "onnx", "rpln-export"} & server.distributions() == set()
    tagged = server.run("python", "-c", TAG, str(bundle))
    assert tagged.returncode == 0, tagged.stderr
    assert "boat" in "".join(json.loads(tagged.stdout)["words"])
