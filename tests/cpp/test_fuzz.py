"""The fuzz targets for some seconds; `make fuzz-cpp` lets them run for longer."""

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from rpln_export.plan.defaults import DEFAULT_CHECKPOINT
from tests.cpp.building import Build
from tests.cpp.texts import random_texts
from tests.readers.manifests import manifest_with_all_fields

SECONDS = int(os.environ.get("RPLN_FUZZ_SECONDS", "5"))
"""How long each target runs."""
RUNS = int(os.environ.get("RPLN_FUZZ_EXAMPLES", "0"))
"""How many inputs each target gets instead, however long they take; 0 counts seconds."""
SMALL = Path(__file__).parents[1] / "data/bundles-0.1.0/token-classification"


def seeds_of(target: str, folder: Path) -> None:
    """Write inputs to begin with: a fuzzer does not guess JSON of many keys."""
    SEEDS[target](folder)


def write_texts(folder: Path) -> None:
    for number, text in enumerate(random_texts(200, seed=1)):
        (folder / str(number)).write_bytes(text.encode())


def write_manifests(folder: Path) -> None:
    (folder / "small").write_text(json.dumps(manifest()), encoding="utf-8")
    for task in ("token-classification", "text-generation"):
        document = manifest_with_all_fields(SMALL.with_name(task))
        (folder / task).write_text(json.dumps(document), encoding="utf-8")


def write_tokenizers(folder: Path) -> None:
    tokenizer = json.loads((DEFAULT_CHECKPOINT / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    tokenizer["model"]["vocab"] = {token: number for token, number in vocabulary.items() if number < 280}
    tokenizer["model"]["merges"] = tokenizer["model"]["merges"][:10]
    (folder / "tokenizer").write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")


def write_graphs(folder: Path) -> None:
    """Write a graph with external data inside a branch of an If, and one with a sparse and an inner tensor."""
    tensor = onnx.helper.make_tensor("w", onnx.TensorProto.FLOAT, [2], [1.0, 2.0])
    tensor.external_data.add(key="location", value="weights.data")
    inner = onnx.helper.make_graph([], "inner", [], [], [tensor])
    nodes = [
        onnx.helper.make_node("If", ["a"], ["b"], then_branch=inner, else_branch=inner),
        onnx.helper.make_node("Constant", [], ["c"], value=tensor),
    ]
    graph = onnx.helper.make_graph(nodes, "graph", [], [], [tensor])
    (folder / "model").write_bytes(onnx.helper.make_model(graph).SerializeToString())


SEEDS: dict[str, Callable[[Path], None]] = {
    "fuzz_tokenizer": write_texts,
    "fuzz_manifest": write_manifests,
    "fuzz_tokenizer_file": write_tokenizers,
    "fuzz_onnx": write_graphs,
}
LEAST_COVERED = {"fuzz_onnx": 60}
"""How much of a target's code its first inputs reach at least; 300 for those that are not here."""


def manifest() -> dict[str, object]:
    """What passes the schema."""
    tensor = {"name": "logits", "dtype": "float32", "shape": ["batch", 3], "values": None}
    ids = {"name": "input_ids", "dtype": "int64", "shape": ["batch", "sequence"], "values": 1}
    graph = {"variant": "full", "path": "model.onnx", "opset": 20, "form": "standard", "rewritten": []}
    return {
        "task": "text-classification",
        "graphs": [graph | {"inputs": [ids], "outputs": [tensor]}],
        "axes": {"batch": {"minimum": 1, "maximum": None}},
        **dict.fromkeys(("usable_length", "vocab_size", "type_vocab_size", "pad_token_id"), 1),
        **dict.fromkeys(("mask_token_id", "problem_type", "generation", "optimization")),
        **dict.fromkeys(("precision", "recipe", "target"), "fp32"),
        **{name: {} for name in ("passes", "versions", "validation")},
        "labels": ["a", "b", "c"],
        "source": {"name": "a", "sha256": "b"},
        "files": [{"path": "model.onnx", "size": 1, "sha256": "c"}],
        "schema_version": 3,
    }


@pytest.mark.full
@pytest.mark.parametrize("target", SEEDS)
def test_nothing_is_found_in_some_seconds(built: Build, tmp_path: Path, target: str) -> None:
    corpus, found = tmp_path / "corpus", tmp_path / "found"
    corpus.mkdir()
    found.mkdir()
    seeds_of(target, corpus)
    length = f"-runs={RUNS}" if RUNS else f"-max_total_time={SECONDS}"
    limits = [length, "-max_len=65536", "-timeout=60", f"-artifact_prefix={found}/"]
    run = subprocess.run(
        [built.fuzzer(target), corpus, *limits], capture_output=True, text=True, errors="replace", check=False
    )
    assert run.returncode == 0, run.stderr[-4000:]
    # What reads nothing finds nothing: the inputs to begin with have to reach most of the code there is.
    covered = re.findall(r"INITED cov: (\d+)", run.stderr)
    assert int(covered[0]) > LEAST_COVERED.get(target, 300)
    executed = re.findall(r"Done (\d+) runs", run.stderr)
    assert int(executed[0]) >= RUNS
