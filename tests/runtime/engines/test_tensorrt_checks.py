"""What an engine says where it cannot run: one sentence, and the command that helps."""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rpln_runtime import ManifestError, MissingExtraError, ProviderError, load
from rpln_runtime.engines.manifest import read_engine, write_engine
from rpln_runtime.engines.providers import open_engine
from rpln_runtime.manifest import TensorSpec, read_manifest, write_manifest
from tests.runtime.bundles import Bundle
from tests.runtime.engines.test_engines import feeds_of
from tests.runtime.tensorrt_stand_in import add_engines, install_stand_in

RTX, ENTERPRISE = "tensorrt-rtx", "tensorrt"
VERSION = "1.7.1.116"


@pytest.fixture
def source(bundle_of: Callable[..., Bundle]) -> Path:
    return bundle_of("token-classification").folder


def refusal(folder: Path, provider: str = RTX) -> str:
    with pytest.raises(ProviderError) as caught:
        load(folder, provider=provider)
    assert caught.value.exit_code == 5
    return str(caught.value)


def test_a_bundle_without_engines(source: Path) -> None:
    assert refusal(source) == (
        f"{source} holds no engine of its graph 'full' for provider 'tensorrt-rtx'. "
        f"Build one: rpln build {source} --engine tensorrt-rtx"
    )


def test_an_engine_of_the_other_builder(source: Path, tmp_path: Path) -> None:
    folder = add_engines(source, tmp_path)
    assert refusal(folder, ENTERPRISE) == (
        f"{folder} holds no engine of its graph 'full' for provider 'tensorrt', only full by tensorrt-rtx. "
        f"Build one: rpln build {folder} --engine tensorrt"
    )


@pytest.mark.parametrize("module", ["tensorrt_rtx", "cuda.bindings.runtime"])
def test_without_a_package_the_pip_command_is_named(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    folder = add_engines(source, tmp_path)
    install_stand_in(monkeypatch)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError) as caught:
        load(folder, provider=RTX)
    assert str(caught.value).startswith(f"provider 'tensorrt-rtx' runs engines with {module}, which is not installed (")
    assert str(caught.value).endswith('). Run: pip install "rpln-runtime[tensorrt-rtx]"')


def test_an_engine_of_another_version(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A driver is looked for after that: none is here.
    install_stand_in(monkeypatch, devices=None)
    folder = add_engines(source, tmp_path, version="1.6.0.1")
    assert refusal(folder) == (
        "engines/full-tensorrt-rtx.plan was built by tensorrt-rtx 1.6.0.1, and 1.7.1.116 is installed, which cannot "
        'read it: with pip install "rpln-runtime[tensorrt-rtx]" tensorrt-rtx==1.6.0.1 it would run. '
        f"Build it again: rpln build {folder} --engine tensorrt-rtx"
    )


@pytest.mark.parametrize(
    ("fields", "runs"),
    [
        ({"version": "10.12.0.36", "version_compatible": True}, True),
        ({"version": "10.12.0.36", "version_compatible": False}, False),
        ({"version": "10.14.0.1", "version_compatible": True}, False),
        ({"version": "11.0.0", "version_compatible": True}, False),
    ],
)
def test_version_compatible_engines_run_by_later_ones(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], *, runs: bool
) -> None:
    install_stand_in(monkeypatch, ENTERPRISE)
    folder = add_engines(source, tmp_path, builder=ENTERPRISE, **fields)
    if runs:
        assert load(folder, provider=ENTERPRISE).provider == ENTERPRISE
    else:
        expected = f"was built by tensorrt {fields['version']}, and 10.13.3.9 is installed"
        assert expected in refusal(folder, ENTERPRISE)


