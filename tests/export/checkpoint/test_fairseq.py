"""A checkpoint of fairseq becomes a bundle with its logits, ids and name. Files that do not fit it are refused."""

import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from rpln_export.checkpoint.conversion import vocabulary_from_options
from rpln_export.checkpoint.fairseq_tokenizer import tokenizer_from_fairseq
from rpln_export.cli import export_command, rpln_command
from rpln_export.errors import PlanError, ValidationError
from rpln_model.errors import CheckpointError
from rpln_runtime import load
from rpln_runtime.manifest import read_manifest
from rpln_runtime.tokenization import Tokenizer
from tests.export.conftest import share_traces
from tests.fairseq_files import (
    BPE,
    CLASSIFIER,
    DICTIONARY,
    MASKED_LM,
    NO_EMBEDDING_NORM,
    TOLERANCE,
    USABLE_LENGTH,
    VOCAB_SIZE,
    VOCABULARY,
    expected,
    expected_ids,
)


def export(checkpoint: Path, folder: Path, *options: object) -> Result:
    arguments = [checkpoint, "-o", folder, "--optimize", "none", *options]
    return CliRunner().invoke(export_command, list(map(str, arguments)))


@pytest.fixture(scope="module", autouse=True)
def _one_trace_for_all() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        share_traces(monkeypatch, {})
        yield


@pytest.fixture(scope="module")
def masked_lm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fairseq") / "bundle"
    result = export(MASKED_LM, folder, "--task", "fill-mask", *VOCABULARY)
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fairseq") / "bundle"
    result = export(CLASSIFIER, folder, *VOCABULARY)
    assert result.exit_code == 0, result.output
    return folder


def test_bundle_gives_the_logits_of_fairseq(masked_lm: Path) -> None:
    ids, real, theirs = expected("masked_lm")
    (ours,) = load(masked_lm).run({"input_ids": ids, "attention_mask": real.astype(np.int64)}).values()
    np.testing.assert_allclose(ours[real], theirs[real], rtol=0, atol=TOLERANCE)


def test_task_is_the_one_of_the_last_training(classifier: Path) -> None:
    assert read_manifest(classifier).task == "text-classification"
    ids, real, theirs = expected("sentence_prediction")
    (ours,) = load(classifier).run({"input_ids": ids, "attention_mask": real.astype(np.int64)}).values()
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE)


def test_texts_have_the_ids_of_fairseq(masked_lm: Path) -> None:
    tokenizer = Tokenizer.from_bundle(masked_lm, read_manifest(masked_lm))
    known = expected_ids()
    found = {
        "texts": [[text, tokenizer.encode(text).ids.tolist()] for text, _ in known["texts"]],
        "masked": [[text, tokenizer.encode(text).ids.tolist()] for text, _ in known["masked"]],
        "pairs": [[first, second, tokenizer.encode(first, second).ids.tolist()] for first, second, _ in known["pairs"]],
    }
    assert found == known


def test_bundle_is_of_the_file_that_was_named(masked_lm: Path) -> None:
    source = read_manifest(masked_lm).source
    digest = hashlib.sha256(hashlib.sha256(MASKED_LM.read_bytes()).digest()).hexdigest()
    assert (source.name, source.sha256) == ("masked_lm.pt", digest)
    texts = [path.read_text(encoding="utf-8") for path in masked_lm.glob("*.json")]
    assert len(texts) > 4
    assert not [text for text in texts if f"{tempfile.gettempdir()}/rpln-" in text]


def test_folder_is_called_after_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(export_command, [str(MASKED_LM), *VOCABULARY, "--optimize", "none"])
    assert result.exit_code == 0, result.output
    assert [path.name for path in tmp_path.iterdir()] == ["masked_lm-fill-mask-fp32"]


