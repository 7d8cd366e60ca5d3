"""`rpln run` on a bundle that generates text prints the text as it comes, or JSON at the end."""

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from rpln_export.cli import INTERRUPTED, rpln_command
from rpln_runtime import Generator, InputError, generator
from rpln_runtime.manifest import read_manifest
from tests.export.conftest import Export

TEXTS = ("The dog", "Ada Lovelace wrote")


@pytest.fixture(scope="module")
def folder(exported: Callable[..., Export]) -> str:
    return str(exported("text-generation", "--is-decoder").folder)


def rpln(*arguments: object) -> Result:
    return CliRunner().invoke(rpln_command, [str(argument) for argument in arguments])


def texts_of(folder: str, **options: Any) -> list[str]:
    generate = generator(folder, **options)
    return [generate(text)[0]["generated_text"] for text in TEXTS]


def test_text_is_printed_with_its_prompt(folder: str) -> None:
    result = rpln("run", folder, *TEXTS, "--max-new-tokens", 12)
    assert (result.exit_code, result.stderr) == (0, "")
    expected = texts_of(folder, max_new_tokens=12)
    assert all(len(text) > len(prompt) + 4 for text, prompt in zip(expected, TEXTS, strict=True))
    assert result.stdout == "".join(f"{text}\n" for text in expected)


def test_options_are_those_of_a_generation(folder: str) -> None:
    arguments = ("--option", "do_sample=true", "--option", "seed=3", "--option", "return_full_text=false")
    result = rpln("run", folder, *TEXTS, *arguments)
    expected = texts_of(folder, do_sample=True, seed=3, return_full_text=False)
    assert result.stdout == "".join(f"{text}\n" for text in expected)


def test_pieces_come_one_by_one(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[int] = []
    stream = Generator.stream

    def watched(self: Generator, *arguments: Any, **options: Any) -> Iterator[str]:
        for piece in stream(self, *arguments, **options):
            shown.append(sys.stdout.tell())
            yield piece

    monkeypatch.setattr(Generator, "stream", watched)
    rpln("run", folder, TEXTS[0], "--max-new-tokens", 12, "--option", "stop_token_ids=[]")
    assert len(shown) > 4
    assert shown == sorted(set(shown))


def test_several_answers_are_shown_at_the_end(folder: str) -> None:
    arguments = ("--option", "num_beams=3", "--option", "num_return_sequences=2")
    result = rpln("run", folder, TEXTS[0], *arguments, "--json")
    (answers,) = json.loads(result.stdout)
    assert answers == generator(folder)(TEXTS[0], num_beams=3, num_return_sequences=2)
    assert len(answers) == 2
    table = rpln("run", folder, TEXTS[0], *arguments)
    assert table.exit_code == 0
    assert "generated_text" in table.stdout


def test_beams_that_the_checkpoint_sets_are_shown_at_the_end(folder: str, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "bundle"))
    document = json.loads((copy / "rpln.json").read_text(encoding="utf-8"))
    document["generation"]["defaults"] = {"num_beams": 3}
    (copy / "rpln.json").write_text(json.dumps(document), encoding="utf-8")
    result = rpln("run", copy, TEXTS[0], "--json", "--max-new-tokens", 5)
    assert json.loads(result.stdout) == [generator(folder)(TEXTS[0], num_beams=3, max_new_tokens=5)]
    assert rpln("run", copy, TEXTS[0], "--max-new-tokens", 5).exit_code == 0
    greedy = rpln("run", copy, TEXTS[0], "--max-new-tokens", 5, "--option", "num_beams=1")
    assert greedy.stdout == f"{generator(folder)(TEXTS[0], max_new_tokens=5)[0]['generated_text']}\n"


def test_json_holds_every_answer(folder: str) -> None:
    result = rpln("run", folder, *TEXTS, "--max-new-tokens", 5, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    assert json.loads(result.stdout) == generator(folder, max_new_tokens=5)(TEXTS)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([TEXTS[0], "--max-new-tokens", 0], "max_new_tokens is 0, expected an integer, 1 or more."),
        ([TEXTS[0], "--max-new-tokens", 99], "leaves room for"),
        ([TEXTS[0], "--option", "top_q=3"], "unknown option 'top_q' of a generation"),
        ([TEXTS[0] * 60], "the limit of this model is 64"),
        (["--field", "text=The dog"], "takes texts. Give them as they are, without --field."),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is_printed(
    folder: str, arguments: list[object], says: str
) -> None:
    result = rpln("run", folder, *arguments)
    assert (result.exit_code, result.stdout) == (InputError.exit_code, "")
    assert says in result.stderr


def test_other_tasks_take_no_number_of_new_tokens(exported: Callable[..., Export]) -> None:
    result = rpln("run", exported("text-classification").folder, TEXTS[0], "--max-new-tokens", 3)
    assert result.exit_code == InputError.exit_code
    assert "unknown option 'max_new_tokens' for text-classification" in result.stderr


def test_an_interrupt_leaves_the_text_so_far(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> Iterator[str]:
        yield " barked"
        raise KeyboardInterrupt

    monkeypatch.setattr(Generator, "stream", interrupted)
    result = rpln("run", folder, TEXTS[0])
    assert (result.exit_code, result.stdout, result.stderr) == (INTERRUPTED, "The dog barked", "\nInterrupted.\n")


def test_an_error_behind_the_prompt_begins_a_line(folder: str) -> None:
    every = list(range(read_manifest(Path(folder)).vocab_size))
    result = rpln("run", folder, TEXTS[0], "--option", f"suppress_tokens={every}")
    assert result.exit_code == InputError.exit_code
    assert result.stdout == f"{TEXTS[0]}\n"
    assert "exclude every token" in result.stderr


def test_the_option_is_listed() -> None:
    (option,) = (one for one in rpln_command.commands["run"].params if one.name == "max_new_tokens")
    assert isinstance(option, click.Option)
    assert option.opts == ["--max-new-tokens"]
