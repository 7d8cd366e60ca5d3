"""The C++ reader refuses the manifests that Python's refuses, and names the same places, files and numbers."""

import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rpln_runtime import manifest as python
from rpln_runtime.errors import ManifestError
from tests.cpp.building import Build
from tests.cpp.messages import assert_says_the_same, place_of, words_of
from tests.hub_cache import SPOILS, snapshot_of

Demo = Callable[..., Path]


@pytest.fixture
def folder(demo: Demo, tmp_path: Path) -> Path:
    return Path(shutil.copytree(demo("token-classification"), tmp_path / "bundle"))


def message_of_python(folder: Path) -> str | None:
    try:
        python.read_manifest(folder)
    except ManifestError as error:
        return str(error)
    return None


def message_of_cpp(build: Build, folder: Path) -> str | None:
    (answer,) = build.ask("open", folder, [str(folder)])
    if isinstance(answer, str):
        return None
    assert answer["code"] == ManifestError.exit_code
    return str(answer["error"])


EMPTY_GRAPH = b"\x3a\x00"
"""An ONNX file whose graph holds nothing."""
WRONG: list[Any] = [None, True, 7, 2.5, "text", [], {}, [7], {"key": [None, "it's", 'a "quote"\n']}]
"""Values of all types. Each is right in some fields and wrong in others."""


