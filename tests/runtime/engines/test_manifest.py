"""engines/NAME.json: what is written can be read. An engine that is incomplete or has another schema is refused."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rpln_runtime import ManifestError
from rpln_runtime.engines.manifest import (
    ENGINE_SCHEMA_VERSION,
    EngineManifest,
    Layer,
    Range,
    graph_files,
    read_engine,
    read_engines,
    write_engine,
)
from rpln_runtime.manifest import (
    Axis,
    BundleFile,
    Graph,
    Manifest,
    Source,
    TensorSpec,
    bundle_file_from_path,
    read_manifest,
    write_manifest,
)

NAME = "engines/model.tensorrt-rtx-sm89"
MANIFEST = Manifest(
    task="token-classification",
    graphs=(
        Graph(
            variant="full",
            path="model.onnx",
            opset=20,
            inputs=(TensorSpec(name="input_ids", dtype="int64", shape=("batch", "sequence")),),
            outputs=(TensorSpec(name="logits", dtype="float32", shape=("batch", "sequence", 3)),),
        ),
    ),
    axes={"batch": Axis(minimum=1, maximum=None), "sequence": Axis(minimum=1, maximum=64)},
    usable_length=64,
    vocab_size=400,
    type_vocab_size=1,
    pad_token_id=1,
    mask_token_id=None,
    problem_type=None,
    labels=("A", "B", "C"),
    precision="float16",
    recipe="fp16",
    passes={},
    target="cuda",
    source=Source(name="tiny", sha256="0" * 64),
    versions={},
    validation={},
)


def engine_of(folder: Path, **fields: Any) -> EngineManifest:
    made = EngineManifest(
        builder="tensorrt-rtx",
        version="1.7.1.116",
        targets=("sm80", "sm89"),
        hardware_compatible=False,
        version_compatible=False,
        stripped=False,
        variant="full",
        precision="float16",
        graph=(bundle_file_from_path(folder, folder / "model.onnx"),),
        plan=bundle_file_from_path(folder, folder / f"{NAME}.plan"),
        profiles=(
            {"batch": Range(minimum=1, optimum=4, maximum=8), "sequence": Range(minimum=1, optimum=1, maximum=1)},
            {"batch": Range(minimum=1, optimum=1, maximum=1), "sequence": Range(minimum=1, optimum=8, maximum=64)},
        ),
        weights=60160,
        activations=(8390656, 8193024),
        workspace=None,
        attentions=(0, 2),
        layers=(
            Layer(
                name="_gemm_mha_v2_myl1_7", kind="kgen", nodes=("a", "b"), inputs=("float16",), outputs=(), profile=1
            ),
        ),
        seconds=0.25,
        timing_cache=None,
    )
    return dataclasses.replace(made, **fields)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    (folder / "engines").mkdir(parents=True)
    (folder / "model.onnx").write_bytes(b"\x3a\x00")  # an empty graph
    (folder / f"{NAME}.plan").write_bytes(b"engine")
    write_engine(folder / f"{NAME}.json", engine_of(folder))
    write_manifest(folder, MANIFEST)
    return folder


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"workspace": 2**28, "timing_cache": "f" * 64, "version_compatible": True, "stripped": True},
        {"hardware_compatible": True, "targets": ("sm89",), "layers": ()},
    ],
)
def test_what_is_written_is_read(folder: Path, fields: dict[str, Any]) -> None:
    engine = engine_of(folder, **fields)
    write_engine(folder / f"{NAME}.json", engine)
    assert read_engine(folder / f"{NAME}.json") == engine
    write_manifest(folder, MANIFEST)
    assert read_engines(folder, read_manifest(folder)) == [engine]


def test_engines_come_in_the_order_of_their_names(folder: Path) -> None:
    for name in ("z", "a"):
        (folder / f"engines/{name}.plan").write_bytes(name.encode())
        plan = bundle_file_from_path(folder, folder / f"engines/{name}.plan")
        write_engine(folder / f"engines/{name}.json", engine_of(folder, plan=plan))
    write_manifest(folder, MANIFEST)
    found = read_engines(folder, read_manifest(folder))
    assert [engine.plan.path for engine in found] == ["engines/a.plan", f"{NAME}.plan", "engines/z.plan"]


def test_a_bundle_without_engines_has_none(folder: Path) -> None:
    for path in (folder / "engines").iterdir():
        path.unlink()
    write_manifest(folder, MANIFEST)
    assert read_engines(folder, read_manifest(folder)) == []


def test_what_the_bundles_manifest_does_not_list_is_no_engine_of_it(folder: Path) -> None:
    manifest = read_manifest(folder)
    write_engine(folder / "engines/stray.json", engine_of(folder))
    assert len(read_engines(folder, manifest)) == 1


def test_an_engine_whose_plan_is_not_in_the_bundle_is_refused(folder: Path) -> None:
    (folder / f"{NAME}.plan").unlink()
    write_manifest(folder, MANIFEST)
    with pytest.raises(ManifestError, match=rf"no {NAME}\.plan.* [Bb]uild"):
        read_engines(folder, read_manifest(folder))


def test_an_altered_plan_is_refused_with_the_bundle(folder: Path) -> None:
    (folder / f"{NAME}.plan").write_bytes(b"engima")
    with pytest.raises(ManifestError, match=r"\.plan .*SHA-256"):
        read_manifest(folder)


def put(*keys: str | int, value: Any) -> Callable[[Any], None]:
    def change(document: Any) -> None:
        for key in keys[:-1]:
            document = document[key]
        document[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("schema_version", value=ENGINE_SCHEMA_VERSION + 1), r"schema version 2.* 1\."),
        (put("schema_version", value=None), r"schema version None.* 1\."),
        (put("weights", value="many"), r"schema 1: the engine\.weights is 'many', expected int\."),
        (put("targets", value="sm89"), r"the engine\.targets is 'sm89', expected"),
        (put("plan", value=None), r"the engine\.plan holds None, expected \['path', 'sha256', 'size'\]"),
        (put("profiles", 0, "batch", "minimum", value=1.5), r"profiles\[0\]\.batch\.minimum is 1\.5, expected int"),
        (put("layers", 0, "colour", value="red"), r"layers\[0\] holds \['colour', "),
        (put("attentions", value=[2]), r"2 profiles.* 2 .*attentions of 1: .*[Bb]uild"),
        (put("activations", value=[1, 2, 3]), r"2 profiles, activations of 3 "),
        (put("profiles", value=[{}]), r"1 profiles, activations of 2 "),
    ],
)
def test_an_altered_engine_is_refused(folder: Path, change: Callable[[Any], None], message: str) -> None:
    path = folder / f"{NAME}.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    change(document)
    path.write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(ManifestError, match=message):
        read_engine(path)


def test_an_engine_without_a_profile_is_refused(folder: Path) -> None:
    write_engine(folder / f"{NAME}.json", engine_of(folder, profiles=(), activations=(), attentions=()))
    with pytest.raises(ManifestError, match="0 profiles"):
        read_engine(folder / f"{NAME}.json")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000], ids=["empty", "cut", "not UTF-8", "deep"])
def test_what_is_no_json_is_refused(folder: Path, content: bytes) -> None:
    (folder / f"{NAME}.json").write_bytes(content)
    with pytest.raises(ManifestError, match=r"\.json .*[Bb]uild"):
        read_engine(folder / f"{NAME}.json")


def test_a_missing_file_is_refused(folder: Path) -> None:
    with pytest.raises(ManifestError, match=r"nowhere\.json"):
        read_engine(folder / "nowhere.json")


@pytest.mark.parametrize("content", ["null", "[]", "7", "{}"])
def test_json_that_is_no_engine_is_refused(folder: Path, content: str) -> None:
    (folder / f"{NAME}.json").write_text(content)
    with pytest.raises(ManifestError, match="schema version None"):
        read_engine(folder / f"{NAME}.json")


def test_a_graph_is_its_file_and_its_weights() -> None:
    files = tuple(
        BundleFile(path=path, size=1, sha256=path)
        for path in ("decode.onnx", "model.onnx", "model.onnx.data", "model.ort.onnx", "prefill.onnx")
    )
    manifest = dataclasses.replace(MANIFEST, files=files)
    assert [file.path for file in graph_files("model.onnx", manifest)] == ["model.onnx", "model.onnx.data"]
    # All graphs of a bundle share one file of weights.
    assert [file.path for file in graph_files("decode.onnx", manifest)] == ["decode.onnx", "model.onnx.data"]
    without = dataclasses.replace(manifest, files=files[:2])
    assert graph_files("model.onnx", without) == (files[1],)
