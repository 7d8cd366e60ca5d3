"""Damaged bundles end in an error of the C++ runtime, with no finding of the sanitizers that the driver runs under."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from rpln_runtime.errors import ManifestError, ProviderError
from rpln_runtime.manifest import Manifest, read_manifest, write_manifest
from tests.cpp.building import Build
from tests.runtime.bundles import keep_a_weight_in, leave_open_the_last_axis, stated_size

SMALL = Path(__file__).parents[1] / "data/bundles-0.1.0/token-classification"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SMALL, tmp_path / "bundle"))


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    """The manifest of the small bundle, of which only the graph in standard operators runs."""
    found = read_manifest(SMALL)
    return dataclasses.replace(found, graphs=tuple(dataclasses.replace(one, rewritten=()) for one in found.graphs))


def entities(built: Build, folder: Path) -> list[str]:
    (answer,) = built.ask("answer", folder, [{"inputs": "The dog barked.", "options": {}}])
    return [token["entity"] for token in answer]


def refusal(built: Build, folder: Path, *, code: int = ManifestError.exit_code) -> str:
    """Return the message with which the bundle is refused when it is opened or asked."""
    (answer,) = built.ask("answer", folder, [{"inputs": "The dog barked.", "options": {}}])
    assert isinstance(answer, dict), answer
    assert answer["code"] == code
    return str(answer["error"])


@pytest.mark.parametrize("count", [0, 4, 6, 20_005])
def test_labels_that_are_not_as_many_as_logits_are_refused(
    built: Build, folder: Path, manifest: Manifest, count: int
) -> None:
    labels = (*manifest.labels, *map(str, range(20_000)))[:count]
    write_manifest(folder, dataclasses.replace(manifest, labels=labels))
    message = refusal(built, folder)
    assert "rpln.json contradicts itself: the manifest.graphs[0].outputs[0].shape is [batch, sequence, 5]" in message
    assert f"expected [batch, sequence, {count}]" in message
    if not count:
        return
    write_manifest(folder, stated_size(manifest, count, labels=labels))
    message = refusal(built, folder)
    assert 'has "logits" of the shape [-1, -1, 5]' in message
    assert f"the manifest says [batch, sequence, {count}]" in message


@pytest.mark.parametrize("count", [4, 6])
def test_sizes_that_a_graph_leaves_open_are_checked_when_it_runs(
    built: Build, folder: Path, manifest: Manifest, count: int
) -> None:
    leave_open_the_last_axis(folder, labels=5)
    write_manifest(folder, manifest)
    assert entities(built, folder) == entities(built, SMALL)
    labels = (*manifest.labels, "more")[:count]
    write_manifest(folder, stated_size(manifest, count, labels=labels))
    message = refusal(built, folder)
    assert 'gave "logits" the shape [1,' in message
    assert message.endswith(f", {count}]. Export the checkpoint again.")


def test_weights_that_the_manifest_does_not_list_are_refused(built: Build, folder: Path, manifest: Manifest) -> None:
    keep_a_weight_in("weights.data", folder, manifest)
    assert entities(built, folder) == entities(built, SMALL)
    write_manifest(folder, manifest, without=["weights.data"])
    message = refusal(built, folder)
    assert 'model.onnx keeps weights in "weights.data"' in message
    keep_a_weight_in("../outside.data", folder, manifest)
    assert 'keeps weights in "../outside.data"' in refusal(built, folder)


@pytest.mark.parametrize("content", [b"graph", b"\x3a", b"\x3a\x05", b"\x3a\x01\x00", b"\xff" * 20], ids=repr)
def test_a_file_that_is_no_onnx_is_refused(built: Build, folder: Path, manifest: Manifest, content: bytes) -> None:
    (folder / "model.onnx").write_bytes(content)
    write_manifest(folder, manifest)
    assert "model.onnx is no ONNX file" in refusal(built, folder)


def test_a_graph_that_fails_is_one_of_our_errors(built: Build, folder: Path, manifest: Manifest) -> None:
    (graph,) = manifest.graphs
    free = tuple(dataclasses.replace(spec, values=None) for spec in graph.inputs)
    write_manifest(folder, dataclasses.replace(manifest, graphs=(dataclasses.replace(graph, inputs=free),)))
    ids = {"dtype": "int64", "shape": [1, 1], "values": [10_000]}
    feeds = {"input_ids": ids, "attention_mask": {**ids, "values": [1]}}
    (answer,) = built.ask("run", folder, [{"feeds": feeds, "outputs": ["logits"]}])
    assert answer["code"] == ProviderError.exit_code
    assert "failed to run model.onnx" in answer["error"]


@pytest.mark.parametrize("opening", ["[", '{"a":'])
@pytest.mark.parametrize("depth", [65, 200_000])
def test_deep_json_is_refused(built: Build, folder: Path, opening: str, depth: int) -> None:
    closing = {"[": "]", '{"a":': "}"}[opening]
    deep = opening * depth + "7" + closing * depth
    path = folder / "rpln.json"
    document = path.read_text(encoding="utf-8")
    path.write_text(deep, encoding="utf-8")
    assert "rpln.json is not valid JSON (it has more than 64 lists and objects" in refusal(built, folder)
    path.write_text(document.replace('"validation": {', f'"validation": {{"deep": {deep},', 1), encoding="utf-8")
    assert "more than 64 lists and objects" in refusal(built, folder)


@pytest.mark.parametrize("part", ["normalizer", "model", "added_tokens", "post_processor"])
def test_deep_json_in_a_tokenizer_is_refused(built: Build, folder: Path, manifest: Manifest, part: str) -> None:
    document = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    text = json.dumps({**document, part: "DEEP"}).replace('"DEEP"', "[" * 200_000 + "]" * 200_000)
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    write_manifest(folder, manifest)
    assert "tokenizer.json (it has more than 127 lists and objects" in refusal(built, folder)


@pytest.mark.parametrize("number", [-1, 2**31, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 10**30, 1.0, 1e300, "1", None, True])
@pytest.mark.parametrize("place", ["vocabulary", "added token", "first", "last"])
def test_ids_out_of_range_are_refused(built: Build, folder: Path, manifest: Manifest, place: str, number: Any) -> None:
    path = folder / "tokenizer.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    if place == "vocabulary":
        token = next(iter(document["model"]["vocab"]))
        document["model"]["vocab"][token] = number
    elif place == "added token":
        document["added_tokens"][0]["id"] = number
    else:
        document["post_processor"]["cls" if place == "first" else "sep"][1] = number
    path.write_text(json.dumps(document), encoding="utf-8")
    write_manifest(folder, manifest)
    assert "tokenizer.json (a token has the id" in refusal(built, folder)


@pytest.mark.parametrize("number", [2**63, 2**64 - 1, 2**64, 10**30, -1])
@pytest.mark.parametrize("name", ["pad_token_id", "vocab_size", "usable_length"])
def test_numbers_out_of_range_are_refused(built: Build, folder: Path, name: str, number: int) -> None:
    path = folder / "rpln.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**document, name: number}), encoding="utf-8")
    message = refusal(built, folder)
    assert f"the manifest.{name} is" in message


@pytest.mark.parametrize("path", ["a" * 300, "a/" * 1000 + "a"], ids=["long name", "long path"])
def test_long_paths_are_refused(built: Build, folder: Path, path: str) -> None:
    file = folder / "rpln.json"
    document = json.loads(file.read_text(encoding="utf-8"))
    document["files"][0]["path"] = path
    file.write_text(json.dumps(document), encoding="utf-8")
    assert f"a path of {len(path)} bytes" in refusal(built, folder)
