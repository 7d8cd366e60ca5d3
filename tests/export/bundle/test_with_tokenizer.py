"""--with-tokenizer: the graph from texts gives what the runtime gives, is proven, or is refused with a reason."""

import dataclasses
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from tokenizers import normalizers, pre_tokenizers

from rpln_export.bundle.text_graph import DESCRIPTION
from rpln_export.checkpoint import loading
from rpln_export.checkpoint.byte_pairs import byte_pairs_from_tokenizer
from rpln_export.cli import export_command, rpln_command
from rpln_export.errors import PlanError, ValidationError
from rpln_export.plan.text_graph import TEXT_GRAPH
from rpln_graphs.text import BytePairs
from rpln_runtime import load
from rpln_runtime.errors import MissingExtraError
from rpln_runtime.manifest import read_manifest, write_manifest
from rpln_runtime.tokenization import Tokenizer, truncate
from tests.export.checkpoints import make_checkpoint, make_model, make_tokenizer
from tests.export.conftest import Export, share_traces
from tests.text_graphs import TextGraph, needs_operators

pytestmark = needs_operators

TASKS = ("feature-extraction", "fill-mask", "text-classification", "token-classification")
FUSED_GRAPH = "model.ort.onnx"
OPTIONS = ("--with-tokenizer", "--optimize", "none")
TEXTS = [
    "Ada Lovelace wrote to Charles Babbage in London.",
    "a",
    "naïve café 東京 😀",
    "The dog <mask>  and the\n<mask> slept.",
    "The rain fell on the roof. " * 12,
]


@pytest.fixture(scope="module", autouse=True)
def _one_trace_for_all() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        share_traces(monkeypatch, {})
        yield


