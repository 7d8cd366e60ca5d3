"""What ONNX Runtime's TensorRT provider is told about a bundle."""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnxruntime
import pytest

from rpln_runtime import ProviderError, load
from rpln_runtime.engines.manifest import Range
from tests.runtime.bundles import Bundle, copy_bundle
from tests.runtime.tensorrt_stand_in import add_engines

PROVIDER = "onnxruntime-tensorrt"
Options = dict[str, str]


@pytest.fixture
def bundle(bundle_of: Callable[..., Bundle]) -> Bundle:
    return bundle_of("token-classification")


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Path], Options]:
    """Return the options that an onnxruntime with TensorRT gets for the bundle in a folder. No session starts."""
    given: list[tuple[str, Options]] = []

    def session(path: str, options: Any, providers: list[Any], *, enable_fallback: int) -> Any:
        assert options.get_session_config_entry("session.disable_cpu_ep_fallback") == "1"
        assert enable_fallback == 0
        given.extend(providers)
        return SimpleNamespace(get_providers=lambda: ["CPUExecutionProvider"])

    module = SimpleNamespace(
        __version__="1.0",
        InferenceSession=session,
        SessionOptions=onnxruntime.SessionOptions,
        preload_dlls=lambda: None,
        get_available_providers=lambda: ["TensorrtExecutionProvider", "CPUExecutionProvider"],
    )
    monkeypatch.setitem(sys.modules, "onnxruntime", module)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def told(folder: Path) -> Options:
        with pytest.raises(ProviderError, match=r"'onnxruntime-tensorrt'.*CPUExecutionProvider"):
            load(folder, provider=PROVIDER)
        name, options = given.pop()
        assert name == "TensorrtExecutionProvider"
        return options

    return told


def test_caches_are_kept_on_this_machine_by_graph(
    bundle: Bundle, told: Callable[[Path], Options], tmp_path: Path
) -> None:
    options = told(bundle.folder)
    cache = tmp_path / "cache/rpln/onnxruntime-tensorrt"
    assert options["trt_engine_cache_enable"] == options["trt_timing_cache_enable"] == "1"
    assert options["trt_timing_cache_path"] == str(cache)
    engines = Path(options["trt_engine_cache_path"])
    assert engines.parent == cache
    assert engines.is_dir()
    other = copy_bundle(bundle, tmp_path)
    assert told(other)["trt_engine_cache_path"] == str(engines)
    (other / "model.onnx").write_bytes((other / "model.onnx").read_bytes() + b"\x1a\x01x")  # a producer's version
    copied = copy_bundle(dataclasses.replace(bundle, folder=other), tmp_path / "altered")
    assert told(copied)["trt_engine_cache_path"] != str(engines)


def test_without_home_and_cache_the_usual_folder_is_taken(
    bundle: Bundle, told: Callable[[Path], Options], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert told(bundle.folder)["trt_timing_cache_path"] == str(tmp_path / ".cache/rpln/onnxruntime-tensorrt")


@pytest.mark.parametrize(
    ("precision", "flags"),
    [("float32", set()), ("float16", {"trt_fp16_enable"}), ("bfloat16", {"trt_bf16_enable"})],
)
def test_the_types_of_the_graph_are_allowed(
    bundle: Bundle, told: Callable[[Path], Options], tmp_path: Path, precision: str, flags: set[str]
) -> None:
    options = told(copy_bundle(bundle, tmp_path, precision=precision))
    assert {name for name in options if name in ("trt_fp16_enable", "trt_bf16_enable", "trt_int8_enable")} == flags
    assert all(options[name] == "1" for name in flags)


def test_profiles_are_the_defaults(bundle: Bundle, told: Callable[[Path], Options]) -> None:
    options = told(bundle.folder)
    assert {name: options[name] for name in options if "profile" in name} == {
        "trt_profile_min_shapes": "input_ids:1x1,attention_mask:1x1",
        "trt_profile_opt_shapes": "input_ids:4x64,attention_mask:4x64",
        "trt_profile_max_shapes": "input_ids:8x64,attention_mask:8x64",
    }


def test_profiles_are_those_of_the_bundles_engines(
    bundle: Bundle, told: Callable[[Path], Options], tmp_path: Path
) -> None:
    first = {"batch": Range(minimum=1, optimum=2, maximum=4), "sequence": Range(minimum=1, optimum=8, maximum=16)}
    second = {**first, "sequence": Range(minimum=17, optimum=32, maximum=64)}
    options = told(add_engines(bundle.folder, tmp_path, profiles=[first, second]))
    assert options["trt_profile_min_shapes"] == ("input_ids:1x1,attention_mask:1x1,input_ids:1x17,attention_mask:1x17")
    assert options["trt_profile_max_shapes"] == (
        "input_ids:4x16,attention_mask:4x16,input_ids:4x64,attention_mask:4x64"
    )
