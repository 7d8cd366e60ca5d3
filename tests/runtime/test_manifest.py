import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rpln_runtime import ManifestError
from rpln_runtime.manifest import (
    MANIFEST_NAME,
    Axis,
    Generation,
    Graph,
    Manifest,
    Source,
    TensorSpec,
    read_manifest,
    write_manifest,
)

MANIFEST = Manifest(
    task="token-classification",
    graphs=(
        Graph(
            variant="full",
            path="model.onnx",
            opset=18,
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
    precision="fp32",
    recipe="fp32",
    passes={"FoldAffine": 4},
    target="onnxruntime",
    source=Source(name="tiny", sha256="0" * 64),
    versions={"torch": "2.13.0"},
    validation={"logits": {"maximum": 1e-6, "passed": True}},
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    (folder / "engines").mkdir(parents=True)
    (folder / "model.onnx").write_bytes(b"graph")
    (folder / "engines" / "a.plan").write_bytes(b"engine")
    write_manifest(folder, MANIFEST)
    return folder


def test_what_is_written_is_read(folder: Path) -> None:
    manifest = read_manifest(folder)
    assert dataclasses.replace(manifest, files=()) == MANIFEST
    assert [(file.path, file.size) for file in manifest.files] == [("engines/a.plan", 6), ("model.onnx", 5)]
    write_manifest(folder, manifest)
    assert read_manifest(folder) == manifest


def test_what_a_decoder_needs_is_read(folder: Path) -> None:
    generation = Generation(
        pad_token_id=1, bos_token_id=None, eos_token_ids=(2, 4), start_token_id=0, first_position=2, pad_position=1
    )
    write_manifest(folder, dataclasses.replace(MANIFEST, generation=generation))
    assert read_manifest(folder).generation == generation


def edit(folder: Path, change: Callable[[Any], None]) -> None:
    path = folder / MANIFEST_NAME
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def put(*keys: str | int, value: Any) -> Callable[[Any], None]:
    def change(document: Any) -> None:
        for key in keys[:-1]:
            document = document[key]
        document[keys[-1]] = value

    return change


def drop(*keys: str | int) -> Callable[[Any], None]:
    def change(document: Any) -> None:
        for key in keys[:-1]:
            document = document[key]
        del document[keys[-1]]

    return change


PATH = ("files", 1, "path")
LEAVES = r"rpln\.json .* in the folder .*[Dd]o not use"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put(*PATH, value="../model.onnx"), LEAVES),
        (put(*PATH, value="engines/../../model.onnx"), LEAVES),
        (put(*PATH, value="/etc/passwd"), LEAVES),
        (put(*PATH, value="C:model.onnx"), LEAVES),
        (put(*PATH, value="C:\\model.onnx"), LEAVES),
        (put(*PATH, value="engines\\..\\..\\model.onnx"), LEAVES),
        (put(*PATH, value="\\\\server\\model.onnx"), LEAVES),
        (put(*PATH, value="model.onnx\0.txt"), LEAVES),
        (put(*PATH, value="."), "is missing"),
        (put(*PATH, value="engines"), "is missing"),
        (put(*PATH, value="other.onnx"), r"other\.onnx is missing"),
        (put("files", 1, "size", value=6), r"model\.onnx has 5 bytes.* 6"),
        (put("files", 1, "sha256", value="0" * 64), r"model\.onnx .*SHA-256"),
        (drop("files", 1), r"rpln\.json .*'model\.onnx'"),
        (put("graphs", value=[]), r"no graph.* [Ee]xport"),
        (put("generation", value=[]), r"generation holds \[\], expected \['bos_token_id', "),
        (put("graphs", 0, "path", value="../m.onnx"), r"rpln\.json .*'\.\./m\.onnx'"),
        (put("schema_version", value=1), "schema version 1.* 3"),
        (put("schema_version", value="2"), "schema version '2'.* 3"),
        (drop("schema_version"), "schema version None.* 3"),
        (put("schema_version", value=3.0), r"the manifest\.schema_version is 3\.0, expected int"),
        (put("usable_length", value="64"), r"schema 3: the manifest\.usable_length is '64', expected int\."),
        (put("vocab_size", value=True), r"the manifest\.vocab_size is True, expected int\."),
        (put("mask_token_id", value=1.5), r"the manifest\.mask_token_id is 1\.5, expected int \| None\."),
        (put("labels", value="ABC"), r"the manifest\.labels is 'ABC', expected tuple"),
        (put("labels", 1, value=None), r"the manifest\.labels\[1\] is None, expected str\."),
        (put("axes", "batch", "minimum", value=None), r"the manifest\.axes\.batch\.minimum is None, expected int\."),
        (
            put("graphs", 0, "inputs", 0, "shape", 0, value=[]),
            r"graphs\[0\]\.inputs\[0\]\.shape\[0\] is \[\], expected str \| int",
        ),
        (put("source", value=7), r"the manifest\.source holds 7, expected \['name', 'sha256'\]\."),
        (drop("source", "name"), r"the manifest\.source holds \['sha256'\], expected \['name', 'sha256'\]\."),
        (put("source", "date", value="today"), r"holds \['date', 'name', 'sha256'\], expected \['name', 'sha256'\]\."),
        (drop("axes", "sequence"), r"axes sequence of 'model\.onnx'"),
    ],
)
def test_an_altered_manifest_is_refused(folder: Path, change: Callable[[Any], None], message: str) -> None:
    edit(folder, change)
    with pytest.raises(ManifestError, match=message):
        read_manifest(folder)


