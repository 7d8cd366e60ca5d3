"""Runs the fuzz targets for some seconds. `make fuzz-cpp` runs them for longer."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from rpln_export.plan.defaults import DEFAULT_CHECKPOINT
from tests.cpp.building import Build
from tests.cpp.texts import random_texts

SECONDS = int(os.environ.get("RPLN_FUZZ_SECONDS", "5"))


def seeds_of(target: str, folder: Path) -> None:
    """Return inputs to begin with, because a fuzzer does not guess JSON with many keys."""
    if target == "fuzz_tokenizer":
        for number, text in enumerate(random_texts(200, seed=1)):
            (folder / str(number)).write_bytes(text.encode())
        return
    tokenizer = json.loads((DEFAULT_CHECKPOINT / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    tokenizer["model"]["vocab"] = {token: number for token, number in vocabulary.items() if number < 280}
    tokenizer["model"]["merges"] = tokenizer["model"]["merges"][:10]
    (folder / "tokenizer").write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    (folder / "manifest").write_text(json.dumps(manifest()), encoding="utf-8")


def manifest() -> dict[str, object]:
    """Return a manifest that fits the schema."""
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
@pytest.mark.parametrize("target", ["fuzz_tokenizer", "fuzz_manifest"])
def test_nothing_is_found_in_some_seconds(built: Build, tmp_path: Path, target: str) -> None:
    corpus, found = tmp_path / "corpus", tmp_path / "found"
    corpus.mkdir()
    found.mkdir()
    seeds_of(target, corpus)
    limits = [f"-max_total_time={SECONDS}", "-max_len=65536", "-timeout=10", f"-artifact_prefix={found}/"]
    run = subprocess.run(
        [built.fuzzer(target), corpus, *limits], capture_output=True, text=True, errors="replace", check=False
    )
    assert run.returncode == 0, run.stderr[-4000:]
    # A fuzzer finds nothing in code that it does not reach: the first inputs have to reach most of the code.
    covered = re.findall(r"INITED cov: (\d+)", run.stderr)
    assert int(covered[0]) > 300
