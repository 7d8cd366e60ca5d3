"""A bundle in the hub's cache, whose files are links, runs; no other link out of its folder is followed."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from rpln_runtime import ManifestError, load, pipeline
from rpln_runtime.engines.openvino import OpenVinoEngine
from rpln_runtime.manifest import MANIFEST_NAME, read_manifest
from rpln_runtime.triton.command import check, write
from tests.hub_cache import SPOILS, snapshot_of
from tests.runtime.bundles import CORPUS, Bundle
from tests.runtime.comparison import assert_same

FILES = (MANIFEST_NAME, "model.onnx", "tokenizer.json")


@pytest.fixture
def snapshot(bundle_of: Callable[..., Bundle], tmp_path: Path) -> Path:
    return snapshot_of(bundle_of("text-classification").folder, tmp_path / "hub")


def test_a_bundle_in_the_cache_answers(
    snapshot: Path, bundle_of: Callable[..., Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = pipeline(bundle_of("text-classification").folder)(list(CORPUS))
    (tmp_path / "link").symlink_to(snapshot)
    monkeypatch.chdir(snapshot)
    for folder in (snapshot, tmp_path / "link", Path()):
        assert all((folder / name).is_symlink() for name in FILES)
        assert_same(pipeline(folder)(list(CORPUS)), expected)


def test_triton_gets_the_files_that_the_links_lead_to(snapshot: Path, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    write(
        snapshot,
        repository,
        name="classifier",
        batch_size=None,
        buckets=None,
        max_text_bytes=None,
        options=[],
        engine=None,
    )
    assert not any(path.is_symlink() for path in repository.rglob("*"))
    (graph,) = repository.rglob("model.onnx")
    assert graph.read_bytes() == (snapshot / "model.onnx").read_bytes()
    check(repository)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("spoil", SPOILS, ids=lambda spoil: spoil.__name__)
def test_a_link_to_any_other_place_is_refused(
    snapshot: Path, spoil: Callable[[Path, str], None], name: str, tmp_path: Path
) -> None:
    spoil(snapshot, name)
    (folder,) = (path.parent for path in (tmp_path / "hub").rglob(MANIFEST_NAME))
    with pytest.raises(ManifestError, match=r"is a link out of the folder .*Do not use this bundle"):
        read_manifest(folder)


def test_what_a_link_leads_to_is_hashed_even_without_verify(snapshot: Path) -> None:
    blob = Path(os.path.realpath(snapshot / "tokenizer.json"))
    blob.write_bytes(blob.read_bytes()[:-1] + b" ")
    with pytest.raises(ManifestError, match=r"tokenizer\.json differs from what was exported"):
        load(snapshot, verify=False)
    blob.unlink()
    blob.mkdir()
    with pytest.raises(ManifestError, match=r"tokenizer\.json is missing"):
        load(snapshot, verify=False)


def test_openvino_finds_weights_that_are_links(tmp_path: Path) -> None:
    weights = np.arange(12, dtype=np.float32).reshape(3, 4)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    (tmp_path / "bundle").mkdir()
    path = str(tmp_path / "bundle" / "model.onnx")
    onnx.save(model, path, save_as_external_data=True, location="model.onnx.data", size_threshold=0)
    folder = snapshot_of(tmp_path / "bundle", tmp_path / "hub")
    engine = OpenVinoEngine(folder / "model.onnx", threads=1, install="pip install openvino")
    (found,) = engine.run({"x": np.eye(3, dtype=np.float32)}, ["y"])
    np.testing.assert_array_equal(found, weights)
