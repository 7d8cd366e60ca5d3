"""The check finds every broken repository with file, line and cause, and lets through what an operator may change."""

import dataclasses
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import onnx
import pytest

from rpln_runtime.manifest import TensorSpec, write_manifest
from rpln_runtime.triton import RepositoryError, check_repository, write_repository
from tests.triton.bad_repositories import OTHER, VARIANTS, Variant
from tests.triton.conftest import BUCKETS
from tests.triton.networks import ToyBundle, make_toy_bundle
from tests.triton.test_engines import NAME, with_engine


@pytest.fixture(scope="session")
def repositories(bundle_of: Callable[[str], ToyBundle], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of repositories without a mistake."""
    bundles, folder = tmp_path_factory.mktemp("bundles"), tmp_path_factory.mktemp("repositories")
    tagger = bundle_of("token-classification")
    write = partial(write_repository, name="tagger", buckets=BUCKETS)
    write(tagger.folder, folder / "tagger")
    write(other_tagger(bundles / "other"), folder / OTHER)
    write(with_external_data(tagger, bundles / "external"), folder / "external")
    write(in_bf16(tagger, bundles / "bf16"), folder / "bf16")
    write(with_engine(tagger, bundles / "engine"), folder / "engine", engine=NAME, buckets=None)
    write(bundle_of("question-answering").folder, folder / "answerer", name="answerer")
    write(generating(tagger, bundles / "writer"), folder / "writer", name="writer", buckets=None)
    versions = shutil.copytree(folder / "tagger", folder / "versions")
    for step in ("tagger_tokenizer", "tagger_model", "tagger_answers"):
        shutil.copytree(versions / step / "1", versions / step / "2")
    return folder


def other_tagger(folder: Path) -> Path:
    """Return the bundle of a tagger with other labels and another tokenizer."""
    folder.mkdir()
    bundle = make_toy_bundle(folder, "token-classification", labels=["O", "A", "B", "C"])
    tokenizer = folder / "tokenizer.json"
    tokenizer.write_bytes(tokenizer.read_bytes().replace(b"<mask>", b"<task>"))
    write_manifest(folder, bundle.manifest)
    return folder


def with_external_data(bundle: ToyBundle, folder: Path) -> Path:
    shutil.copytree(bundle.folder, folder)
    model = onnx.load(folder / "model.onnx")
    onnx.save(model, folder / "model.onnx", save_as_external_data=True, location="model.onnx.data", size_threshold=0)
    write_manifest(folder, bundle.manifest)
    return folder


def in_bf16(bundle: ToyBundle, folder: Path) -> Path:
    shutil.copytree(bundle.folder, folder)
    write_manifest(folder, dataclasses.replace(bundle.manifest, precision="bfloat16"))
    return folder


def generating(bundle: ToyBundle, folder: Path) -> Path:
    """Return a bundle whose manifest is that of a decoder. Its graph is none, which the check does not run."""
    shutil.copytree(bundle.folder, folder)
    (graph,) = bundle.manifest.graphs
    logits = TensorSpec(name="logits", dtype="float32", shape=("batch", "sequence", bundle.manifest.vocab_size))
    graph = dataclasses.replace(graph, outputs=(logits,))
    write_manifest(folder, dataclasses.replace(bundle.manifest, task="text-generation", labels=(), graphs=(graph,)))
    return folder


@pytest.mark.parametrize("name", ["tagger", "external", "bf16", "engine", "answerer", "writer", "versions", OTHER])
def test_repositories_without_a_mistake_pass(repositories: Path, name: str) -> None:
    assert check_repository(repositories / name)


def test_there_are_many_variants() -> None:
    assert len(VARIANTS) >= 43


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_every_problem_of_a_variant_is_named(repositories: Path, tmp_path: Path, variant: Variant) -> None:
    for name in (OTHER, "answerer"):
        (tmp_path / name).symlink_to(repositories / name)
    repository = shutil.copytree(repositories / variant.base, tmp_path / "repository")
    variant.edit(repository)
    with pytest.raises(RepositoryError) as raised:
        check_repository(repository)
    lines = str(raised.value).replace(f"{repository}/", "  ").splitlines()
    problems = [line.removeprefix("  ") for line in lines if line.startswith("  ")]
    for found in variant.found:
        assert any(line.startswith(found.place(repository)) and found.cause in line for line in problems), raised.value
    assert variant.more or len(problems) == len(variant.found), raised.value