@pytest.mark.parametrize(
    "content",
    [b"", b"not json", b'{"schema_version": 1', b"\xff\xfe", b"[" * 100_000, b'{"schema_version": ' + b"1" * 5000],
    ids=["empty", "text", "cut", "not UTF-8", "deep", "huge number"],
)
def test_what_is_no_json_is_refused(folder: Path, content: bytes) -> None:
    (folder / MANIFEST_NAME).write_bytes(content)
    with pytest.raises(ManifestError, match=r"rpln\.json is not valid JSON .*[Ee]xport"):
        read_manifest(folder)


@pytest.mark.parametrize("content", ["null", "[]", "7", '"text"', "{}"])
def test_json_that_is_no_manifest_is_refused(folder: Path, content: str) -> None:
    (folder / MANIFEST_NAME).write_text(content)
    with pytest.raises(ManifestError, match="schema version None"):
        read_manifest(folder)


def test_a_folder_that_is_no_bundle_is_refused(folder: Path) -> None:
    (folder / MANIFEST_NAME).unlink()
    for path in (folder, folder / "nowhere", folder / "model.onnx"):
        with pytest.raises(ManifestError, match=r"rpln\.json.* bundle.* rpln-export"):
            read_manifest(path)


def test_a_link_out_of_the_folder_is_refused(folder: Path) -> None:
    outside = folder.parent / "outside.onnx"
    (folder / "model.onnx").rename(outside)
    (folder / "model.onnx").symlink_to(outside)
    with pytest.raises(ManifestError, match=r"model\.onnx is a link .*[Dd]o not use"):
        read_manifest(folder)


def test_a_linked_subfolder_is_refused(folder: Path) -> None:
    (folder / "engines").rename(folder.parent / "engines")
    (folder / "engines").symlink_to(folder.parent / "engines", target_is_directory=True)
    with pytest.raises(ManifestError, match=r"a\.plan is a link"):
        read_manifest(folder)


def test_a_link_inside_the_folder_is_followed(folder: Path) -> None:
    (folder / "model.onnx").rename(folder / "real.onnx")
    (folder / "model.onnx").symlink_to("real.onnx")
    assert read_manifest(folder).graphs[0].path == "model.onnx"


def test_an_altered_byte_is_found_unless_told_not_to_look(folder: Path) -> None:
    (folder / "engines" / "a.plan").write_bytes(b"engima")
    with pytest.raises(ManifestError, match=r"a\.plan .*SHA-256.* [Cc]opy"):
        read_manifest(folder)
    assert read_manifest(folder, verify=False).task == MANIFEST.task


def test_a_truncated_file_is_found_even_so(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(b"gra")
    with pytest.raises(ManifestError, match=r"model\.onnx has 3 bytes.* 5"):
        read_manifest(folder, verify=False)
