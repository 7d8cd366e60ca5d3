"""config.pbtxt: what is written is what Google's parser reads, and our reader reads the same."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from google.protobuf import json_format, text_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import model_config_pb2

from rpln_runtime.manifest import read_manifest, write_manifest
from rpln_runtime.triton import RepositoryError, write_repository
from rpln_runtime.triton.onnx_signature import onnx_signature
from rpln_runtime.triton.pbtxt import message_from_text, text_from_message
from rpln_runtime.triton.schema import MODEL_CONFIG
from tests.triton.conftest import ENCODERS
from tests.triton.networks import ToyBundle

KINDS = {
    str: {FieldDescriptor.TYPE_STRING},
    bool: {FieldDescriptor.TYPE_BOOL},
    int: {
        FieldDescriptor.TYPE_INT32,
        FieldDescriptor.TYPE_INT64,
        FieldDescriptor.TYPE_UINT32,
        FieldDescriptor.TYPE_UINT64,
    },
}


DEFAULTS: tuple[Any, ...] = ([], "", "0", "False", "REJECT")


@pytest.mark.parametrize("name", ENCODERS)
def test_configurations_are_read_alike(bundle_of: Callable[[str], ToyBundle], tmp_path: Path, name: str) -> None:
    write_repository(bundle_of(name).folder, tmp_path / "repository", name=name)
    files = list((tmp_path / "repository").glob("*/**/*.pbtxt"))
    assert len(files) == 5
    for file in files:
        text = file.read_text(encoding="utf-8")
        parsed = text_format.Parse(text, model_config_pb2.ModelConfig())
        ours = message_from_text(text, MODEL_CONFIG, "test")
        assert text_format.Parse(text_from_message(ours), model_config_pb2.ModelConfig()) == parsed
        assert plain(ours) == plain(fields_of(parsed))
        assert parsed.name == file.relative_to(tmp_path / "repository").parts[0]


def test_every_field_of_the_schema_is_one_of_triton() -> None:
    assert check_schema(MODEL_CONFIG, model_config_pb2.ModelConfig.DESCRIPTOR) > 80


def check_schema(schema: Any, descriptor: Descriptor) -> int:
    """Compare a message's fields with Triton's, and return how many there are."""
    count = 0
    for name, kind in schema.items():
        field = descriptor.fields_by_name[name]
        assert field.is_repeated == isinstance(kind, list), name
        inner = kind[0] if isinstance(kind, list) else kind
        count += 1
        if isinstance(inner, dict):
            count += check_schema(inner, field.message_type)
        elif isinstance(inner, frozenset):
            assert inner <= set(field.enum_type.values_by_name), name
        else:
            assert field.type in KINDS[inner], name
    return count


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
    read = message_from_text(written, MODEL_CONFIG, "test")
    assert read == message


@pytest.mark.parametrize(
    "text",
    [
        "name: 'single' # a comment\nmax_batch_size: 0x10",
        'name: "in" "two" input { dims: 1 dims: [ 2, 3 ] };',
        'name: "\\101\\n\\"\\302\\265"\ninput [ { name: "a" }, { name: "b" dims: [] } ]',
        'response_cache: { enable: true }\nparameters { key: "k" value: { string_value: "v" } }',
    ],
)
def test_other_spellings_are_read_as_google_reads_them(text: str) -> None:
    parsed = text_format.Parse(text, model_config_pb2.ModelConfig())
    assert plain(message_from_text(text, MODEL_CONFIG, "test")) == plain(fields_of(parsed))


def test_an_error_names_file_and_line() -> None:
    with pytest.raises(RepositoryError, match=r"a/config.pbtxt, line 3: max_batch_size is many, expected an integer"):
        message_from_text('# first\nname: "a"\nmax_batch_size: many', MODEL_CONFIG, "a/config.pbtxt")


@pytest.mark.parametrize("name", ENCODERS)
def test_signatures_are_those_that_onnx_reads(bundle_of: Callable[[str], ToyBundle], name: str) -> None:
    path = bundle_of(name).folder / "model.onnx"
    graph = onnx.load(path).graph
    types = {onnx.TensorProto.INT64: "TYPE_INT64", onnx.TensorProto.FLOAT: "TYPE_FP32"}
    for side, values in (("input", graph.input), ("output", graph.output)):
        expected = [
            {
                "name": value.name,
                "data_type": types[value.type.tensor_type.elem_type],
                "dims": [
                    dim.dim_value if dim.HasField("dim_value") else -1 for dim in value.type.tensor_type.shape.dim
                ],
            }
            for value in values
        ]
        assert onnx_signature(path)[side] == expected


def test_graphs_of_a_provider_are_served_by_it(bundle_of: Callable[[str], ToyBundle], tmp_path: Path) -> None:
    """Each configuration names the form that its provider runs; weights are shared; measured threads are kept."""
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
    assert {path.name for path in (served / "1").iterdir()} == {"model.onnx", "model.onnx.data", "model.ort.onnx"}
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
    assert "it computes in bf16" in (tmp_path / "repository" / "README.md").read_text()


def copy_of(bundle: ToyBundle, parent: Path) -> Path:
    folder = parent / "bundle"
    folder.mkdir()
    for path in bundle.folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def edit_manifest(folder: Path, *, graph: dict[str, Any], **fields: Any) -> None:
    """Change the manifest's JSON, and let it be read and written once more for the list of files."""
    path = folder / "rpln.json"
    document = json.loads(path.read_text()) | fields | {"files": []}
    document["graphs"][0] |= graph
    listed = [{"path": one.name, "size": one.stat().st_size, "sha256": ""} for one in folder.iterdir() if one != path]
    path.write_text(json.dumps(document | {"files": listed}))
    write_manifest(folder, read_manifest(folder, verify=False))


def fields_of(message: Any) -> Any:
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


def plain(value: Any) -> Any:
    """Both ways to write a message alike: maps as dicts, numbers as texts, no field that has its default."""
    if isinstance(value, dict):
        return {key: inner for key, one in value.items() if (inner := plain(one)) not in DEFAULTS}
    if isinstance(value, list):
        if value and all(isinstance(one, dict) and one.keys() <= {"key", "value"} and "key" in one for one in value):
            return plain({one["key"]: one.get("value", "") for one in value})
        return [plain(one) for one in value]
    return str(value)
