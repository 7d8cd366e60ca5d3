"""`--engine tensorrt` on a stand-in: what the builder asks of enterprise TensorRT 10 and 11, and what it keeps."""

import dataclasses
import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner, Result

from rpln_export.bundle.engines import build_engines, engines_of_bundle
from rpln_export.cli import rpln_command
from rpln_export.plan import engines as engine_plans
from rpln_export.plan.engines import EngineRequest, _installed, make_engine_plan
from rpln_graphs.errors import EngineError
from rpln_graphs.tensorrt.backends import EngineOptions
from rpln_graphs.tensorrt.layers import layers_from_log
from rpln_runtime.engines.manifest import EngineManifest
from rpln_runtime.manifest import read_manifest
from tests.export.engines import RECIPE, ignore, make_bundle
from tests.export.tensorrt_stand_in import OF_ANOTHER_GPU, Calls, stand_in
from tests.tensorrt import NEEDS_TENSORRT_RTX, targets_of_plan

pytestmark = NEEDS_TENSORRT_RTX

VERSIONS = ("10.13.3.9", "11.0.0.114")
GPU = "sm89"


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture
def calls(version: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Calls:
    """Return the calls of the stand-in, on a machine with a GPU and an empty cache."""
    calls = Calls()
    monkeypatch.setitem(sys.modules, "tensorrt", stand_in(version, calls))
    monkeypatch.setattr(engine_plans, "device_target", lambda: GPU)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return calls


def build(folder: Path, *options: str) -> Result:
    return CliRunner().invoke(rpln_command, ["build", str(folder), "--engine", "tensorrt", *options])


def built(folder: Path, *options: str) -> EngineManifest:
    result = build(folder, *options)
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    read_manifest(folder)
    (engine,) = engines_of_bundle(folder)
    return engine


@pytest.mark.parametrize("dtype", RECIPE)
def test_an_engine_is_for_the_gpu_at_hand(tmp_path: Path, calls: Calls, version: str, dtype: str) -> None:
    folder = make_bundle(tmp_path / "bundle", dtype)
    engine = built(folder)
    assert (engine.builder, engine.version, engine.targets) == ("tensorrt", version, (GPU,))
    assert engine.plan.path == f"engines/model.tensorrt-{GPU}.plan"
    assert targets_of_plan((folder / engine.plan.path).read_bytes()) == (GPU,)
    # The inspector tells both.
    assert engine.precision == dtype
    assert engine.attentions == (int(dtype != "float32"),)
    assert calls.inspected == [version]


def test_types_are_the_graphs_own_in_every_version(tmp_path: Path, calls: Calls, version: str) -> None:
    built(make_bundle(tmp_path / "bundle"))
    # STRONGLY_TYPED is bit 1 where it exists. Later versions are always strongly typed.
    assert calls.network_flags == [1 << 1 if version.startswith("10.") else 0]
    assert calls.flags == []
    assert calls.level is None


def test_an_inspection_says_what_the_log_says(
    tmp_path: Path, calls: Calls, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs: list[str] = []
    module: ModuleType = sys.modules["tensorrt"]
    original = module.Runtime

    def noting(log: object) -> object:
        logs.append(log.text)  # type: ignore[attr-defined] # the logger that the builder made
        return original(log)

    monkeypatch.setattr(module, "Runtime", noting)
    engine = built(make_bundle(tmp_path / "bundle"))
    (log,) = logs
    told = layers_from_log(log)
    assert [dataclasses.replace(layer, inputs=()) for layer in engine.layers] == [
        dataclasses.replace(layer, inputs=()) for layer in told
    ]


@pytest.mark.parametrize(
    ("option", "flags"),
    [
        ("version_compatible", ["VERSION_COMPATIBLE"]),
        ("strip_weights", ["STRIP_PLAN", "REFIT_IDENTICAL"]),
        ("hardware_compatible", []),
    ],
)
def test_options_are_asked_of_the_builder_and_kept(tmp_path: Path, calls: Calls, option: str, flags: list[str]) -> None:
    import tensorrt_rtx

    engine = built(make_bundle(tmp_path / "bundle"), f"--{option.replace('_', '-')}")
    assert calls.flags == flags
    level = tensorrt_rtx.HardwareCompatibilityLevel.AMPERE_PLUS
    assert calls.level == (level if option == "hardware_compatible" else None)
    kept = {
        "version_compatible": engine.version_compatible,
        "strip_weights": engine.stripped,
        "hardware_compatible": engine.hardware_compatible,
    }
    assert [name for name, on in kept.items() if on] == [option]


def test_timings_are_kept_for_the_next_build(tmp_path: Path, calls: Calls, version: str) -> None:
    path = tmp_path / "cache" / "rpln" / f"tensorrt-{version}-{GPU}.timings"
    folder = make_bundle(tmp_path / "bundle")
    first = built(folder)
    assert path.read_bytes() == b"a kernel;"
    assert first.timing_cache == hashlib.sha256(b"a kernel;").hexdigest()
    second = built(folder)
    assert calls.timings == [b"", b"a kernel;"]
    assert path.read_bytes() == b"a kernel;a kernel;"
    assert second.timing_cache == hashlib.sha256(b"a kernel;a kernel;").hexdigest()
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_timings_of_another_gpu_are_begun_anew(tmp_path: Path, calls: Calls, version: str) -> None:
    path = tmp_path / "cache" / "rpln" / f"tensorrt-{version}-{GPU}.timings"
    path.parent.mkdir(parents=True)
    path.write_bytes(OF_ANOTHER_GPU + b"a kernel;")
    built(make_bundle(tmp_path / "bundle"))
    assert calls.timings == [OF_ANOTHER_GPU + b"a kernel;", b""]
    assert path.read_bytes() == b"a kernel;"


def test_without_a_place_for_it_the_cache_is_at_home(
    tmp_path: Path, calls: Calls, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    built(make_bundle(tmp_path / "bundle"))
    assert (tmp_path / "home" / ".cache" / "rpln" / f"tensorrt-{version}-{GPU}.timings").is_file()


def test_auto_prefers_it_where_there_is_a_gpu(tmp_path: Path, calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_plans, "_installed", _installed)
    # The stand-in is not an installed package, so it gets its version here.
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object() if name == "tensorrt" else None)
    plan = make_engine_plan(EngineRequest(), precision="fp16")
    assert (plan.backend and plan.backend.name, plan.targets, plan.required) == ("tensorrt", (GPU,), False)
    (engine,) = build_engines(plan, make_bundle(tmp_path / "bundle"), ignore)
    assert engine.builder == "tensorrt"


def test_a_refusal_names_the_version(tmp_path: Path, calls: Calls, version: str) -> None:
    result = build(make_bundle(tmp_path / "bundle"), "--workspace", "1")
    assert result.exit_code == EngineError.exit_code
    assert result.stderr.startswith(f"Error: tensorrt {version} refuses model.onnx: ")


def test_an_engine_that_falls_back_is_refused(
    tmp_path: Path, calls: Calls, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = "tests.export.tensorrt_stand_in"
    name = "sentence" if version.startswith("10.") else "pair"
    original: Callable[[str, str], dict[str, str]] = getattr(sys.modules[module], name)
    monkeypatch.setattr(sys.modules[module], name, lambda tensor, _: original(tensor, "Float"))
    result = build(make_bundle(tmp_path / "bundle"))
    assert result.exit_code == EngineError.exit_code
    assert "profile 0" in result.stderr
    assert "product (float16: float32)" in result.stderr


def test_every_option_together(tmp_path: Path, calls: Calls) -> None:
    options = EngineOptions(version_compatible=True, hardware_compatible=True, strip_weights=True, workspace=2**29)
    plan = make_engine_plan(EngineRequest(name="tensorrt", options=options), precision="fp16")
    (engine,) = build_engines(plan, make_bundle(tmp_path / "bundle"), ignore)
    assert calls.flags == ["VERSION_COMPATIBLE", "STRIP_PLAN", "REFIT_IDENTICAL"]
    assert engine.workspace == 2**29
