"""A bundle, its checkpoint in torch and functions that run its graphs give the same figures, for every task."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from rpln_export.errors import ValidationError
from rpln_export.evaluation.evaluate import Evaluation, evaluate, evaluation_from_outputs, rows_of
from rpln_export.evaluation.examples import Examples, read_examples
from rpln_export.evaluation.measures import MEASURES
from rpln_export.evaluation.rows import Row, run_rows
from rpln_export.evaluation.runners import Runner, runner_from_bundle, runner_from_checkpoint, runner_from_functions
from rpln_runtime.errors import InputError
from rpln_runtime.manifest import read_manifest
from rpln_runtime.session import load
from tests.export.checkpoints import HIDDEN
from tests.export.conftest import Export
from tests.export.evaluation.examples_of_tasks import EXAMPLES, FORMS
from tests.export.sentence_folders import dense, encoded, normalize, save_sentences

CASES = [(task, kind.__name__) for task, kinds in MEASURES.items() for kind in kinds if kind.__name__ not in FORMS]


def examples_for(runner: Runner, form: str, folder: Path) -> Examples:
    path = folder / "examples.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in EXAMPLES[form]), encoding="utf-8")
    return read_examples(path, runner.manifest, runner.tokenizer)


def check_equal(one: Evaluation, other: Evaluation) -> None:
    assert one.metrics == pytest.approx(other.metrics, rel=1e-5)
    assert (one.examples, one.decisions) == (other.examples, other.decisions)


def largest_difference(one: Runner, other: Runner, rows: Sequence[Row]) -> float:
    """Return the largest difference of any output in any row."""
    found, expected = (dict(run_rows(runner, rows)) for runner in (one, other))
    return max(
        float(np.abs(found[place][name] - array).max(initial=0))
        for place, outputs in expected.items()
        for name, array in outputs.items()
    )


@pytest.mark.parametrize(("task", "form"), CASES)
def test_a_bundle_has_the_figures_of_its_checkpoint(
    exported: Callable[..., Export], task: str, form: str, tmp_path: Path
) -> None:
    made = exported(task)
    bundle, checkpoint = runner_from_bundle(made.folder), runner_from_checkpoint(str(made.checkpoint))
    assert (bundle.provider, checkpoint.provider) == ("cpu", "torch")
    examples = examples_for(bundle, form, tmp_path)
    assert type(examples.measure).__name__ == form
    check_equal(evaluate(bundle, examples), evaluate(checkpoint, examples_for(checkpoint, form, tmp_path)))
    assert 0 < largest_difference(bundle, checkpoint, rows_of(examples)) < 1e-4


@pytest.mark.parametrize(
    ("task", "form", "options"),
    [
        ("text-generation", "Continuations", ["--variants", "prefill,decode"]),
        ("text-generation", "Continuations", ["--variants", "full"]),
        ("text-generation", "Continuations", ["--logits", "all"]),
        ("text2text-generation", "Translations", ["--variants", "full"]),
        ("fill-mask", "MaskedTexts", ["--logits", "masked"]),
        ("fill-mask", "Cloze", ["--logits", "positions"]),
        ("feature-extraction", "Similarity", ["--pooling", "mean"]),
        ("text-classification", "SingleLabel", ["--inputs", "position_ids,head_mask"]),
        ("text-generation", "Continuations", ["--inputs", "head_mask"]),
    ],
)
def test_other_graphs_of_a_checkpoint_have_its_figures(
    exported: Callable[..., Export], task: str, form: str, options: list[str], tmp_path: Path
) -> None:
    made = exported(task, *options)
    bundle, checkpoint = runner_from_bundle(made.folder), runner_from_checkpoint(str(made.checkpoint))
    found = evaluate(bundle, examples_for(bundle, form, tmp_path))
    check_equal(found, evaluate(checkpoint, examples_for(checkpoint, form, tmp_path)))


def test_a_bundle_runs_on_the_provider_that_is_named(exported: Callable[..., Export], tmp_path: Path) -> None:
    folder = exported("text-classification").folder
    runner = runner_from_bundle(folder, provider="openvino")
    assert runner.provider == "openvino"
    examples = examples_for(runner, "SingleLabel", tmp_path)
    check_equal(evaluate(runner, examples), evaluate(runner_from_bundle(folder), examples))


@pytest.mark.parametrize(
    ("task", "form"), [("token-classification", "WordLabels"), ("text-generation", "Continuations")]
)
def test_fp16_has_nearly_the_same_figures(
    exported: Callable[..., Export], task: str, form: str, tmp_path: Path
) -> None:
    half, full = (runner_from_bundle(exported(task, *options).folder) for options in (["--fp16"], []))
    examples = examples_for(full, form, tmp_path)
    one, other = evaluate(half, examples), evaluate(full, examples)
    assert one.metrics == pytest.approx(other.metrics, rel=0.05)
    assert 1e-5 < largest_difference(half, full, rows_of(examples)) < 0.1


def test_functions_take_the_place_of_a_bundle(exported: Callable[..., Export], tmp_path: Path) -> None:
    folder = exported("text-classification").folder
    session, bundle = load(folder), runner_from_bundle(folder)
    shifted: list[float] = [0.0]

    def run(feeds: Any) -> dict[str, np.ndarray]:
        logits = session.run(feeds)["logits"]
        logits[:, 3] += shifted[0]
        return {"logits": logits}

    runner = runner_from_functions(read_manifest(folder), bundle.tokenizer, {"full": run}, provider="mine")
    examples = examples_for(runner, "SingleLabel", tmp_path)
    right = evaluate(bundle, examples)
    check_equal(evaluate(runner, examples), right)

    shifted[0] = 1000.0  # the label PLACE, always
    changed = evaluate(runner, examples)
    assert changed.metrics["accuracy"] == pytest.approx(1 / 6)
    assert [row for (row,) in changed.decisions] == [3] * 6
    assert largest_difference(runner, bundle, rows_of(examples)) == pytest.approx(1000)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_outputs_that_are_not_finite_have_no_metric(
    exported: Callable[..., Export], value: float, tmp_path: Path
) -> None:
    runner = runner_from_bundle(exported("question-answering").folder)
    examples = examples_for(runner, "Answers", tmp_path)
    outputs = dict(run_rows(runner, rows_of(examples)))
    outputs[1] = {name: np.full_like(array, value) for name, array in outputs[1].items() if name == "end_logits"}
    with pytest.raises(ValidationError, match="'end_logits' holds NaN or infinite values for example 2, so that"):
        evaluation_from_outputs(examples, outputs.items())


def test_rows_may_come_in_any_order_and_progress_is_told(exported: Callable[..., Export], tmp_path: Path) -> None:
    runner = runner_from_bundle(exported("question-answering").folder)
    examples = examples_for(runner, "Answers", tmp_path)
    told: list[tuple[int, int]] = []
    expected = evaluate(runner, examples, advance=lambda done, total: told.append((done, total)))
    rows = rows_of(examples)
    assert len(rows) > len(examples.fields)  # one context is read in windows
    assert told == [(done, len(rows)) for done in range(1, len(rows) + 1)]
    check_equal(evaluation_from_outputs(examples, reversed(list(run_rows(runner, rows)))), expected)


def test_a_cache_that_numpy_has_no_type_for_is_refused(exported: Callable[..., Export], tmp_path: Path) -> None:
    folder = exported("text-generation", "--bf16").folder
    manifest, checkpoint = read_manifest(folder), runner_from_bundle(exported("text-generation").folder)
    runner = runner_from_functions(
        manifest, checkpoint.tokenizer, {graph.variant: dict for graph in manifest.graphs}, provider="mine"
    )
    with pytest.raises(InputError, match=r"'past_key_values.0.key' \(bfloat16\).* Export the checkpoint"):
        evaluate(runner, examples_for(runner, "Continuations", tmp_path))


def test_a_folder_of_sentence_transformers_has_the_figures_of_its_encode(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = save_sentences(
        tmp_path / "folder",
        checkpoint("feature-extraction"),
        poolings=["mean", "max"],
        layers=[dense(2 * HIDDEN, 8), normalize()],
        prompts={"query": "Is this: ", "passage": "Ada "},
        default_prompt_name="passage",
    )
    runner = runner_from_checkpoint(str(folder))
    lines = EXAMPLES["Similarity"]
    first, second = (encoded(folder, [line[name] for line in lines]) for name in ("text1", "text2"))
    expected = spearmanr([line["score"] for line in lines], (first * second).sum(axis=1).round(5)).statistic
    found = evaluate(runner, examples_for(runner, "Similarity", tmp_path))
    assert found.metrics == pytest.approx({"spearman": expected})
