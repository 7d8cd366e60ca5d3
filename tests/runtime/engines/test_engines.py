"""The engines that run a graph: ONNX Runtime, and OpenVINO's own runtime with the same interface."""

import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest

from rpln_runtime import ManifestError, MissingExtraError, ProviderError, load
from rpln_runtime.engines.base import Engine
from rpln_runtime.engines.openvino import PRIMITIVES
from rpln_runtime.engines.providers import open_engine
from rpln_runtime.manifest import Manifest
from rpln_runtime.tasks import TASKS
from tests.runtime.bundles import Bundle, outputs_in_fp16
from tests.runtime.messages import naming

ENCODER_TASKS = [task.name for task in TASKS.values() if task.postprocess is not None]
INSTALL = 'pip install "rpln-runtime[openvino]"'
SIZES = {"batch": 3, "choices": 2, "sequence": 9}
Arrays = dict[str, np.ndarray]


@pytest.fixture
def openvino() -> ModuleType:
    module: ModuleType = pytest.importorskip("openvino", reason="OpenVINO is not installed (extra [openvino])")
    return module


def feeds_of(manifest: Manifest, *, seed: int = 0, length: int = 9) -> Arrays:
    """Return random tokens for texts of all lengths, padded on the right."""
    rng = np.random.default_rng(seed)
    feeds: Arrays = {}
    for spec in manifest.graphs[0].inputs:
        shape = [(SIZES | {"sequence": length})[str(axis)] for axis in spec.shape]
        real = np.arange(length) < rng.integers(1, length + 1, (*shape[:-1], 1))
        feeds[spec.name] = real.astype(np.int64) if spec.name == "attention_mask" else rng.integers(0, 2, shape)
        if spec.name == "input_ids":
            feeds[spec.name] = rng.integers(5, manifest.vocab_size, shape)
    return feeds


@pytest.mark.usefixtures("openvino")
@pytest.mark.parametrize("task", ENCODER_TASKS)
def test_openvino_gives_what_onnx_runtime_gives(bundle_of: Callable[..., Bundle], task: str) -> None:
    folder = bundle_of(task).folder
    cpu, other = load(folder), load(folder, provider="openvino", threads=1)
    for length in (1, 9, 64):
        feeds = feeds_of(cpu.manifest, length=length)
        expected, found = cpu.run(feeds), other.run(feeds)
        assert list(found) == list(expected)
        for name, array in expected.items():
            assert (found[name].shape, found[name].dtype) == (array.shape, array.dtype)
            assert np.abs(found[name] - array).max() <= 1e-5


@pytest.mark.usefixtures("openvino")
@pytest.mark.parametrize(("given", "expected"), [(None, "64"), ("7", "7")])
def test_onednn_keeps_few_kernels_unless_the_user_says_how_many(
    bundle_of: Callable[..., Bundle], monkeypatch: pytest.MonkeyPatch, given: str | None, expected: str
) -> None:
    monkeypatch.setenv(PRIMITIVES, given or "")
    if given is None:
        monkeypatch.delenv(PRIMITIVES)
    load(bundle_of("token-classification").folder, provider="openvino", threads=1)
    assert os.environ[PRIMITIVES] == expected


@pytest.fixture(params=["cpu", "openvino"])
def engine(bundle_of: Callable[..., Bundle], request: pytest.FixtureRequest) -> Engine:
    if request.param == "openvino":
        request.getfixturevalue("openvino")
    return open_engine(bundle_of("token-classification").folder / "model.onnx", provider=request.param, threads=1)


@pytest.fixture(scope="module")
def manifest(bundle_of: Callable[..., Bundle]) -> Manifest:
    return bundle_of("token-classification").manifest


def test_an_engine_says_what_it_takes_and_gives(engine: Engine) -> None:
    assert engine.inputs == {"input_ids": "int64", "attention_mask": "int64"}
    # OpenVINO also names an output after the node that its compiler made it of.
    assert engine.outputs["logits"] == "float32"
    assert set(engine.outputs.values()) == {"float32"}


def test_results_outlive_the_next_run(engine: Engine, manifest: Manifest) -> None:
    (first,) = engine.run(feeds_of(manifest, seed=1), ["logits"])
    kept = first.copy()
    (second,) = engine.run(feeds_of(manifest, seed=2), ["logits"])

    assert np.array_equal(first, kept)
    assert not np.array_equal(first, second)


