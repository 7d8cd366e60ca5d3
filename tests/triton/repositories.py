"""Repositories of every kind without a mistake. Tests of the check break them."""

import dataclasses
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import onnx

from rpln_runtime.engines.manifest import EngineManifest, Profile, Range, write_engine
from rpln_runtime.manifest import TensorSpec, bundle_file_from_path, write_manifest
from rpln_runtime.triton import write_repository
from tests.triton.networks import ToyBundle, make_toy_bundle

BUCKETS = (16, 32, 64)
OTHER = "other"
"""The name of the repository of another tagger, whose models have the same names."""


NAME = "full.tensorrt-sm89"
"""The name of the engine of `with_engine`."""


def profile(batch: tuple[int, int, int], sequence: tuple[int, int, int]) -> Profile:
    ranges = {"batch": batch, "sequence": sequence}
    return {axis: Range(minimum=low, optimum=tuned, maximum=high) for axis, (low, tuned, high) in ranges.items()}


TWO_PROFILES = (profile((1, 8, 64), (1, 16, 32)), profile((1, 4, 16), (1, 48, 48)))


def write_repositories(bundle_of: Callable[[str], ToyBundle], bundles: Path, folder: Path) -> Path:
    """Write repositories without a mistake to `folder`, and the bundles that are made for them to `bundles`."""
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


def with_engine(bundle: ToyBundle, folder: Path, **fields: Any) -> Path:
    """Return a copy of a bundle with an engine, whose plan is not a real one."""
    shutil.copytree(bundle.folder, folder)
    (folder / "engines").mkdir()
    plan = folder / "engines" / f"{NAME}.plan"
    plan.write_bytes(b"no plan")
    engine = EngineManifest(
        builder="tensorrt",
        version="10.13.0",
        targets=("sm89",),
        hardware_compatible=False,
        version_compatible=False,
        stripped=False,
        variant="full",
        precision="float16",
        graph=(bundle_file_from_path(folder, folder / "model.onnx"),),
        plan=bundle_file_from_path(folder, plan),
        profiles=TWO_PROFILES,
        weights=1,
        activations=(1, 1),
        workspace=None,
        attentions=(0, 0),
        layers=(),
        seconds=1.0,
        timing_cache=None,
    )
    write_engine(plan.with_suffix(".json"), dataclasses.replace(engine, **fields))
    write_manifest(folder, bundle.manifest)
    return folder
