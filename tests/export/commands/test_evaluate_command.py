"""The command `rpln eval`. tests/export/evaluation tests the figures."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from rpln_export.cli import rpln_command
from rpln_export.errors import PlanError
from rpln_export.plan.defaults import DEFAULT_CHECKPOINT
from rpln_runtime.errors import InputError, MissingExtraError, ProviderError
from tests.export.conftest import Export
from tests.export.evaluation.examples_of_tasks import EXAMPLES

SAMPLE = Path(__file__).parents[1] / "data" / "brown_test_sample.jsonl"
FAIRSEQ = Path(__file__).parents[2] / "data" / "fairseq"
USAGE = 2


def evaluate(*arguments: object) -> Result:
    return CliRunner().invoke(rpln_command, ["eval", *map(str, arguments)])


def write_examples(path: Path, form: str) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in EXAMPLES[form]), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def sentences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the held-out sentences of the Brown corpus as examples."""
    path = tmp_path_factory.mktemp("brown") / "test.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for line in SAMPLE.read_text(encoding="utf-8").splitlines():
            sentence = json.loads(line)
            text, starts = sentence["text"], sentence["starts"]
            words = [text[a:b].strip() for a, b in zip(starts, [*starts[1:], len(text)], strict=True)]
            example = {"text": text, "words": words, "labels": sentence["tags"].split()}
            file.write(json.dumps(example) + "\n")
    return path


def test_the_embedded_tagger_has_the_same_figures_before_and_after_its_export(sentences: Path, tmp_path: Path) -> None:
    from rpln_export.pipeline import export
    from rpln_export.plan.export_plan import make_plan

    before = json.loads(evaluate(DEFAULT_CHECKPOINT, sentences, "--json").stdout)
    words = sum(len(json.loads(line)["words"]) for line in sentences.read_text(encoding="utf-8").splitlines())
    assert (before["task"], before["precision"], before["provider"]) == ("token-classification", "fp32", "torch")
    assert (before["examples"], words) == (180, 3948)
    # What tests/export/checkpoint/test_default_checkpoint.py counts in its own way.
    assert before["metrics"]["accuracy"] == pytest.approx(3815 / 3948)
    for precision in ("fp32", "fp16"):
        export(make_plan(None, precision=precision, destination=tmp_path / precision))
        after = json.loads(evaluate(tmp_path / precision, sentences, "--json").stdout)
        assert after["precision"] == precision
        assert after["metrics"] == pytest.approx(before["metrics"], abs=0 if precision == "fp32" else 0.002)


def test_people_see_a_table(exported: Callable[..., Export], tmp_path: Path) -> None:
    folder = exported("text-generation").folder
    result = evaluate(folder, write_examples(tmp_path / "x.jsonl", "Continuations"))
    assert (result.exit_code, result.stderr) == (0, "")
    assert f"{folder}: text-generation, fp32, on cpu, 6 examples" in result.stdout
    found = json.loads(evaluate(folder, tmp_path / "x.jsonl", "--json").stdout)
    assert found["examples"] == 6
    assert f"{found['metrics']['perplexity']:.4f}" in result.stdout

    result = evaluate(exported("text-classification").folder, write_examples(tmp_path / "x.jsonl", "SingleLabel"))
    assert "accuracy │ 16.67%" in result.stdout


def test_a_checkpoint_is_read_as_its_options_say(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    examples = write_examples(tmp_path / "x.jsonl", "MaskedTexts")
    result = evaluate(checkpoint("fill-mask"), examples, "--tokenizer", checkpoint("text-classification"), "--json")
    assert json.loads(result.stdout)["task"] == "fill-mask"
    result = evaluate(checkpoint("fill-mask"), examples, "--task", "text-classification")
    assert (result.exit_code, "lacks weights" in result.stderr) == (PlanError.exit_code, True)


def test_a_checkpoint_of_fairseq_is_read_with_its_vocabulary(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(json.dumps({"text": "The dog barked."}))
    vocabulary = ("--dict", FAIRSEQ / "dict.txt", "--bpe", FAIRSEQ / "encoder.json", FAIRSEQ / "vocab.bpe")
    result = evaluate(FAIRSEQ / "masked_lm.pt", tmp_path / "x.jsonl", *vocabulary, "--json")
    assert json.loads(result.stdout)["task"] == "fill-mask"


def test_texts_are_cut_where_that_is_asked_for(exported: Callable[..., Export], tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(json.dumps({"text": "The dog barked. " * 30, "label": "O"}))
    arguments = (exported("text-classification").folder, tmp_path / "x.jsonl")
    refused = evaluate(*arguments)
    assert (refused.exit_code, refused.stdout) == (InputError.exit_code, "")
    assert "x.jsonl, line 1: its 'text' has 302 tokens, but the limit of this model is 64" in refused.stderr
    assert evaluate(*arguments, "--truncate").exit_code == 0


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (["--task", "fill-mask"], USAGE, "is a bundle, so that the options for checkpoints have no effect"),
        (["--is-decoder"], USAGE, "is a bundle"),
        (["--provider", "abacus"], ProviderError.exit_code, "unknown provider 'abacus'"),
    ],
)
def test_options_that_do_not_fit_a_bundle_are_refused(
    exported: Callable[..., Export], options: list[str], code: int, says: str, tmp_path: Path
) -> None:
    examples = write_examples(tmp_path / "x.jsonl", "SingleLabel")
    result = evaluate(exported("text-classification").folder, examples, *options)
    assert (result.exit_code, result.stdout) == (code, "")
    assert says in result.stderr


def test_a_checkpoint_has_no_provider(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    result = evaluate(checkpoint("fill-mask"), tmp_path / "x.jsonl", "--provider", "cpu")
    assert (result.exit_code, "a checkpoint runs in torch" in result.stderr) == (USAGE, True)


def test_what_is_neither_a_bundle_nor_a_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").touch()
    result = evaluate(tmp_path / "nowhere", tmp_path / "x.jsonl")
    assert (result.exit_code, result.stdout) == (PlanError.exit_code, "")


def test_the_extra_is_named_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "seqeval.metrics", None)
    monkeypatch.setitem(sys.modules, "seqeval", None)
    result = evaluate(tmp_path / "nowhere", tmp_path / "x.jsonl")
    assert result.exit_code == MissingExtraError.exit_code
    assert 'pip install "rpln-export[eval]"' in result.stderr
