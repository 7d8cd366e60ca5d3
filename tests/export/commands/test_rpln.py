"""`rpln` runs a bundle, proves it again, shows what is in it, and checks the machine."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from click.testing import CliRunner, Result

from rpln_export.checkpoint.finding import find_checkpoint
from rpln_export.cli import rpln_command
from rpln_export.errors import PlanError, ValidationError
from rpln_runtime import pipeline
from rpln_runtime.errors import InputError, ManifestError, ProviderError
from rpln_runtime.manifest import read_manifest, write_manifest
from tests.export.checkpoints import ENCODER_TASKS, make_checkpoint
from tests.export.conftest import Export
from tests.export.sabotage import scaled

SENTENCE = "The dog barked in London."
USAGE = 2


def rpln(*arguments: object) -> Result:
    return CliRunner().invoke(rpln_command, [str(argument) for argument in arguments])


# An item of each task, as arguments of the command line and as the runtime's pipeline takes it.
ITEMS: dict[str, tuple[list[str], Any]] = {
    "feature-extraction": ([SENTENCE], SENTENCE),
    "fill-mask": (["The dog <mask>."], "The dog <mask>."),
    "text-classification": ([SENTENCE], SENTENCE),
    "token-classification": ([SENTENCE], SENTENCE),
    "question-answering": (
        ["--field", "question=Who barked?", "--field", f"context={SENTENCE}"],
        {"question": "Who barked?", "context": SENTENCE},
    ),
    "multiple-choice": (
        ["--field", "prompt=It rained.", "--field", "choices=I got wet.", "--field", "choices=I slept."],
        {"prompt": "It rained.", "choices": ["I got wet.", "I slept."]},
    ),
}


@pytest.mark.parametrize("task", ENCODER_TASKS)
def test_run_answers_as_the_runtime_does(exported: Callable[..., Export], task: str) -> None:
    folder = exported(task).folder
    arguments, item = ITEMS[task]
    result = rpln("run", folder, *arguments, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    (answer,) = json.loads(result.stdout)
    expected = pipeline(folder)(item)
    assert answer == (expected.tolist() if isinstance(expected, np.ndarray) else expected)


@pytest.mark.parametrize("task", ENCODER_TASKS)
def test_run_shows_people_a_table_or_the_answer(exported: Callable[..., Export], task: str) -> None:
    result = rpln("run", exported(task).folder, *ITEMS[task][0])
    assert (result.exit_code, result.stderr) == (0, "")
    shown = {"token-classification": "entity", "fill-mask": "token_str", "feature-extraction": "vectors of"}
    assert shown.get(task, "score") in result.stdout


def test_run_shows_all_numbers_of_vectors_if_asked(exported: Callable[..., Export]) -> None:
    folder = exported("feature-extraction").folder
    result = rpln("run", folder, *ITEMS["feature-extraction"][0], "--full")
    _, _, numbers = result.stdout.partition("\n")
    assert json.loads(numbers) == pipeline(folder)(ITEMS["feature-extraction"][1]).tolist()


def test_run_takes_several_texts_and_options_of_the_task(exported: Callable[..., Export]) -> None:
    folder = exported("fill-mask").folder
    texts = ["The <mask> barked.", "Ada wrote to <mask>."]
    result = rpln("run", folder, *texts, "--option", "top_k=2", "--json")
    assert [len(answer) for answer in json.loads(result.stdout)] == [2, 2]
    assert json.loads(result.stdout) == pipeline(folder, top_k=2)(texts)


def test_text_that_looks_like_markup_is_shown_as_it_is(exported: Callable[..., Export]) -> None:
    result = rpln("run", exported("text-classification").folder, "a [bold]word[/nothing]")
    assert result.exit_code == 0
    assert "a [bold]word[/nothing]" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ([], USAGE, "give either one or more texts"),
        (["--field", "question"], USAGE, "'question' is not NAME=VALUE"),
        ([SENTENCE, "--option", "top_q=3"], InputError.exit_code, "'top_q'"),
        ([SENTENCE, "--provider", "cuda"], ProviderError.exit_code, "cuda"),
        ([SENTENCE, "--provider", "tpu"], ProviderError.exit_code, "'tpu'"),
        ([SENTENCE * 30], InputError.exit_code, "the limit of this model is 64"),
    ],
)
def test_what_cannot_be_run_is_refused(
    exported: Callable[..., Export], arguments: list[str], code: int, says: str
) -> None:
    result = rpln("run", exported("text-classification").folder, *arguments)
    assert result.exit_code == code, result.output
    assert says in result.stderr


@pytest.mark.parametrize(
    ("task", "arguments", "says"),
    [
        ("question-answering", [SENTENCE], "Give --field question=... and --field context=..."),
        ("fill-mask", ["--field", f"text={SENTENCE}"], "takes texts. Give them as they are, without --field."),
    ],
)
def test_items_of_another_kind_than_the_tasks_are_refused(
    exported: Callable[..., Export], task: str, arguments: list[str], says: str
) -> None:
    result = rpln("run", exported(task).folder, *arguments)
    assert (result.exit_code, result.stdout) == (InputError.exit_code, "")
    assert says in result.stderr


@pytest.mark.parametrize("command", ["run", "validate", "inspect"])
def test_what_is_no_bundle_is_refused(tmp_path: Path, command: str) -> None:
    result = rpln(command, tmp_path / "nowhere", *([SENTENCE] if command == "run" else []))
    assert result.exit_code == ManifestError.exit_code
    assert "rpln-export" in result.stderr


# validate


@pytest.fixture
def bundle(exported: Callable[..., Export], tmp_path: Path) -> Export:
    """Return a text-classification bundle, which the test may alter."""
    made = exported("text-classification")
    shutil.copytree(made.folder, tmp_path / "bundle")
    return Export(checkpoint=made.checkpoint, folder=tmp_path / "bundle", result=made.result)


@pytest.mark.parametrize("precision", [[], ["--fp16"], ["--bf16"]], ids=["fp32", "fp16", "bf16"])
def test_a_bundle_is_proven_again(exported: Callable[..., Export], precision: list[str]) -> None:
    found = exported("text-classification", *precision)
    result = rpln("validate", found.folder, found.checkpoint, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    again = json.loads(result.stdout)
    first = json.loads((found.folder / "report.json").read_text(encoding="utf-8"))["comparisons"]
    assert [(row["output"], row["method"], row["cases"]) for row in again] == [
        (row["output"], row["method"], row["cases"]) for row in first
    ]
    assert [row["difference"] for row in again] == pytest.approx([row["difference"] for row in first])


def test_the_proof_is_shown_to_people(bundle: Export) -> None:
    result = rpln("validate", bundle.folder, bundle.checkpoint)
    assert result.exit_code == 0
    assert [word for word in ("logits", "rpln_runtime", "largest difference") if word not in result.stdout] == []


@pytest.mark.parametrize(
    ("task", "options"),
    [
        ("fill-mask", ["--task", "text-generation", "--is-decoder"]),
        ("question-answering", []),
        ("text-classification", ["--inputs", "head_mask"]),
    ],
    ids=["decoder", "two-outputs", "more-inputs"],
)
def test_a_bundle_of_any_kind_is_proven_again(exported: Callable[..., Export], task: str, options: list[str]) -> None:
    found = exported(task, *options)
    result = rpln("validate", found.folder, found.checkpoint)
    assert result.exit_code == 0, result.output


def test_another_checkpoint_is_refused(bundle: Export, tmp_path: Path) -> None:
    other = make_checkpoint(tmp_path / "other", "text-classification", hidden_act="relu", layer_norm_eps=1e-6)
    weights = other / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\0")
    result = rpln("validate", bundle.folder, other)
    assert result.exit_code == ValidationError.exit_code
    assert str(other) in result.stderr
    assert f"rpln validate {bundle.folder} {bundle.checkpoint.name}" in result.stderr


def test_the_checkpoint_that_the_manifest_names_is_found(
    bundle: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = read_manifest(bundle.folder)
    source = manifest.source
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    cache = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    snapshots = cache / f"models--org--{source.name}" / "snapshots"
    places = [tmp_path / "here" / source.name, tmp_path / source.name, snapshots / ("5" * 40)]

    with pytest.raises(
        PlanError, match=rf"made from {source.name} .*neither in the current folder, nor beside .* CHECKPOINT"
    ):
        find_checkpoint(bundle.folder, manifest)
    for place in reversed(places):
        shutil.copytree(bundle.checkpoint, place)
        assert find_checkpoint(bundle.folder, manifest).resolve() == place
    for place in places:
        (place / "model.safetensors").write_bytes(b"other")
    with pytest.raises(ValidationError, match=rf"{source.name} .*these weights are not in .*{places[2]}"):
        find_checkpoint(bundle.folder, manifest)
    shutil.copytree(bundle.checkpoint, snapshots / ("6" * 40))  # another revision of the same model
    result = rpln("validate", bundle.folder)
    assert (result.exit_code, "logits" in result.stdout) == (0, True), result.output


def test_a_checkpoint_that_is_gone_is_a_sentence(
    bundle: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    result = rpln("validate", bundle.folder)
    assert result.exit_code == PlanError.exit_code
    assert f"Run: rpln validate {bundle.folder} CHECKPOINT" in result.stderr


def alter_graph(folder: Path) -> None:
    model = ir.load(folder / "model.onnx")
    scaled("encoder.layer.1.attention.output.dense.weight.T", 1.5)(model)
    ir.save(model, folder / "model.onnx")


def test_an_altered_file_is_refused_by_its_hash(bundle: Export) -> None:
    alter_graph(bundle.folder)
    result = rpln("validate", bundle.folder, bundle.checkpoint)
    assert result.exit_code == ManifestError.exit_code
    assert "model.onnx" in result.stderr


def test_an_altered_graph_with_a_matching_manifest_is_refused_and_its_block_named(bundle: Export) -> None:
    manifest = read_manifest(bundle.folder)
    alter_graph(bundle.folder)
    write_manifest(bundle.folder, manifest)
    result = rpln("validate", bundle.folder, bundle.checkpoint)
    assert result.exit_code == ValidationError.exit_code
    assert "encoder.layer.1.attention is the first block that drifts" in result.stderr


# inspect


def test_inspect_lists_what_a_bundle_holds(exported: Callable[..., Export]) -> None:
    folder = exported("question-answering", "--fp16").folder
    result = rpln("inspect", folder, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    document = json.loads(result.stdout)
    manifest = document["manifest"]
    assert (manifest["task"], manifest["precision"], manifest["usable_length"]) == ("question-answering", "float16", 64)
    assert [(spec["name"], spec["dtype"]) for spec in manifest["graphs"][0]["outputs"]] == [
        ("start_logits", "float32"),
        ("end_logits", "float32"),
    ]
    assert {file["path"]: file["size"] for file in manifest["files"]} == {
        path.name: path.stat().st_size for path in folder.iterdir() if path.name != "rpln.json"
    }
    nodes = [node.op_type for node in ir.load(folder / "model.onnx").graph]
    assert document["operators"] == [{kind: nodes.count(kind) for kind in set(nodes)}]


def test_inspect_shows_it_to_people(exported: Callable[..., Export]) -> None:
    result = rpln("inspect", exported("question-answering", "--fp16").folder)
    words = ("question-answering", "float16", "start_logits", "['batch', 'sequence']", "MatMul", "model.onnx", "64")
    assert (result.exit_code, result.stderr) == (0, "")
    assert [word for word in words if word not in result.stdout] == []


# doctor


def test_doctor_reports_as_a_table_and_as_json() -> None:
    findings = json.loads(rpln("doctor", "--json").stdout)
    table = rpln("doctor")
    assert {finding["component"] for finding in findings} >= {"onnxruntime", "providers", "GPU"}
    assert table.exit_code == int(any(finding["status"] == "problem" for finding in findings))
    assert [row["component"] for row in findings if row["component"] not in table.stdout] == []