def runtime(folder: Path, texts: list[str]) -> dict[str, np.ndarray]:
    """Return what the runtime's tokenizer and session give for a batch."""
    manifest = read_manifest(folder)
    tokenizer = Tokenizer.from_bundle(folder, manifest)
    limit, side = manifest.usable_length, manifest.truncation_side
    rows = [truncate(tokenizer.encode(text), limit, truncation_side=side).ids for text in texts]
    width = max(map(len, rows))
    ids = np.array([[*row, *[manifest.pad_token_id] * (width - len(row))] for row in rows])
    mask = np.array([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    found = load(folder, provider="cpu").run({"input_ids": ids, "attention_mask": mask})
    return {**found, "input_ids": ids, "attention_mask": mask}


def same(folder: Path, texts: list[str]) -> None:
    found, expected = TextGraph(folder / TEXT_GRAPH)(texts), runtime(folder, texts)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=0, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("task", TASKS)
def test_outputs_are_those_of_the_runtime(exported: Callable[..., Export], task: str) -> None:
    folder = exported(task, *OPTIONS).folder
    same(folder, TEXTS)
    for text in TEXTS:
        same(folder, [text])


@pytest.mark.parametrize(
    "options",
    [
        ["--fp16", "--optimize", "none"],
        ["--optimize", "fused"],
        ["--optimize", "packed"],
        ["--min-agreement", "0", "--int8", "static"],
        ["--min-agreement", "0", "--int8", "dynamic"],
    ],
    ids=lambda options: options[-1],
)
def test_every_form_of_a_graph_takes_texts(exported: Callable[..., Export], options: list[str]) -> None:
    same(exported("text-classification", "--with-tokenizer", *options).folder, TEXTS)


def test_the_form_that_the_cpu_runs_is_the_one_behind_the_tokens(exported: Callable[..., Export]) -> None:
    folder = exported("text-classification", "--with-tokenizer", "--optimize", "fused").folder
    kinds = {path: {node.op_type for node in onnx.load(folder / path).graph.node} for path in (TEXT_GRAPH, FUSED_GRAPH)}
    assert "MultiHeadAttention" in kinds[FUSED_GRAPH]
    assert kinds[TEXT_GRAPH] > kinds[FUSED_GRAPH]


def test_logits_of_masks_alone(exported: Callable[..., Export]) -> None:
    folder = exported("fill-mask", "--logits", "masked", *OPTIONS).folder
    found = TextGraph(folder / TEXT_GRAPH)(TEXTS)
    assert len(found["logits"]) == 2
    same(folder, TEXTS)


def test_weights_are_in_the_file_of_the_other_graph(exported: Callable[..., Export]) -> None:
    folder = exported("fill-mask", *OPTIONS).folder
    model = onnx.load(folder / TEXT_GRAPH, load_external_data=False)
    places = {
        entry.value for weight in model.graph.initializer for entry in weight.external_data if entry.key == "location"
    }
    assert places == {"model.onnx.data"}
    assert max(weight.ByteSize() for weight in model.graph.initializer) < 1500


def test_bundle_says_what_runs_it(exported: Callable[..., Export]) -> None:
    folder = exported("fill-mask", *OPTIONS).folder
    description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    graph = TextGraph(folder / description["graph"])
    assert (graph.inputs, graph.outputs) == (description["inputs"], description["outputs"])
    assert description["operators"]["library"] == "onnxruntime-extensions"
    assert {TEXT_GRAPH, DESCRIPTION} <= {file.path for file in read_manifest(folder).files}
    assert [graph.path for graph in read_manifest(folder).graphs] == ["model.onnx"]


def test_without_the_option_there_is_no_such_graph(exported: Callable[..., Export]) -> None:
    folder = exported("fill-mask", "--optimize", "none").folder
    assert not list(folder.glob("model.text.*"))


def test_token_types_become_zero(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "text-classification", type_vocab_size=2)
    assert export(checkpoint, tmp_path / "out").exit_code == 0
    manifest = read_manifest(tmp_path / "out")
    assert [spec.name for spec in manifest.graphs[0].inputs] == ["input_ids", "attention_mask", "token_type_ids"]
    expected = runtime_with_types(tmp_path / "out", TEXTS[0])
    np.testing.assert_allclose(
        TextGraph(tmp_path / "out" / TEXT_GRAPH)(TEXTS[:1])["logits"], expected, rtol=0, atol=1e-5
    )


def runtime_with_types(folder: Path, text: str) -> np.ndarray:
    ids = Tokenizer.from_bundle(folder, read_manifest(folder)).encode(text).ids[None]
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    return load(folder).run(feeds)["logits"]


def test_page_says_how_it_is_run(exported: Callable[..., Export], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = exported("text-classification", *OPTIONS).folder
    page = (Path(__file__).parents[3] / "docs" / "text-in-logits-out.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(folder.parent)
    names: dict[str, Any] = {}
    exec(block.replace("classifier/", f"{folder.name}/"), names)  # noqa: S102 - the documentation's own example
    expected = runtime(folder, names["texts"].tolist())
    for name in ("logits", "input_ids", "attention_mask"):
        np.testing.assert_allclose(names[name], expected[name], rtol=0, atol=1e-5)


# proof


def export(checkpoint: Path, folder: Path, *options: str) -> Result:
    return CliRunner().invoke(export_command, [str(checkpoint), "-o", str(folder), *OPTIONS, *options])


def test_other_tokens_are_not_published(
    checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = byte_pairs_from_tokenizer

    def without_a_merge(*arguments: Any) -> BytePairs:
        pairs = real(*arguments)
        return dataclasses.replace(pairs, merges=pairs.merges[1:])

    monkeypatch.setattr(loading, "byte_pairs_from_tokenizer", without_a_merge)
    result = export(checkpoint("fill-mask"), tmp_path / "out")
    assert result.exit_code == ValidationError.exit_code, result.output
    assert "model.text.onnx gives other tokens than tokenizer.json" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_another_graph_is_found_by_validate(exported: Callable[..., Export], tmp_path: Path) -> None:
    made = exported("text-classification", *OPTIONS)
    folder = made.folder.parent / "altered"
    folder.mkdir()
    for path in made.folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    arguments = ["validate", str(folder), str(made.checkpoint)]
    assert CliRunner().invoke(rpln_command, arguments).exit_code == 0
    manifest, model = read_manifest(folder), onnx.load(folder / TEXT_GRAPH, load_external_data=False)
    bias = next(weight for weight in model.graph.initializer if weight.name.endswith("classifier.out_proj.bias"))
    bias.raw_data = (np.frombuffer(bias.raw_data, np.float32) + 1e-3).tobytes()
    (folder / TEXT_GRAPH).write_bytes(model.SerializeToString())
    write_manifest(folder, manifest)
    result = CliRunner().invoke(rpln_command, arguments)
    assert result.exit_code == ValidationError.exit_code, result.output
    assert "model.text.onnx gives other logits than model.onnx" in result.stderr


def test_a_mask_without_its_space_and_the_side_of_truncation_are_honoured(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "text-classification")
    for name, change in (("tokenizer.json", keep_the_space), ("tokenizer_config.json", cut_on_the_left)):
        document = json.loads((checkpoint / name).read_text(encoding="utf-8"))
        change(document)
        (checkpoint / name).write_text(json.dumps(document), encoding="utf-8")
    result = export(checkpoint, tmp_path / "out")
    assert result.exit_code == 0, result.output
    same(tmp_path / "out", TEXTS)
    tokenizer = Tokenizer.from_bundle(tmp_path / "out", read_manifest(tmp_path / "out"))
    assert tokenizer.token(tokenizer.encode("a <mask>").ids[2]) == "Ġ"


def keep_the_space(document: dict[str, Any]) -> None:
    document["added_tokens"][4]["lstrip"] = False


def cut_on_the_left(document: dict[str, Any]) -> None:
    document.pop("added_tokens_decoder", None)
    document["truncation_side"] = "left"


# refusals


@pytest.mark.parametrize(
    ("task", "options", "says"),
    [
        ("question-answering", [], "but question-answering takes more"),
        ("multiple-choice", [], "but multiple-choice takes more"),
        ("text-generation", [], "but text-generation takes more"),
        ("text-classification", ["--inputs", "position_ids"], "cannot compute position_ids"),
        ("fill-mask", ["--logits", "positions"], "cannot compute masked_positions"),
        ("fill-mask", ["--bf16"], "does not go with --bf16"),
    ],
)
def test_tasks_without_such_a_graph_are_refused(
    checkpoint: Callable[[str], Path], tmp_path: Path, task: str, options: list[str], says: str
) -> None:
    result = export(checkpoint(task), tmp_path / "out", *options)
    assert result.exit_code == PlanError.exit_code, result.output
    assert says in result.stderr


def lowercase(tokenizer: Any) -> None:
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()


def whole_text(tokenizer: Any) -> None:
    tokenizer.backend_tokenizer.pre_tokenizer.use_regex = False


def whole_words(tokenizer: Any) -> None:
    tokenizer.backend_tokenizer.model.ignore_merges = True


def more_digits(tokenizer: Any) -> None:
    backend = tokenizer.backend_tokenizer
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(), backend.pre_tokenizer])


def more_tokens(tokenizer: Any) -> None:
    tokenizer.add_tokens(["<entity>"])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lowercase, "has a normalizer (Lowercase)"),
        (whole_text, "has pre_tokenizer.use_regex=False, expected True"),
        (whole_words, "has model.ignore_merges=True, expected"),
        (more_tokens, "has tokens added to its vocabulary (<entity>)"),
        (more_digits, "has pre_tokenizer.type='Sequence', expected 'ByteLevel'"),
    ],
)
def test_another_tokenizer_is_refused(tmp_path: Path, change: Callable[[Any], None], says: str) -> None:
    checkpoint = tmp_path / "checkpoint"
    make_model("fill-mask", vocab_size=400).save_pretrained(checkpoint)
    tokenizer = make_tokenizer(tmp_path / "tokenizer")
    change(tokenizer)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    result = export(checkpoint, tmp_path / "out", "--tokenizer", str(tmp_path / "tokenizer"))
    assert result.exit_code == PlanError.exit_code, result.output
    assert says in result.stderr


def test_a_tokenizer_that_pads_with_another_token_is_refused(tmp_path: Path) -> None:
    make_model("fill-mask", vocab_size=400, pad_token_id=5).save_pretrained(tmp_path / "checkpoint")
    make_tokenizer(tmp_path / "checkpoint")
    result = export(tmp_path / "checkpoint", tmp_path / "out")
    assert result.exit_code == PlanError.exit_code, result.output
    assert "has no token <pad> with the id 5" in result.stderr


def test_without_the_library_the_command_is_named(
    checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime_extensions", None)
    result = export(checkpoint("fill-mask"), tmp_path / "out")
    assert result.exit_code == MissingExtraError.exit_code
    assert 'pip install "rpln-export[tokenizer-op]"' in result.stderr