def test_without_a_driver(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_stand_in(monkeypatch, devices=None)
    # Targets are looked at after that: no device here is one of these.
    folder = add_engines(source, tmp_path, targets=("sm75",))
    assert refusal(folder) == (
        "there is no NVIDIA driver here that serves a GPU (cudaErrorInsufficientDriver, insufficientdriver), which an "
        "engine needs. Install it, look at rpln doctor, or choose provider='cpu'."
    )


def test_without_a_device(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_stand_in(monkeypatch, devices=0)
    assert "serves a GPU (it finds no device)" in refusal(add_engines(source, tmp_path))


ON_THE_GPUS = [
    ({"targets": ("sm86", "sm89")}, (8, 9), None),
    ({"targets": ("sm86", "sm89")}, (8, 0), "sm86, sm89, and the GPU here is sm80"),
    ({"targets": ("sm86",)}, (12, 0), "sm86, and the GPU here is sm120"),
    ({"targets": ("sm86",), "hardware_compatible": True}, (12, 0), None),
    ({"targets": ("sm86",), "hardware_compatible": True}, (8, 0), "sm86 and later, and the GPU here is sm80"),
]


@pytest.mark.parametrize("row", ON_THE_GPUS)
def test_an_engine_runs_on_the_gpus_that_it_is_for(
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    row: tuple[dict[str, Any], tuple[int, int], str | None],
) -> None:
    fields, device, reason = row
    install_stand_in(monkeypatch, capability=device)
    folder = add_engines(source, tmp_path, **fields)
    if reason is None:
        assert load(folder, provider=RTX).provider == RTX
        return
    here = "sm" + "".join(map(str, device))
    assert refusal(folder) == (
        f"engines/full-tensorrt-rtx.plan is for {reason}. "
        f"Build one for it: rpln build {folder} --engine tensorrt-rtx --gpu {here}"
    )


def test_an_engine_of_another_graph(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_stand_in(monkeypatch)
    folder = add_engines(source, tmp_path)
    path = folder / "engines/full-tensorrt-rtx.json"
    engine = read_engine(path)
    other = dataclasses.replace(engine.graph[0], sha256="0" * 64)
    write_engine(path, dataclasses.replace(engine, graph=(other,)))
    write_manifest(folder, read_manifest(folder, verify=False))
    assert refusal(folder) == (
        "engines/full-tensorrt-rtx.plan was built from another model.onnx than the bundle holds (SHA-256). "
        f"Build it again: rpln build {folder} --engine tensorrt-rtx --gpu sm89"
    )


def test_the_one_that_fits_is_chosen_among_several(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_stand_in(monkeypatch)
    rows: list[dict[str, Any]] = [
        {"name": "a-old", "version": "1.0"},
        {"name": "b-other-gpu", "targets": ("sm120",)},
        {"name": "c-stripped", "stripped": True},
        {"name": "d-compatible", "targets": ("sm80",), "hardware_compatible": True},
        {"name": "e-right"},
    ]
    *_, folder = (add_engines(source, tmp_path, **row) for row in rows)
    engine: Any = load(folder, provider=RTX)._engine
    assert engine.manifest.plan.path == "engines/e-right.plan"


def test_a_plan_that_nvidia_refuses_is_quoted(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_stand_in(monkeypatch)
    folder = add_engines(source, tmp_path)
    plan = folder / "engines/full-tensorrt-rtx.plan"
    plan.write_bytes(b"no plan")
    write_manifest(folder, read_manifest(source))
    assert refusal(folder) == (
        "tensorrt-rtx 1.7.1.116 cannot load engines/full-tensorrt-rtx.plan: Serialization assertion header.magicTag "
        "failed. Check the device, its free memory (rpln doctor), or build the engine again: "
        f"rpln build {folder} --engine tensorrt-rtx"
    )


def test_an_altered_plan_is_found_by_its_hash(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_stand_in(monkeypatch)
    folder = add_engines(source, tmp_path)
    plan = folder / "engines/full-tensorrt-rtx.plan"
    plan.write_bytes(plan.read_bytes()[:-1] + b"?")
    with pytest.raises(ManifestError, match=r"full-tensorrt-rtx\.plan differs from what was exported \(SHA-256\)"):
        load(folder, provider=RTX)


def test_a_stripped_engine_gets_the_weights_of_its_graph(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_stand_in(monkeypatch, ENTERPRISE)
    folder = add_engines(source, tmp_path, builder=ENTERPRISE, stripped=True)
    cpu, gpu = load(folder, provider="cpu"), load(folder, provider=ENTERPRISE)
    feeds = feeds_of(cpu.manifest)
    assert np.array_equal(gpu.run(feeds)["logits"], cpu.run(feeds)["logits"])


def test_a_graph_whose_outputs_depend_on_values_is_refused(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_stand_in(monkeypatch)
    folder = add_engines(source, tmp_path)
    manifest = read_manifest(folder)
    (graph,) = manifest.graphs
    output = TensorSpec(name="logits", dtype="float32", shape=("masked_tokens", 6))
    graph = dataclasses.replace(graph, outputs=(output,))
    write_manifest(folder, dataclasses.replace(manifest, graphs=(graph,)))
    assert refusal(folder) == (
        "the output 'logits' of model.onnx has as many masked_tokens as its inputs hold, which provider 'tensorrt-rtx' "
        "cannot know beforehand. Export the checkpoint with --logits positions or all."
    )


def test_a_file_alone_is_no_bundle(source: Path) -> None:
    with pytest.raises(ProviderError, match=r"provider 'tensorrt' runs the engines of a bundle: open it with load\(\)"):
        open_engine(source / "model.onnx", provider=ENTERPRISE)