def test_threads_share_an_engine(engine: Engine, manifest: Manifest) -> None:
    batches = [feeds_of(manifest, seed=seed, length=3 + seed % 5) for seed in range(24)]
    expected = [engine.run(feeds, ["logits"])[0] for feeds in batches]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda feeds: engine.run(feeds, ["logits"])[0], batches))

    for one, other in zip(expected, found, strict=True):
        assert one.shape == other.shape
        assert np.abs(one - other).max() <= 1e-6


def test_arrays_of_any_layout_are_taken(engine: Engine, manifest: Manifest) -> None:
    feeds = feeds_of(manifest)
    turned = {name: np.asfortranarray(array) for name, array in feeds.items()}

    assert not turned["input_ids"].flags["C_CONTIGUOUS"]
    assert np.array_equal(engine.run(feeds, ["logits"])[0], engine.run(turned, ["logits"])[0])


def test_inputs_are_left_as_they_are(engine: Engine, manifest: Manifest) -> None:
    feeds = feeds_of(manifest)
    kept = {name: array.copy() for name, array in feeds.items()}
    engine.run(feeds, ["logits"])

    assert all(np.array_equal(feeds[name], kept[name]) for name in feeds)


def test_read_only_arrays_are_taken(engine: Engine, manifest: Manifest) -> None:
    feeds = feeds_of(manifest)
    for array in feeds.values():
        array.setflags(write=False)

    assert np.isfinite(engine.run(feeds, ["logits"])[0]).all()


# -- OpenVINO alone --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("openvino")
def test_outputs_in_fp16_have_that_type(bundle_of: Callable[..., Bundle], tmp_path: Path) -> None:
    folder = outputs_in_fp16(bundle_of("token-classification"), tmp_path)
    feeds = feeds_of(load(folder).manifest)
    expected, found = (load(folder, provider=name).run(feeds)["logits"] for name in ("cpu", "openvino"))

    assert found.dtype == np.float16
    assert np.abs(found.astype(np.float32) - expected.astype(np.float32)).max() <= 2e-3


def test_without_openvino_the_pip_command_is_named(
    bundle_of: Callable[..., Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtraError, match=naming("OpenVINO", f"Run: {INSTALL}")) as caught:
        load(bundle_of("token-classification").folder, provider="openvino")
    assert caught.value.exit_code == 6


def test_a_graph_that_openvino_cannot_compile_is_named(openvino: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n"])
    other = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n"])
    node = onnx.helper.make_node("Unheard", ["x"], ["y"], domain="elsewhere")
    opsets = [onnx.helper.make_opsetid("", 20), onnx.helper.make_opsetid("elsewhere", 1)]
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([node], "g", [value], [other]), opset_imports=opsets), path)

    facts = (f"OpenVINO {openvino.__version__}", str(path), "provider='cpu'", f"{INSTALL} --upgrade")
    with pytest.raises(ManifestError, match=naming(*facts)):
        open_engine(path, provider="openvino")


@pytest.mark.usefixtures("openvino")
def test_memory_that_openvino_does_not_take_is_refused_and_what_was_bound_stays(
    bundle_of: Callable[..., Bundle],
) -> None:
    folder = bundle_of("token-classification").folder
    session = load(folder, provider="openvino", threads=1)
    feeds = feeds_of(session.manifest)
    binding = session.bindable_engine().bind()
    for name, array in feeds.items():
        binding.bind_cpu_input(name, array)
    logits = np.zeros_like(session.run(feeds)["logits"])
    binding.bind_cpu_output("logits", logits)
    with pytest.raises(ProviderError, match=r"OpenVINO does not take memory of the shape .* for 'input_ids'"):
        binding.bind_cpu_input("input_ids", np.zeros((1, 1, 1), np.int64))

    binding.run()
    np.testing.assert_array_equal(logits, session.run(feeds)["logits"])


@pytest.mark.usefixtures("openvino")
@pytest.mark.parametrize("threads", [1, 2])
def test_a_run_that_fails_in_openvino_is_no_answer(bundle_of: Callable[..., Bundle], threads: int) -> None:
    bundle = bundle_of("token-classification")
    engine = open_engine(bundle.folder / "model.onnx", provider="openvino", threads=threads)
    feeds = feeds_of(bundle.manifest)
    expected = engine.run(feeds, ["logits"])[0]
    unequal = feeds | {"attention_mask": np.ones((3, 5), np.int64)}
    for _ in range(2):
        with pytest.raises(ProviderError, match="OpenVINO failed to run the graph"):
            engine.run(unequal, ["logits"])

    np.testing.assert_array_equal(engine.run(feeds, ["logits"])[0], expected)
