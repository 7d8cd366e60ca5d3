"""Fidelity: the differences and decisions of a quantized graph on texts are those that are computed here by hand."""

from collections.abc import Mapping
from math import sqrt
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rpln_export.quantization import fidelity
from rpln_export.quantization.fidelity import Fidelity, Trial
from rpln_export.quantization.gate import Gate
from rpln_graphs.forms import INT8_FORMS
from rpln_graphs.rewriting.base import Context
from rpln_graphs.stress import Case
from rpln_graphs.temporary import temporary_folder
from rpln_runtime.tasks import TASKS

Arrays = Mapping[str, np.ndarray]


def case(*mask: int) -> Case:
    return Case(name="text", feeds={}, mask=np.array([mask]))


def fidelity_of(
    monkeypatch: pytest.MonkeyPatch,
    task: str,
    rows: list[tuple[Case, Arrays, Arrays]],
    *,
    problem_type: str | None = None,
) -> Fidelity:
    """Return the fidelity of a graph that gives the second outputs of each row where eager torch gives the first."""
    by_case = {id(one): (expected, found) for one, expected, found in rows}
    model = SimpleNamespace(config=SimpleNamespace(problem_type=problem_type))
    call = SimpleNamespace(layers=2, model=model)
    planned: Any = SimpleNamespace(name="full", compared=TASKS[task].outputs, traits=None, call=call)
    graph: Any = SimpleNamespace(planned=planned, model=None)
    under_test: Any = SimpleNamespace(
        planned_graphs=(planned,),
        eager=lambda one, **_: by_case[id(one)][0],
        runner=lambda runs: lambda one: runs["full"](by_case[id(one)][1]),
    )
    monkeypatch.setattr(fidelity, "write_form", lambda model, *_, **__: model)
    monkeypatch.setattr(fidelity, "run_from_model", lambda _, **__: lambda outputs: outputs)
    with temporary_folder() as folder:
        trial = Trial([graph], under_test, [one for one, _, _ in rows], folder)
        return trial.fidelity(INT8_FORMS["static"], Context())


def test_differences_and_decisions_at_real_tokens_count(monkeypatch: pytest.MonkeyPatch) -> None:
    found = fidelity_of(
        monkeypatch,
        "token-classification",
        [
            (
                case(1, 1, 0),
                {"logits": np.array([[[3.0, 1.0], [0.0, -4.0], [99.0, 0.0]]])},
                {"logits": np.array([[[3.0, 2.0], [0.0, 1.0], [0.0, 50.0]]])},  # the second decides otherwise
            ),
            (case(1), {"logits": np.array([[[2.0, 8.0]]])}, {"logits": np.array([[[2.0, 8.5]]])}),
        ],
    )

    assert found.rms == pytest.approx(sqrt((1 + 25 + 0.25) / 6) / 8)
    assert found.largest == pytest.approx(5 / 8)
    assert (found.decisions, found.agreeing) == (3, 2)
    assert found.agreement == pytest.approx(2 / 3)
    assert str(found) == "off by 26.15% of the range (rms; at most 62.50%), 66.67% of 3 decisions equal"


def test_the_worst_output_counts_and_decisions_are_added(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = {name: np.array([[1.0, 4.0, 9.0]]) for name in ("start_logits", "end_logits")}
    found = fidelity_of(
        monkeypatch,
        "question-answering",
        [
            (
                case(1, 1, 0),  # the third is padding: no answer begins there
                expected,
                {"start_logits": np.array([[1.0, 4.0, -9.0]]), "end_logits": np.array([[5.0, 4.0, 9.0]])},
            )
        ],
    )

    assert (found.rms, found.largest) == pytest.approx((sqrt(16 / 2) / 4, 1.0))
    assert (found.decisions, found.agreeing) == (2, 1)


def test_vectors_decide_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = np.array([[[1.0, 2.0], [5.0, 6.0]]])
    found = fidelity_of(
        monkeypatch,
        "feature-extraction",
        [(case(1, 0), {"last_hidden_state": vectors}, {"last_hidden_state": vectors * 1.5})],
    )

    assert found.agreement is None
    assert found.largest == pytest.approx(0.5)
    assert "decisions" not in str(found)


def test_a_graph_of_numbers_that_are_no_numbers_is_far_off(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = np.array([[1.0, 2.0]])
    found = fidelity_of(
        monkeypatch, "text-classification", [(case(1), {"logits": logits}, {"logits": logits * np.nan})]
    )

    assert not found.rms < 1
    assert found.agreeing == 0
    assert not Gate(agreement=0.0).holds(found)


def test_a_single_label_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = [({"logits": np.array([[2.0]])}, {"logits": np.array([[-2.0]])})]
    found = fidelity_of(monkeypatch, "text-classification", [(case(1), *row) for row in scores])

    assert found.agreement is None
    assert found.largest == pytest.approx(2.0)


def test_several_labels_are_decided_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [({"logits": np.array([[3.0, 1.0, -1.0]])}, {"logits": np.array([[3.0, -0.1, -2.0]])})]
    found = fidelity_of(
        monkeypatch,
        "text-classification",
        [(case(1), *row) for row in rows],
        problem_type="multi_label_classification",
    )

    assert (found.decisions, found.agreeing) == (3, 2)
