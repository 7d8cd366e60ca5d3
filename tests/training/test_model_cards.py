"""The model cards beside the checkpoints are what the templates make of their metrics."""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import jinja2
import pytest

from rpln_export.plan.defaults import DEFAULTS
from training.model_card import card_from_metrics, write_card
from training.script import Script

_SCRIPTS: list[Script[Any]] = [
    import_module(f"training.{path.stem}").SCRIPT
    for path in sorted((Path(__file__).parents[2] / "training").glob("train_*.py"))
]


def _metrics(script: Script[Any]) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((DEFAULTS[script.task].folder / "metrics.json").read_text(encoding="utf-8"))
    return content


def test_every_default_checkpoint_has_a_script() -> None:
    assert {script.task for script in _SCRIPTS} == DEFAULTS.keys()
    assert len({script.card for script in _SCRIPTS}) == len(_SCRIPTS)


@pytest.mark.parametrize("script", _SCRIPTS, ids=lambda script: script.task)
def test_a_card_is_what_the_template_makes_of_the_metrics(script: Script[Any]) -> None:
    card = (DEFAULTS[script.task].folder / "README.md").read_text(encoding="utf-8")

    assert card_from_metrics(script.card, _metrics(script)) == card


@pytest.mark.parametrize("script", _SCRIPTS, ids=lambda script: script.task)
def test_a_card_names_its_task_and_its_script(script: Script[Any]) -> None:
    module = f"training.train_{script.card.removesuffix('.md')}"
    card = card_from_metrics(script.card, _metrics(script))

    assert import_module(module).SCRIPT is script
    assert f"python -m {module}\n" in card
    assert f"--task {script.task}" in card or script.task == "token-classification"


@pytest.mark.parametrize("script", _SCRIPTS, ids=lambda script: script.task)
def test_the_headline_is_a_figure_of_the_metrics(script: Script[Any]) -> None:
    assert any(character.isdigit() for character in script.headline(_metrics(script)))


@pytest.mark.parametrize("figure", ["seed", "steps"])
def test_a_figure_that_is_missing_is_an_error(figure: str) -> None:
    metrics = _metrics(_SCRIPTS[0])
    del metrics["training"][figure]
    with pytest.raises((jinja2.UndefinedError, TypeError), match=f"{figure}|StrictUndefined"):
        card_from_metrics(_SCRIPTS[0].card, metrics)


def test_text_of_a_model_stays_in_its_cell(tmp_path: Path) -> None:
    script = next(script for script in _SCRIPTS if script.task == "text-generation")
    metrics = _metrics(script)
    metrics["examples"][0]["text"] = "one | two\nthree"
    write_card(tmp_path, script.card, metrics)

    assert "| one \\| two three |\n" in (tmp_path / "README.md").read_text(encoding="utf-8")
