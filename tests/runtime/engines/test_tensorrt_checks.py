"""If an engine cannot run, the message gives the reason and the command that helps."""

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
from tests.runtime.messages import naming
from tests.runtime.tensorrt_stand_in import add_engines, install_stand_in

RTX, ENTERPRISE = "tensorrt-rtx", "tensorrt"
VERSION = "1.7.1.116"
PLAN = "engines/full-tensorrt-rtx.plan"


@pytest.fixture
def source(bundle_of: Callable[..., Bundle]) -> Path:
    return bundle_of("token-classification").folder


def check_refused(folder: Path, *facts: str, provider: str = RTX) -> None:
    with pytest.raises(ProviderError, match=naming(*facts)) as caught:
        load(folder, provider=provider)
    assert caught.value.exit_code == 5


def rebuild(folder: Path, provider: str = RTX) -> str:
    return f"rpln build {folder} --engine {provider}"


def test_a_bundle_without_engines(source: Path) -> None:
    check_refused(source, str(source), "'full'", "'tensorrt-rtx'", rebuild(source))


def test_an_engine_of_the_other_builder(source: Path, tmp_path: Path) -> None:
    folder = add_engines(source, tmp_path)
    facts = (str(folder), "'full'", "'tensorrt'", "full by tensorrt-rtx", rebuild(folder, ENTERPRISE))
    check_refused(folder, *facts, provider=ENTERPRISE)


@pytest.mark.parametrize("module", ["tensorrt_rtx", "cuda.bindings.runtime"])
def test_without_a_package_the_pip_command_is_named(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    folder = add_engines(source, tmp_path)
    install_stand_in(monkeypatch)
    monkeypatch.setitem(sys.modules, module, None)
    facts = ("'tensorrt-rtx'", module, 'Run: pip install "rpln-runtime[tensorrt-rtx]"')
    with pytest.raises(MissingExtraError, match=naming(*facts)):
        load(folder, provider=RTX)


def test_an_engine_of_another_version(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The driver is checked later, and there is none here.
    install_stand_in(monkeypatch, devices=None)
    folder = add_engines(source, tmp_path, version="1.6.0.1")
    install = 'pip install "rpln-runtime[tensorrt-rtx]" tensorrt-rtx==1.6.0.1'
    check_refused(folder, PLAN, "tensorrt-rtx 1.6.0.1", VERSION, install, rebuild(folder))


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
        check_refused(folder, f"tensorrt {fields['version']}", "10.13.3.9", provider=ENTERPRISE)


def test_without_a_driver(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_stand_in(monkeypatch, devices=None)
    # The targets are checked later, and no device here is one of them.
    folder = add_engines(source, tmp_path, targets=("sm75",))
    reason = "cudaErrorInsufficientDriver, insufficientdriver"
    check_refused(folder, "NVIDIA driver", reason, "rpln doctor", "provider='cpu'")


def test_without_a_device(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_stand_in(monkeypatch, devices=0)
    check_refused(add_engines(source, tmp_path), "CUDA finds none", "rpln doctor")


ON_THE_GPUS = [
    ({"targets": ("sm86", "sm89")}, (8, 9), None),
    ({"targets": ("sm86", "sm89")}, (8, 0), "sm86, sm89"),
    ({"targets": ("sm86",)}, (12, 0), "sm86"),
    ({"targets": ("sm86",), "hardware_compatible": True}, (12, 0), None),
    ({"targets": ("sm86",), "hardware_compatible": True}, (8, 0), "sm86 and later"),
]


@pytest.mark.parametrize("row", ON_THE_GPUS)
def test_an_engine_runs_on_the_gpus_that_it_is_for(
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    row: tuple[dict[str, Any], tuple[int, int], str | None],
) -> None:
    fields, device, targets = row
    install_stand_in(monkeypatch, capability=device)
    folder = add_engines(source, tmp_path, **fields)
    if targets is None:
        assert load(folder, provider=RTX).provider == RTX
        return
    here = "sm" + "".join(map(str, device))
    check_refused(folder, PLAN, targets, here, f"{rebuild(folder)} --gpu {here}")


def test_an_engine_of_another_graph(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_stand_in(monkeypatch)
    folder = add_engines(source, tmp_path)
    path = folder / "engines/full-tensorrt-rtx.json"
    engine = read_engine(path)
    other = dataclasses.replace(engine.graph[0], sha256="0" * 64)
    write_engine(path, dataclasses.replace(engine, graph=(other,)))
    write_manifest(folder, read_manifest(folder, verify=False))
    check_refused(folder, PLAN, "model.onnx", "SHA-256", f"{rebuild(folder)} --gpu sm89")


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
    plan = folder / PLAN
    plan.write_bytes(b"no plan")
    write_manifest(folder, read_manifest(source))
    quoted = "Serialization assertion header.magicTag failed."
    check_refused(folder, f"tensorrt-rtx {VERSION}", PLAN, quoted, "rpln doctor", rebuild(folder))


def test_an_altered_plan_is_found_by_its_hash(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_stand_in(monkeypatch)
    folder = add_engines(source, tmp_path)
    plan = folder / PLAN
    plan.write_bytes(plan.read_bytes()[:-1] + b"?")
    with pytest.raises(ManifestError, match=naming(PLAN, "SHA-256")):
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
    inputs = tuple(dataclasses.replace(spec, values=None) for spec in graph.inputs)
    graph = dataclasses.replace(graph, inputs=inputs, outputs=(output,))
    write_manifest(folder, dataclasses.replace(manifest, task="fill-mask", vocab_size=6, graphs=(graph,)))
    facts = ("'logits'", "model.onnx", "masked_tokens", "'tensorrt-rtx'", "--logits positions or all")
    check_refused(folder, *facts)


def test_a_file_alone_is_no_bundle(source: Path) -> None:
    with pytest.raises(ProviderError, match=naming("'tensorrt'", "load()")):
        open_engine(source / "model.onnx", provider=ENTERPRISE)
