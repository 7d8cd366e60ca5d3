import dataclasses
import errno
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rpln_runtime import ManifestError, manifest
from rpln_runtime.external_data import external_files
from rpln_runtime.limits import DOCUMENTS, Document
from rpln_runtime.manifest import (
    MANIFEST_NAME,
    Axis,
    Candidate,
    Generation,
    Graph,
    Manifest,
    Optimization,
    Source,
    TensorSpec,
    read_manifest,
    write_manifest,
)
from rpln_runtime.replacing.exchange import exchange

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


GRAPH = b"\x12\x01x\x3a\x00"
"""An ONNX file of five bytes: the name of a producer, and a graph that holds nothing."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    (folder / "engines").mkdir(parents=True)
    (folder / "model.onnx").write_bytes(GRAPH)
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


def repeat(*keys: str | int) -> Callable[[Any], None]:
    """Return a change that lets the first row of a list stand at its end, too."""

    def change(document: Any) -> None:
        for key in keys:
            document = document[key]
        document.append(document[0])

    return change


def test_fields_that_older_bundles_lack_have_their_defaults(folder: Path) -> None:
    row = Candidate(variant="full", form="fused", provider="cpu", speedup=1.5, outcome="chosen")
    optimization = Optimization(
        target="cpu", workload="latency", provider="cpu", threads=None, spinning=None, candidates=(row,), note=""
    )
    write_manifest(folder, dataclasses.replace(MANIFEST, optimization=optimization))
    written = read_manifest(folder)
    for field in ("speedup_low", "speedup_high"):
        edit(folder, drop("optimization", "candidates", 0, field))
    edit(folder, drop("source", "adapter"))

    assert read_manifest(folder) == written


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
        (put("source", value=7), r"the manifest\.source holds 7, expected \['adapter', 'name', 'sha256'\]\."),
        (drop("source", "name"), r"the manifest\.source holds \['adapter', 'sha256'\], expected \['adapter', 'name', "),
        (put("source", "date", value="today"), r"source holds \['adapter', 'date', 'name', 'sha256'\], expected \['ad"),
        (drop("axes", "sequence"), r"axes sequence of 'model\.onnx'"),
        (put("pad_token_id", value=10**30), r"the manifest\.pad_token_id is 10{30}, expected integers from 0 to 2147"),
        (put("pad_token_id", value=-1), r"the manifest\.pad_token_id is -1, expected integers from 0 "),
        (put("usable_length", value=0), r"the manifest\.usable_length is 0, expected integers from 1 "),
        (put("files", 0, "size", value=2**63), r"files\[0\]\.size is 9223372036854775808, expected .*775807"),
        (put(*PATH, value="a" * 300), r"'a{40}'\.\.\., a path of 300 bytes.* 255 .*[Dd]o not use"),
        (put(*PATH, value="a/" * 1000 + "a"), r"a path of 2,001 bytes.* 1,024"),
        (put(*PATH, value="\ud800"), r"half of a surrogate pair"),
        (put("labels", value=["A", "B"]), r"outputs\[0\]\.shape is \[batch, sequence, 3\], expected .* 2\]: 'logits'"),
        (
            put("labels", value=["A"] * 20_003),
            r"outputs\[0\]\.shape .*3\], expected \[batch, sequence, 20003\].* labels",
        ),
        (put("graphs", 0, "inputs", 0, "shape", value=[]), r"inputs\[0\]\.shape is \[\], expected \[batch, sequence\]"),
        (
            put("graphs", 0, "inputs", 0, "shape", 1, value=7),
            r"inputs\[0\]\.shape is \[batch, 7\], expected \[batch, s",
        ),
        (put("graphs", 0, "inputs", 0, "dtype", value="float32"), r"dtype is 'float32', expected int64: 'input_ids'"),
        (put("graphs", 0, "inputs", 0, "values", value=9), r"inputs\[0\]\.values is 9, expected vocab_size, 400"),
        (put("graphs", 0, "outputs", 0, "dtype", value="int64"), r"dtype is 'int64', expected float32 or float16 "),
        (
            put("graphs", 0, "outputs", 0, "shape", 0, value="sequence"),
            r"shape is \[sequence, sequence, 3\], expected ",
        ),
        (put("graphs", 0, "outputs", 0, "name", value="scores"), r"graphs\[0\]\.outputs has no tensor .* 'logits'"),
        (put("problem_type", value="ranking"), r"problem_type is 'ranking', expected null or regression or single_"),
        (repeat("files"), r"files\[2\]\.path is '.*', expected another one than in the manifest\.files\[0\]"),
        (repeat("graphs"), r"graphs\[1\]\.variant is 'full', expected another one than in the manifest\.graphs\[0\]"),
        (repeat("graphs", 0, "inputs"), r"inputs\[1\]\.name is 'input_ids', expected another one than in .*\[0\]"),
        (repeat("graphs", 0, "outputs"), r"outputs\[1\]\.name is 'logits', expected another one than in .*\[0\]"),
        (put("axes", "sequence", "minimum", value=65), r"axes\.sequence\.minimum is 65, expected .* 64"),
    ],
)
def test_an_altered_manifest_is_refused(folder: Path, change: Callable[[Any], None], message: str) -> None:
    edit(folder, change)
    with pytest.raises(ManifestError, match=message):
        read_manifest(folder)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not json",
        b'{"schema_version": 1',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"schema_version": ' + b"1" * 5000,
        b"[" * 65 + b"]" * 65,
        b"NaN",
        b"1e999",
        b"\xef\xbb\xbf{}",
    ],
    ids=["empty", "text", "cut", "not UTF-8", "deep", "huge number", "65 lists", "NaN", "infinity", "byte order mark"],
)
def test_what_is_no_json_is_refused(folder: Path, content: bytes) -> None:
    (folder / MANIFEST_NAME).write_bytes(content)
    with pytest.raises(ManifestError, match=r"rpln\.json is not valid JSON .*[Ee]xport"):
        read_manifest(folder)


@pytest.mark.parametrize("name", [MANIFEST_NAME, "model.onnx"])
def test_a_file_that_may_not_be_read_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    opened = Path.open

    def refuse(path: Path, *args: Any, **options: Any) -> Any:
        if path.name == name:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return opened(path, *args, **options)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ManifestError, match=rf"{name} cannot be read \(Permission denied\).* permissions"):
        read_manifest(folder)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_named(folder: Path, encoding: str) -> None:
    path = folder / MANIFEST_NAME
    path.write_text(path.read_text(encoding="utf-8"), encoding=encoding)
    with pytest.raises(ManifestError, match="byte order mark, expected UTF-8 without one"):
        read_manifest(folder)


@pytest.mark.parametrize("content", ["null", "[]", "7", '"text"', "{}"])
def test_json_that_is_no_manifest_is_refused(folder: Path, content: str) -> None:
    (folder / MANIFEST_NAME).write_text(content)
    with pytest.raises(ManifestError, match="schema version None"):
        read_manifest(folder)


def test_a_folder_that_is_no_bundle_is_refused(folder: Path) -> None:
    (folder / MANIFEST_NAME).unlink()
    for path in (folder, folder / "nowhere"):
        with pytest.raises(ManifestError, match=r"holds no rpln\.json.* bundle.* rpln-export"):
            read_manifest(path)


def test_a_file_in_the_place_of_a_bundle_is_refused(folder: Path) -> None:
    file = folder / "model.onnx"
    with pytest.raises(ManifestError, match=rf"is a file: .* folder that it is in: {re.escape(str(folder))}$"):
        read_manifest(file)
    (folder / MANIFEST_NAME).unlink()
    with pytest.raises(
        ManifestError, match=r"is a file: expected a bundle, which is a folder\. Make one with rpln-export"
    ):
        read_manifest(file)


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


def test_a_manifest_that_is_too_large_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = (folder / MANIFEST_NAME).stat().st_size
    monkeypatch.setitem(DOCUMENTS, "manifest", Document(size=size - 1, depth=64))
    with pytest.raises(ManifestError, match=f"rpln.json .*more than {size - 1:,} bytes"):
        read_manifest(folder)


def test_as_many_lists_inside_each_other_as_the_limit_says_are_read(folder: Path) -> None:
    edit(folder, put("validation", value=json.loads('{"a":' * 63 + "7" + "}" * 63)))
    read_manifest(folder)
    edit(folder, put("validation", value=json.loads('{"a":' * 64 + "7" + "}" * 64)))
    with pytest.raises(ManifestError, match="more than 64 lists and objects"):
        read_manifest(folder)


def test_weights_that_are_not_listed_are_refused(folder: Path) -> None:
    # One initializer, which is kept in weights.data: fields 13 of TensorProto, 5 of GraphProto, 7 of ModelProto.
    tensor = b"\x6a\x18\x0a\x08location\x12\x0cweights.data"
    graph = b"\x2a" + bytes([len(tensor)]) + tensor
    (folder / "model.onnx").write_bytes(b"\x3a" + bytes([len(graph)]) + graph)
    assert external_files(folder / "model.onnx") == {"weights.data"}
    write_manifest(folder, MANIFEST)
    with pytest.raises(
        ManifestError, match=r"model\.onnx keeps weights in 'weights\.data', .*lists no file .*[Dd]o not"
    ):
        read_manifest(folder)
    (folder / "weights.data").write_bytes(b"weights")
    write_manifest(folder, MANIFEST)
    read_manifest(folder)


@pytest.mark.parametrize("content", [b"graph", b"\x3a", b"\x3a\x05", b"\x3a\x01\x00", b"\xff" * 20], ids=repr)
def test_a_file_that_is_no_onnx_is_refused(folder: Path, content: bytes) -> None:
    (folder / "model.onnx").write_bytes(content)
    write_manifest(folder, MANIFEST)
    with pytest.raises(ManifestError, match=r"model\.onnx is no ONNX file"):
        read_manifest(folder)


@pytest.mark.parametrize("file", ["model.onnx", "config.json"])
@pytest.mark.parametrize("moment", ["_check_file", "_check_external_data"])
def test_a_bundle_that_is_exchanged_while_it_is_read_is_read_once_more(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str, file: str
) -> None:
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    (other / file).write_bytes(GRAPH + GRAPH)  # of another size, or not in the older one
    write_manifest(other, dataclasses.replace(MANIFEST, labels=("D", "E", "F")))
    check = getattr(manifest, moment)
    left = [None]

    def exchanged_before(*arguments: Any, **options: Any) -> None:
        if left:
            left.pop()
            exchange(folder, other)
        check(*arguments, **options)

    monkeypatch.setattr(manifest, moment, exchanged_before)
    assert read_manifest(folder).labels == ("D", "E", "F")