def test_bundle_is_proven_again_by_the_file(masked_lm: Path) -> None:
    result = CliRunner().invoke(rpln_command, ["validate", str(masked_lm), str(MASKED_LM), "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)[0]["cases"] > 40
    result = CliRunner().invoke(rpln_command, ["validate", str(masked_lm), str(CLASSIFIER)])
    assert result.exit_code == ValidationError.exit_code
    assert str(CLASSIFIER) in result.stderr
    assert f"rpln validate {masked_lm} {MASKED_LM.name}" in result.stderr


def test_another_tokenizer_may_be_named(masked_lm: Path, tmp_path: Path) -> None:
    result = export(MASKED_LM, tmp_path / "out", "--tokenizer", masked_lm)
    assert result.exit_code == 0, result.output
    one, other = (folder / "tokenizer.json" for folder in (masked_lm, tmp_path / "out"))
    assert one.read_bytes() == other.read_bytes()


def test_nothing_is_left_in_the_temporary_folder(
    masked_lm: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    assert export(MASKED_LM, tmp_path / "out", "--tokenizer", masked_lm).exit_code == 0
    assert export(MASKED_LM, tmp_path / "wrong", "--task", "token-classification", *VOCABULARY).exit_code != 0
    assert list((tmp_path / "temporary").iterdir()) == []


# A real process, which says when the weights are converted, and waits there to be killed.
KILLED = """
import sys, time
from rpln_export import cli
from rpln_export.plan import export_plan

def make_plan(*args, **kwargs):
    print("reached", flush=True)
    time.sleep(60)

export_plan.make_plan = make_plan
cli.export_command(sys.argv[1:])
"""


@pytest.mark.parametrize("output", [["-o", "out"], []], ids=["named", "default"])
def test_converted_weights_of_a_killed_export_are_removed_by_the_next(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, output: list[str]
) -> None:
    work, temporary = tmp_path / "work", tmp_path / "temporary"
    work.mkdir()
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.chdir(work)
    command = [sys.executable, "-c", KILLED, str(MASKED_LM), *map(str, VOCABULARY), *output]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "reached\n"
        process.kill()
    assert {path.name for path in temporary.iterdir()} <= {".ses"}  # ONNX Runtime's, one a machine
    assert len(list(work.rglob("model.safetensors"))) == 1
    arguments = [str(MASKED_LM), *map(str, VOCABULARY), *output, "--opset", "1"]
    assert CliRunner().invoke(export_command, arguments).exit_code == PlanError.exit_code
    assert list(work.iterdir()) == []


# refusals


def write(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def dictionary(folder: Path, change: Callable[[list[str]], list[str]]) -> list[object]:
    """Return a --dict whose lines are changed."""
    lines = DICTIONARY.read_text(encoding="utf-8").splitlines()
    return ["--dict", write(folder, "dict.txt", "\n".join([*change(lines), ""])), "--bpe", *BPE]


def encoder(folder: Path, change: Callable[[dict[str, int]], object]) -> list[object]:
    """Return a --bpe with another encoder.json."""
    text = json.dumps(change(json.loads(BPE[0].read_text(encoding="utf-8"))))
    return ["--dict", DICTIONARY, "--bpe", write(folder, "encoder.json", text), BPE[1]]


def merges(folder: Path, change: Callable[[str], str]) -> list[object]:
    """Return a --bpe with another vocab.bpe."""
    text = change(BPE[1].read_text(encoding="utf-8"))
    return ["--dict", DICTIONARY, "--bpe", BPE[0], write(folder, "vocab.bpe", text)]


WRONG_VOCABULARY: dict[str, tuple[Callable[[Path], list[object]], str]] = {
    "none": (lambda _: [], "--dict dict.txt --bpe encoder.json vocab.bpe"),
    "no bpe": (lambda _: ["--dict", DICTIONARY], "--dict and --bpe go together"),
    "no dict": (lambda _: ["--bpe", *BPE], "--dict and --bpe go together"),
    "two tokenizers": (lambda _: [*VOCABULARY, "--tokenizer", "somewhere"], "both name a tokenizer"),
    "size": (
        lambda folder: dictionary(folder, lambda lines: lines[:-1]),
        "a vocabulary of 1008, but the network has 1009",
    ),
    "no count": (lambda folder: dictionary(folder, lambda lines: ["260", *lines[1:]]), "has the line '260'"),
    "other words": (
        lambda folder: dictionary(folder, lambda lines: ["99999 1", *lines[1:]]),
        "the word 99999, which is no id in",
    ),
    "repeated": (lambda folder: dictionary(folder, lambda lines: [lines[1], *lines[1:]]), "more than once"),
    "rare words left out": (
        lambda folder: dictionary(folder, lambda lines: ["madeupword9 1", *lines[1:]]),
        "lacks 'Ġthe', which fairseq reads as <unk>",
    ),
    "other merges": (lambda folder: merges(folder, lambda text: text + "Q Q\nQQ Q\n"), "lacks 'QQ', 'QQQ' of"),
    "merges of three": (lambda folder: merges(folder, lambda text: text + "a b c\n"), "has the line 'a b c'"),
    "no encoder": (lambda folder: encoder(folder, lambda _: ["a"]), "is no vocabulary"),
    "no file": (lambda folder: ["--dict", folder / "no", "--bpe", *BPE], "of --dict cannot be read"),
    "in disorder": (lambda _: ["--dict", DICTIONARY, "--bpe", *reversed(BPE)], "is not valid JSON"),
}


@pytest.mark.parametrize("case", WRONG_VOCABULARY)
def test_a_vocabulary_that_is_not_its_own_is_refused(case: str, tmp_path: Path) -> None:
    options, says = WRONG_VOCABULARY[case]
    result = export(MASKED_LM, tmp_path / "out", *options(tmp_path))
    assert result.exit_code == PlanError.exit_code, result.output
    assert says in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_vocabulary_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    arguments = ["--task", "fill-mask", "-o", str(tmp_path / "out"), *VOCABULARY]
    result = CliRunner().invoke(export_command, arguments)
    assert result.exit_code == PlanError.exit_code
    assert "no CHECKPOINT was given" in result.stderr


def test_last_line_without_an_end_is_no_merge_as_in_fairseq(tmp_path: Path) -> None:
    """The last line, `Q Q`, would be refused if it were read as a merge, because its result has no number."""
    _, dictionary, _, *bpe = merges(tmp_path, lambda text: text + "Q Q")
    files = vocabulary_from_options(Path(str(dictionary)), (Path(str(bpe[0])), Path(str(bpe[1]))))
    assert files is not None
    assert len(tokenizer_from_fairseq(files, vocab_size=VOCAB_SIZE, usable_length=USABLE_LENGTH)) == VOCAB_SIZE


@pytest.mark.parametrize(
    ("checkpoint", "options", "code", "says"),
    [
        (NO_EMBEDDING_NORM, [], CheckpointError.exit_code, "its embeddings have no LayerNorm"),
        (BPE[0], [], CheckpointError.exit_code, "encoder.json is a file"),
        (MASKED_LM, ["--task", "text-classification"], PlanError.exit_code, "masked_lm.pt lacks weights of"),
    ],
)
def test_what_cannot_be_exported_is_refused(
    checkpoint: Path, options: list[str], code: int, says: str, tmp_path: Path
) -> None:
    result = export(checkpoint, tmp_path / "out", *VOCABULARY, *options)
    assert result.exit_code == code, result.output
    assert says in result.stderr
    assert not (tmp_path / "out").exists()
