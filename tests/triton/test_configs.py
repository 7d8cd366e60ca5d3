"""config.pbtxt: Google's parser reads what is written, and an error in one names the line."""

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import model_config_pb2

from rpln_runtime.errors import MissingExtraError
from rpln_runtime.manifest import read_manifest, write_manifest
from rpln_runtime.triton import RepositoryError, write_repository
from rpln_runtime.triton.checks import reading
from rpln_runtime.triton.checks.reading import enum_name, read_config
from rpln_runtime.triton.pbtxt import text_from_message
from tests.triton.conftest import ENCODERS
from tests.triton.networks import ToyBundle


@pytest.mark.parametrize("name", ENCODERS)
def test_google_reads_what_is_written(bundle_of: Callable[[str], ToyBundle], tmp_path: Path, name: str) -> None:
    write_repository(bundle_of(name).folder, tmp_path / "repository", name=name)
    files = list((tmp_path / "repository").glob("*/**/*.pbtxt"))
    assert len(files) == 5
    for file in files:
        parsed = text_format.Parse(file.read_text(encoding="utf-8"), model_config_pb2.ModelConfig())
        assert parsed.name == file.relative_to(tmp_path / "repository").parts[0]
        assert parsed.input
        assert parsed.output


@given(text=st.text(), count=st.integers(-(2**31), 2**31 - 1), flag=st.booleans(), labels=st.lists(st.text(max_size=5)))
def test_any_values_come_back(text: str, count: int, flag: bool, labels: list[str]) -> None:
    message = {
        "name": text,
        "max_batch_size": count,
        "response_cache": {"enable": flag},
        "instance_group": [{"profile": labels, "gpus": [count, 0]}] if labels else [],
        "metric_tags": [{"key": label, "value": text} for label in labels],
    }
    written = text_from_message(message)
    parsed = text_format.Parse(written, model_config_pb2.ModelConfig())
    assert (parsed.name, parsed.max_batch_size, parsed.response_cache.enable) == (text, count, flag)
    assert [list(group.profile) for group in parsed.instance_group] == ([labels] if labels else [])
    assert dict(parsed.metric_tags) == dict.fromkeys(labels, text)


def test_an_error_names_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "config.pbtxt").write_text('# first\nname: "a"\nmax_batch_size: many')
    with pytest.raises(RepositoryError, match=r"config\.pbtxt, line 3: .*many"):
        read_config(tmp_path / "config.pbtxt")


def test_a_number_stands_for_an_enum_value_without_a_name(tmp_path: Path) -> None:
    (tmp_path / "config.pbtxt").write_text("input { data_type: 99 } input { data_type: 9 }")
    unknown, known = read_config(tmp_path / "config.pbtxt").input
    assert (enum_name(unknown, "data_type"), enum_name(known, "data_type")) == ("99", "TYPE_INT64")


def test_parameters_are_read_one_by_one(tmp_path: Path) -> None:
    file = tmp_path / "config.pbtxt"
    file.write_text("".join(f'parameters {{ key: "k" value {{ string_value: "{value}" }} }}\n' for value in "ab"))
    assert [(one.key, one.value.string_value) for one in read_config(file).parameters] == [("k", "a"), ("k", "b")]


@pytest.mark.parametrize("module", ["google.protobuf", "tritonclient.grpc"])
def test_without_the_protobufs_the_command_to_install_them_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    reading._model_config.cache_clear()
    monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / "config.pbtxt").touch()
    with pytest.raises(MissingExtraError, match=r'pip install "rpln-runtime\[triton\]"'):
        read_config(tmp_path / "config.pbtxt")


def test_graphs_of_a_provider_are_served_by_it(bundle_of: Callable[[str], ToyBundle], tmp_path: Path) -> None:
    """Each configuration names the form that its provider runs. Weights are shared, and measured threads are kept."""
    folder = copy_of(bundle_of("text-classification"), tmp_path)
    model = onnx.load(folder / "model.onnx")
    onnx.save(model, folder / "model.onnx", save_as_external_data=True, location="model.onnx.data", size_threshold=0)
    (folder / "model.ort.onnx").write_bytes((folder / "model.onnx").read_bytes())
    edit_manifest(
        folder,
        graph={"rewritten": [{"path": "model.ort.onnx", "form": "fused", "providers": ["cpu"]}]},
        optimization={
            "target": "cpu",
            "workload": "latency",
            "provider": "cpu",
            "threads": 3,
            "spinning": None,
            "candidates": [],
            "note": "",
        },
    )
    write_repository(folder, tmp_path / "repository", name="one")
    served = tmp_path / "repository" / "one_model"
    gpu, cpu = (
        text_format.Parse((served / path).read_text(), model_config_pb2.ModelConfig())
        for path in ("config.pbtxt", "configs/cpu.pbtxt")
    )
    assert (gpu.default_model_filename, cpu.default_model_filename) == ("model.onnx", "model.ort.onnx")
    assert {path.name for path in (served / "1").iterdir()} == {
        "model.onnx",
        "model.onnx.data",
        "model.ort.onnx",
        "rpln.json",
    }
    assert [group.kind for group in (*gpu.instance_group, *cpu.instance_group)] == [1, 2]  # KIND_GPU, KIND_CPU
    assert dict(cpu.parameters)["intra_op_thread_count"].string_value == "3"
    assert not gpu.parameters
    (accelerator,) = gpu.optimization.execution_accelerators.gpu_execution_accelerator
    assert dict(accelerator.parameters) == {"enable_skip_layer_norm_strict_mode": "1"}


def test_bf16_is_for_gpus_alone(bundle_of: Callable[[str], ToyBundle], tmp_path: Path) -> None:
    folder = copy_of(bundle_of("text-classification"), tmp_path)
    write_manifest(folder, dataclasses.replace(read_manifest(folder), precision="bfloat16"))
    write_repository(folder, tmp_path / "repository", name="one")
    assert not (tmp_path / "repository" / "one_model" / "configs").exists()
    assert "computes in bf16" in (tmp_path / "repository" / "README.md").read_text()


def copy_of(bundle: ToyBundle, parent: Path) -> Path:
    folder = parent / "bundle"
    folder.mkdir()
    for path in bundle.folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def edit_manifest(folder: Path, *, graph: dict[str, Any], **fields: Any) -> None:
    """Change the manifest's JSON, then read and write it once more, which updates the list of files."""
    path = folder / "rpln.json"
    document = json.loads(path.read_text()) | fields | {"files": []}
    document["graphs"][0] |= graph
    listed = [{"path": one.name, "size": one.stat().st_size, "sha256": ""} for one in folder.iterdir() if one != path]
    path.write_text(json.dumps(document | {"files": listed}))
    write_manifest(folder, read_manifest(folder, verify=False))
