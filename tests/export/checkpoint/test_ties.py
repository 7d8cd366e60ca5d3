"""A second table beside tied word embeddings is refused until --tie or --no-tie chooses one of them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from rpln_export.checkpoint.model import load_model
from rpln_export.cli import export_command, rpln_command
from rpln_export.errors import PlanError
from rpln_export.plan.export_plan import make_plan

WORDS = "roberta_prelayernorm.embeddings.word_embeddings.weight"
PROJECTION = "lm_head.decoder.weight"


def with_projection(source: Path, folder: Path, *, prefix: str = "", factor: float = 2) -> torch.Tensor:
    shutil.copytree(source, folder)
    weights = load_file(folder / "model.safetensors")
    weights[prefix + PROJECTION] = weights[prefix + WORDS] * factor
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return weights[prefix + WORDS]


@pytest.mark.parametrize(
    ("task", "prefix"), [("fill-mask", ""), ("text-generation", ""), ("text2text-generation", "decoder.")]
)
def test_the_choice_says_which_table_is_read(
    checkpoint: Callable[[str], Path], tmp_path: Path, task: str, prefix: str
) -> None:
    words = with_projection(checkpoint(task), tmp_path / "two", prefix=prefix)
    with pytest.raises(PlanError, match=rf"two holds a {prefix}lm_head\.decoder\.weight that differs.*--no-tie"):
        load_model(make_plan(str(tmp_path / "two")))
    for tie, expected in ((True, words), (False, words * 2)):
        model, _ = load_model(make_plan(str(tmp_path / "two"), tie=tie))
        network = model.decoder if prefix else model
        assert torch.equal(network.lm_head.decoder.weight, expected)
        assert torch.equal(network.get_input_embeddings().weight, words)


def test_a_table_that_is_said_to_be_another_and_is_not_there_can_be_tied(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(checkpoint("fill-mask"), tmp_path / "one"))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}), encoding="utf-8")
    with pytest.raises(PlanError, match=r"lacks weights of .*: lm_head\.decoder\.weight\. .* Add --tie to "):
        load_model(make_plan(str(folder)))
    model, _ = load_model(make_plan(str(folder), tie=True))
    assert torch.equal(model.lm_head.decoder.weight, model.get_input_embeddings().weight)


def test_an_equal_table_and_a_task_without_logits_over_words_need_no_choice(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    with_projection(checkpoint("fill-mask"), tmp_path / "same", factor=1)
    load_model(make_plan(str(tmp_path / "same")))
    with_projection(checkpoint("fill-mask"), tmp_path / "two")
    load_model(make_plan(str(tmp_path / "two"), task="feature-extraction"))


def test_a_bundle_is_validated_with_the_choice_it_was_exported_with(
    checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with_projection(checkpoint("fill-mask"), tmp_path / "two")
    arguments = ["two", "--optimize", "none", "--engine", "none"]
    result = CliRunner().invoke(export_command, arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert PROJECTION in result.stderr
    for choice in ("--tie", "--no-tie"):
        result = CliRunner().invoke(export_command, [*arguments, choice, "-o", choice[2:]])
        assert result.exit_code == 0, result.output
        result = CliRunner().invoke(rpln_command, ["validate", choice[2:], "two"])
        assert result.exit_code == 0, result.output
