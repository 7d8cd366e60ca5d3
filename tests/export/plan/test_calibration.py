"""Calibration texts: lines of text or JSON; a line that cannot be read is refused with its file, number and field."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from rpln_export.errors import PlanError
from rpln_export.plan.calibration import (
    DEFAULT_TEXTS,
    EXPECTED,
    FEWEST,
    TEXTS_OF_QUANTIZED,
    CalibrationText,
    calibration_texts,
    check_calibration,
)
from rpln_export.plan.defaults import DEFAULTS
from rpln_export.plan.export_plan import make_plan
from rpln_export.validation.calibration import ids_from_texts, windows_from_texts
from rpln_graphs.recipes import RECIPES, Recipe
from tests.export.checkpoints import USABLE_LENGTH, make_checkpoint

INT8 = RECIPES["int8"]


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def refusal(path: Path) -> str:
    with pytest.raises(PlanError) as refused:
        calibration_texts(path, INT8)
    return str(refused.value)


def test_each_line_is_a_text() -> None:
    for recipe, path in ((RECIPES["fp16"], DEFAULT_TEXTS), (INT8, TEXTS_OF_QUANTIZED)):
        texts = calibration_texts(None, recipe)
        assert [text.text for text in texts] == path.read_text(encoding="utf-8").splitlines()
        assert all(text.pair is None for text in texts)
    assert len(calibration_texts(None, INT8)) == 64


@pytest.mark.parametrize("task", DEFAULTS)
def test_an_embedded_checkpoint_is_quantized_with_texts_of_its_own(task: str) -> None:
    plan = make_plan(None, task=task, precision="int8")
    assert plan.calibration == DEFAULTS[task].calibration
    texts = calibration_texts(plan.calibration, plan.recipe)
    assert len(texts) >= 64
    assert all(text.text and text.pair != "" for text in texts)
    assert {text.pair is None for text in texts} == {task not in {"question-answering", "multiple-choice"}}
    assert all(text.text.count("<mask>") > 1 for text in texts) == (task == "fill-mask")
    for folder in (str(DEFAULTS[task].folder), os.path.relpath(DEFAULTS[task].folder)):
        assert make_plan(folder, precision="int8").calibration == plan.calibration
    assert make_plan(None, task=task, precision="fp32").calibration is None


def test_blank_lines_are_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "texts.txt", '\none\n  \n{"text": "two"}\n')

    assert calibration_texts(path, INT8) == [CalibrationText(text="one"), CalibrationText(text='{"text": "two"}')]


def test_only_the_end_of_a_line_ends_a_text(tmp_path: Path) -> None:
    """JSON allows U+2028 and U+0085 in texts, which pages of the web hold; str.splitlines would end a line there."""
    text = "one\u2028two\u2029three\x85four\x0cfive\x1csix"
    plain = tmp_path / "texts.txt"
    plain.write_bytes(f"\ufeff{text}\r\nseven\n".encode())
    assert calibration_texts(plain, INT8) == [CalibrationText(text=text), CalibrationText(text="seven")]
    record = json.dumps({"text": text}, ensure_ascii=False)
    lines = write(tmp_path / "texts.jsonl", f"{record}\n{record}\n")
    assert calibration_texts(lines, INT8) == [CalibrationText(text=text)] * 2
    marked = tmp_path / "marked.jsonl"
    marked.write_bytes(b"\xef\xbb\xbf" + lines.read_bytes())
    assert "marked.jsonl, line 1, is no JSON (it begins with a byte order mark" in refusal(marked)


def test_lines_of_json_hold_texts_and_pairs(tmp_path: Path) -> None:
    lines = [
        '{"text": "é", "label": 3}',
        "",
        '{"text": "Who?", "text_pair": "Ada."}',
        '{"text": "a", "text_pair": null}',
    ]
    path = write(tmp_path / "texts.jsonl", "\n".join(lines))

    assert calibration_texts(path, INT8) == [
        CalibrationText(text="é"),
        CalibrationText(text="Who?", pair="Ada."),
        CalibrationText(text="a"),
    ]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("plain text", "is no JSON"),
        ('{"text": "a"', "is no JSON"),
        ('["a"]', "is ['a'], not an object"),
        ('{"sentence": "a"}', "has no field 'text'"),
        ('{"text": 3}', "the field 'text' is 3, not a text"),
        ('{"text": "a", "text_pair": ["b"]}', "the field 'text_pair' is ['b'], not a text"),
    ],
)
def test_a_bad_line_is_refused_with_its_place(tmp_path: Path, line: str, says: str) -> None:
    path = write(tmp_path / "texts.jsonl", f'{{"text": "good"}}\n\n{line}\n')
    message = refusal(path)

    assert message.startswith(f"{path}, line 3")
    assert says in message
    assert message.endswith(EXPECTED)


@pytest.mark.parametrize("name", ["texts.csv", "texts.json", "texts.ndjson", "texts.txt.bak", "texts"])
def test_files_of_other_kinds_are_refused(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, '{"text": "a"}\n')
    assert refusal(path) == f"{path} is neither a .txt nor a .jsonl file. {EXPECTED}"


def test_the_ending_may_have_capitals(tmp_path: Path) -> None:
    assert calibration_texts(write(tmp_path / "A.JSONL", '{"text": "a"}'), INT8) == [CalibrationText(text="a")]
    assert calibration_texts(write(tmp_path / "A.TXT", "a"), INT8) == [CalibrationText(text="a")]


def test_files_without_a_text_are_refused(tmp_path: Path) -> None:
    assert refusal(write(tmp_path / "empty.txt", " \n\n")) == f"{tmp_path / 'empty.txt'} is empty. {EXPECTED}"
    assert "cannot be read" in refusal(tmp_path / "missing.txt")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    assert "latin.txt, line 1, cannot be read" in refusal(tmp_path / "latin.txt")
    assert "cannot be read" in refusal(tmp_path)


@pytest.mark.parametrize("recipe", [row for row in RECIPES.values() if row.quantizes], ids=lambda row: row.name)
def test_too_few_texts_to_quantize_are_refused(tmp_path: Path, recipe: Recipe) -> None:
    path = write(tmp_path / "texts.txt", "one\n" * (FEWEST - 1))
    with pytest.raises(PlanError, match=f"holds {FEWEST - 1} texts, and {recipe.name} needs at least {FEWEST}"):
        check_calibration(path, recipe)
    check_calibration(write(path, "one\n" * FEWEST), recipe)
    check_calibration(write(path, "one\n"), RECIPES["fp16"])


def test_texts_are_tokenized_as_pairs_and_in_windows_of_what_the_network_takes(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "question-answering")
    long = "The dog barked and the cat slept. " * 12
    lines = ['{"text": "Who?", "text_pair": "Ada."}', f'{{"text": "{long}"}}', '{"text": "a"}', '{"text": ""}']
    texts = write(tmp_path / "texts.jsonl", "\n".join(lines))
    plan = make_plan(str(checkpoint), precision="int8", calibration=texts)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    found = [ids.tolist() for ids in ids_from_texts(tokenizer, plan)]

    assert found[0] == tokenizer("Who?", "Ada.")["input_ids"]
    assert found[-2:] == [tokenizer("a")["input_ids"], tokenizer("")["input_ids"]]
    windows = found[1:-2]
    assert len(windows) > 1
    assert max(map(len, windows)) == USABLE_LENGTH
    inner = np.concatenate([window[1:-1] for window in windows])
    assert inner.tolist() == tokenizer(long, truncation=False)["input_ids"][1:-1]


def test_texts_become_questions_where_there_are_choices(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "multiple-choice")
    lines = [f'{{"text": "{name}?", "text_pair": "{name.lower()}."}}' for name in "ABCDE"]
    texts = write(tmp_path / "texts.jsonl", "\n".join([*lines, '{"text": "alone"}']))
    plan = make_plan(str(checkpoint), precision="int8", calibration=texts)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    found = [[row.tolist() for row in rows] for rows in windows_from_texts(tokenizer, plan)]

    expected = {0: ("A?", "a. b. c. d."), 3: ("D?", "d. e. alone a."), 5: ("alone", "a. b. c. d.")}
    assert len(found) == 6
    for place, (prompt, choices) in expected.items():
        assert found[place] == [tokenizer(prompt, choice)["input_ids"] for choice in choices.split()]