def alterations(document: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield copies of a manifest with a field left out, added or of another type, each with the name of the field."""
    for path in field_paths(document, ()):
        copy = json.loads(json.dumps(document))
        at(copy, path[:-1]).pop(path[-1])
        yield copy, path[-1]
        copy = json.loads(json.dumps(document))
        at(copy, path[:-1])["unknown"] = 1
        yield copy, "unknown"
        for value in WRONG:
            copy = json.loads(json.dumps(document))
            at(copy, path[:-1])[path[-1]] = value
            yield copy, path[-1]


def field_paths(value: Any, path: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    """Yield the paths of all fields. In a list, those of its first row."""
    if isinstance(value, dict) and path != ("validation",):
        for key in value:
            yield (*path, key)
            yield from field_paths(value[key], (*path, key))
    elif isinstance(value, list) and value:
        yield from field_paths(value[0], (*path, 0))


def at(document: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        document = document[key]
    return document


def test_every_altered_field_is_refused_and_its_place_is_named(built: Build, folder: Path, tmp_path: Path) -> None:
    path = folder / python.MANIFEST_NAME
    document = json.loads(path.read_text(encoding="utf-8"))
    # Fields that no bundle of this task has are added, so that every field of the schema is there.
    document["generation"] = dataclasses.asdict(
        python.Generation(
            pad_token_id=1, bos_token_id=0, eos_token_ids=(2,), start_token_id=None, first_position=2, pad_position=1
        )
    )
    document["optimization"] = dataclasses.asdict(
        python.Optimization(
            target="cpu",
            workload="latency",
            provider="cpu",
            threads=None,
            spinning=True,
            candidates=(
                python.Candidate(variant="full", form="standard", provider="cpu", speedup=1.5, outcome="chosen"),
            ),
            note="",
        )
    )
    document["sentences"] = dataclasses.asdict(
        python.Sentences(poolings=(), max_length=20, prompts={"query": "Who? "}, default_prompt="query")
    )
    document["files"] = small_files(folder)
    path.write_text(json.dumps(document), encoding="utf-8")
    assert message_of_python(folder) is None
    assert message_of_cpp(built, folder) is None
    refused = 0
    altered = {}
    for number, (copy, name) in enumerate(alterations(document)):
        altered[alternative(folder, tmp_path / f"{number}", json.dumps(copy))] = name
    answers = built.ask("open", tmp_path, [str(one) for one in altered])
    for (one, name), answer in zip(altered.items(), answers, strict=True):
        expected = message_of_python(one)
        if expected is None:
            assert isinstance(answer, str)
            continue
        refused += 1
        assert answer["code"] == ManifestError.exit_code
        assert place_of(answer["error"]) == place_of(expected)
        if place_of(expected):
            assert name in words_of(answer["error"].replace(".", " "))
        else:
            assert_says_the_same(answer["error"], expected)
    assert refused > 300


def small_files(folder: Path) -> list[dict[str, Any]]:
    """Replace the graphs of a bundle by files of a few bytes, because hundreds of copies are hashed."""
    for file in folder.rglob("*"):
        if file.suffix == ".onnx":
            file.unlink()
            file.write_bytes(EMPTY_GRAPH)
        elif file.is_file():
            file.unlink()
    return [dataclasses.asdict(python.bundle_file_from_path(folder, file)) for file in sorted(folder.glob("*.onnx"))]


def alternative(folder: Path, other: Path, manifest: str) -> Path:
    """Make a folder with links to the same files and another manifest, and return it."""
    shutil.copytree(folder, other, copy_function=os.link)
    (other / python.MANIFEST_NAME).unlink()
    (other / python.MANIFEST_NAME).write_text(manifest, encoding="utf-8")
    return other


@pytest.mark.parametrize(
    "path",
    [
        "../outside",
        "/etc/passwd",
        "a/../../b",
        "..",
        "C:\\x",
        "c:x",
        "a\\b",
        "a\0b",
        "",
        ".",
        "none",
        "link",
        "loop",
        "it's",
    ],
)
def test_paths_that_leave_the_folder_or_lead_nowhere_are_refused(built: Build, folder: Path, path: str) -> None:
    (folder / "link").symlink_to(folder.parent)
    (folder / "loop").symlink_to("loop")
    alter(folder, lambda document: document["files"][0].update(path=path))
    message = message_of_cpp(built, folder)
    assert message is not None
    assert json.dumps(path)[1:-1] in message
    if path != "loop":  # versions of Python differ here
        assert message_of_python(folder) is not None


def test_a_snapshot_in_the_cache_of_the_hub_is_read(built: Build, folder: Path, tmp_path: Path) -> None:
    snapshot = snapshot_of(folder, tmp_path / "hub")
    assert message_of_cpp(built, snapshot) is None
    blob = Path(os.path.realpath(snapshot / "model.onnx"))
    blob.write_bytes(blob.read_bytes()[:-1] + b"\x00")
    assert_refused_by_both(built, snapshot)


@pytest.mark.parametrize("name", [python.MANIFEST_NAME, "model.onnx"])
@pytest.mark.parametrize("spoil", SPOILS, ids=lambda spoil: spoil.__name__)
def test_a_link_to_any_other_place_is_refused(
    built: Build, folder: Path, tmp_path: Path, spoil: Callable[[Path, str], None], name: str
) -> None:
    spoil(snapshot_of(folder, tmp_path / "hub"), name)
    (snapshot,) = (path.parent for path in (tmp_path / "hub").rglob(python.MANIFEST_NAME))
    assert_refused_by_both(built, snapshot)


def alter(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / python.MANIFEST_NAME
    document = json.loads(path.read_text(encoding="utf-8"))
    change(document)
    path.write_text(json.dumps(document), encoding="utf-8")


@pytest.mark.parametrize("keys", [["files"], ["graphs"], ["graphs", 0, "inputs"], ["graphs", 0, "outputs"]], ids=str)
def test_a_row_that_stands_twice_is_refused(built: Build, folder: Path, keys: list[Any]) -> None:
    alter(folder, lambda document: at(document, tuple(keys)).append(at(document, (*keys, 0))))
    assert_refused_by_both(built, folder)


def test_altered_and_truncated_files_are_refused(built: Build, folder: Path) -> None:
    path = folder / "model.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    assert_refused_by_both(built, folder)
    path.write_bytes(path.read_bytes()[:-1])
    assert_refused_by_both(built, folder)
    path.unlink()
    assert_refused_by_both(built, folder)


def assert_refused_by_both(built: Build, folder: Path) -> None:
    message, expected = message_of_cpp(built, folder), message_of_python(folder)
    assert message is not None
    assert expected is not None
    assert_says_the_same(message, expected)


def test_folders_without_a_manifest_of_this_version_are_refused(built: Build, folder: Path) -> None:
    alter(folder, lambda document: document.update(schema_version=python.SCHEMA_VERSION + 1))
    assert_refused_by_both(built, folder)
    alter(folder, lambda document: document.update(schema_version=None))
    assert_refused_by_both(built, folder)
    (folder / python.MANIFEST_NAME).write_text("[]", encoding="utf-8")
    assert_refused_by_both(built, folder)
    (folder / python.MANIFEST_NAME).write_text("{", encoding="utf-8")
    message = message_of_cpp(built, folder)
    assert message is not None
    assert "JSON" in message
    (folder / python.MANIFEST_NAME).unlink()
    assert_refused_by_both(built, folder)
