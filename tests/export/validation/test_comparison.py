"""What counts as equal: which elements are compared, how differences are measured, and which argmaxes are counted."""

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rpln_export.plan.export_plan import make_plan
from rpln_export.validation.comparison import (
    BLOCK,
    Comparison,
    Reference,
    Run,
    compare,
    distance_between,
    eager_outputs,
    failed,
    graph_outputs,
    meaningful,
    reference_outputs,
    sample_from_cases,
)
from rpln_graphs.recipes import RECIPES
from rpln_graphs.stress import MASK_KINDS, Case, stress_cases
from rpln_graphs.tolerances import Tolerance
from rpln_model import HEADS
from rpln_runtime.tasks import TASKS, Tensor

Change = Callable[[np.ndarray], None]

FP32 = RECIPES["fp32"].tolerance
FP16 = RECIPES["fp16"].tolerance

NOISE = 1e-5
"""How far eager torch is from fp64 in these tests."""

# Three rows: one with padding on the left, one with a hole, one that is all padding.
MASK = np.array([[0, 0, 1, 1], [1, 0, 1, 0], [0, 0, 0, 0]])


def find_tensor(task: str, name: str) -> Tensor:
    row = TASKS[task]
    (tensor,) = [tensor for tensor in (*row.outputs, *row.optional_outputs) if tensor.name == name]
    return tensor


def make_case(mask: np.ndarray = MASK, name: str = "the case") -> Case:
    return Case(name=name, feeds={"input_ids": np.zeros(mask.shape, dtype=np.int64)}, mask=mask.astype(np.int64))


def compare_one(
    tensor: Tensor,
    expected: np.ndarray,
    *changes: Change,
    cases: list[Case] | None = None,
    tolerance: Tolerance = FP32,
) -> Comparison:
    """Compare `expected` with a copy of it, in which each case has the change of the same position."""
    cases = [make_case()] if cases is None else cases
    found = []
    for change in changes or [lambda array: None]:
        array = expected.copy()
        change(array)
        found.append({tensor.name: array})
    (row,) = compare(
        [make_reference({tensor.name: expected}) for _ in cases],
        {"runtime": lambda: replay(found)},
        {tensor.name: tensor},
        cases,
        tolerance,
        advance=lambda: None,
    )
    return row


def make_reference(values: dict[str, np.ndarray], *, noise: float = NOISE, sampled: bool = True) -> Reference:
    """Return outputs of eager torch, each value of which is `noise` away from fp64."""
    exact = {name: array.astype(np.float64) + noise for name, array in values.items()}
    return Reference(values=values, compute_exact=lambda: exact, exact=exact if sampled else None)


def replay(found: list[dict[str, np.ndarray]]) -> Run:
    left = iter(found)
    return lambda case: next(left)


def set_at(*index: int, value: float) -> Change:
    def change(array: np.ndarray) -> None:
        array[index] = value

    return change


# The elements of each output that have a meaning, written out by hand for MASK.
EVERY_ROW_WITH_A_TOKEN = np.array([True, True, False])


@pytest.mark.parametrize(
    ("task", "name", "shape", "expected"),
    [
        ("feature-extraction", "last_hidden_state", (3, 4, 2), MASK.astype(bool)[:, :, None]),
        ("fill-mask", "logits", (3, 4, 7), MASK.astype(bool)[:, :, None]),
        ("token-classification", "logits", (3, 4, 2), MASK.astype(bool)[:, :, None]),
        ("question-answering", "start_logits", (3, 4), MASK.astype(bool)),
        ("fill-mask", "hidden_states", (3, 4, 2), MASK.astype(bool)[:, :, None]),
        # The queries of real tokens, over all keys: probabilities of padded keys must be zero, as in eager torch.
        ("fill-mask", "attentions", (3, 5, 4, 4), MASK.astype(bool)[:, None, :, None]),
        ("text-classification", "logits", (3, 2), EVERY_ROW_WITH_A_TOKEN[:, None]),
        ("feature-extraction", "pooler_output", (3, 2), EVERY_ROW_WITH_A_TOKEN[:, None]),
        ("multiple-choice", "logits", (1, 3), EVERY_ROW_WITH_A_TOKEN[None]),
        ("multiple-choice", "hidden_states", (3, 4, 2), MASK.astype(bool)[:, :, None]),
        ("multiple-choice", "attentions", (3, 5, 4, 4), MASK.astype(bool)[:, None, :, None]),
    ],
)
def test_an_output_means_something_at_real_tokens_or_in_rows_that_have_one(
    task: str, name: str, shape: tuple[int, ...], expected: np.ndarray
) -> None:
    found = meaningful(find_tensor(task, name), make_case(), shape)
    np.testing.assert_array_equal(found, np.broadcast_to(expected, shape))


def test_every_output_of_every_task_can_be_masked() -> None:
    sizes = {"batch": 1, "choices": 3, "batch*choices": 3, "sequence": 4, "num_attention_heads": 5}
    for task in TASKS.values():
        choices = any("choices" in tensor.axes for tensor in task.inputs)
        for tensor in (*task.outputs, *task.optional_outputs):
            axes = {**sizes, "batch": 1 if choices else 3}
            shape = tuple(axis if isinstance(axis, int) else axes.get(axis, 2) for axis in tensor.axes)
            where = meaningful(tensor, make_case(), shape)
            assert where.shape == shape
            assert 0 < where.sum() < where.size


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (set_at(0, 2, 0, value=1.5), 1.5),  # a real token behind left padding
        (set_at(0, 0, 0, value=1.5), 0.0),  # left padding
        (set_at(1, 1, 0, value=1.5), 0.0),  # the hole
        (set_at(2, 0, 0, value=1.5), 0.0),  # the row that is all padding
    ],
)
def test_a_token_output_is_compared_at_real_tokens_alone(change: Change, difference: float) -> None:
    row = compare_one(find_tensor("token-classification", "logits"), np.zeros((3, 4, 2), np.float32), change)
    assert (row.difference, row.accepted(FP32)) == (difference, difference == 0.0)


def test_a_first_token_output_is_compared_even_where_position_0_is_padding() -> None:
    row = compare_one(
        find_tensor("text-classification", "logits"), np.zeros((3, 2), np.float32), set_at(0, 0, value=1.5)
    )
    assert row.difference == 1.5


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [(0, 2, 0), (0, 0, 0), (2, 3, 1)], ids=["real", "padding", "empty-row"])
def test_a_value_that_is_not_finite_is_refused_wherever_it_is(value: float, place: tuple[int, int, int]) -> None:
    row = compare_one(
        find_tensor("token-classification", "logits"),
        np.ones((3, 4, 2), np.float32),
        set_at(*place, value=value),
        tolerance=FP16,
    )
    assert (row.finite, row.worst_case, row.accepted(FP16)) == (False, "the case", False)


def test_eager_torch_that_is_not_finite_proves_nothing() -> None:
    expected = np.full((3, 4, 2), np.nan, np.float32)
    row = compare_one(find_tensor("token-classification", "logits"), expected, lambda array: array.fill(0.0))
    assert (row.worst_case, row.accepted(FP32)) == ("the case", False)


@pytest.mark.parametrize("bad", range(3))
def test_one_bad_case_among_good_ones_is_the_one_that_is_named(bad: int) -> None:
    cases = [make_case(name=f"case {number}") for number in range(3)]
    for value in (np.nan, 7.0):
        changes: list[Change] = [set_at(0, 2, 0, value=1e-6)] * 3
        changes[bad] = set_at(0, 2, 0, value=value)
        row = compare_one(
            find_tensor("token-classification", "logits"), np.zeros((3, 4, 2), np.float32), *changes, cases=cases
        )
        assert (row.worst_case, row.cases, row.accepted(FP32)) == (f"case {bad}", 3, False)


def test_a_difference_is_absolute_or_relative_to_the_range_as_the_tolerance_says() -> None:
    tensor = find_tensor("fill-mask", "logits")
    expected = np.full((3, 4, 2), -50.0, np.float32)
    # A large value does not count for the range if it is not compared.
    expected[2] = 1e6
    change = set_at(0, 2, 0, value=-49.0)
    assert compare_one(tensor, expected, change).difference == pytest.approx(1.0)
    assert compare_one(tensor, expected, change, tolerance=FP16).difference == pytest.approx(1.0 / 50)


def test_the_range_is_that_of_all_cases_together() -> None:
    # The only value of one real token may be near zero by chance, and does not show how large an output is.
    tensor = find_tensor("question-answering", "end_logits")
    large, small = np.array([[8.0, -4.0]], np.float32), np.array([[1e-3, 5.0]], np.float32)
    cases = [make_case(np.array([[1, 1]]), "large"), make_case(np.array([[1, 0]]), "small")]
    found = [{"end_logits": large}, {"end_logits": small + np.float32(0.04)}]
    (row,) = compare(
        [make_reference({"end_logits": large}), make_reference({"end_logits": small})],
        {"runtime": lambda: replay(found)},
        {"end_logits": tensor},
        cases,
        FP16,
        advance=lambda: None,
    )
    assert row.worst_case == "small"
    assert row.difference == pytest.approx(0.04 / 8, rel=1e-3)


def test_an_output_that_is_zero_has_a_range() -> None:
    tensor = find_tensor("fill-mask", "logits")
    expected = np.zeros((3, 4, 2), np.float32)
    assert compare_one(tensor, expected, tolerance=FP16).difference == 0.0
    assert not compare_one(tensor, expected, set_at(0, 2, 0, value=1e-3), tolerance=FP16).accepted(FP16)


def test_token_decisions_are_counted_at_real_tokens() -> None:
    expected = np.zeros((3, 4, 3), np.float32)
    expected[..., 1] = 1.0

    def change(array: np.ndarray) -> None:
        array[0, 2, 2] = 1.1  # another winner at a real token
        array[0, 0, 2] = 1.1  # another winner at padding, which is not a decision

    row = compare_one(find_tensor("token-classification", "logits"), expected, change)
    assert (row.decisions, row.agreeing, row.agreement) == (4, 3, 0.75)


def test_the_start_of_an_answer_is_decided_once_a_row_among_its_real_tokens() -> None:
    expected = np.array([[9, 0, 1, 2], [1, 9, 0, 0], [0, 0, 0, 9]], np.float32)

    def change(array: np.ndarray) -> None:
        array[0] = [0, 9, 1, 2]  # padding alone differs
        array[1] = [1, 0, 3, 9]  # token 2 wins over token 0
        array[2] = [9, 0, 0, 0]  # without tokens there is no decision

    row = compare_one(find_tensor("question-answering", "start_logits"), expected, change)
    assert (row.decisions, row.agreeing) == (2, 1)


def test_a_choice_is_decided_once_an_item_among_choices_that_have_a_token() -> None:
    tensor = find_tensor("multiple-choice", "logits")
    expected = np.array([[1.0, 2.0, 9.0]], np.float32)  # the last choice is all padding
    same = compare_one(tensor, expected, set_at(0, 2, value=-9.0))
    assert (same.decisions, same.agreeing, same.difference) == (1, 1, 0.0)
    other = compare_one(tensor, expected, set_at(0, 0, value=3.0))
    assert (other.decisions, other.agreeing) == (1, 0)


def test_a_tie_that_the_type_cannot_tell_apart_is_no_decision() -> None:
    tensor = find_tensor("token-classification", "logits")
    expected = np.zeros((1, 3, 3), np.float32)
    expected[0, :, 0] = 4.0  # the range: spacings of fp16 are 4 * 2^-10 there, and half of that for half of it
    expected[0, :, 1] = [4.0 - 2 * FP16.resolution, 4.0 - 8 * FP16.resolution, 4.0]
    case = make_case(np.array([[1, 1, 1]]))

    def change(array: np.ndarray) -> None:
        array[0, :, 1] = 4.0 + FP16.resolution  # another winner for every token

    row = compare_one(tensor, expected, change, cases=[case], tolerance=FP16)
    assert (row.ties, row.decisions, row.agreeing) == (2, 1, 0)
    # In fp32, only equal values are a tie.
    row = compare_one(tensor, expected, change, cases=[case])
    assert (row.ties, row.decisions, row.agreeing) == (1, 2, 0)


def test_the_only_candidate_is_a_decision() -> None:
    tensor = find_tensor("question-answering", "start_logits")
    row = compare_one(tensor, np.array([[1.0], [2.0]], np.float32), cases=[make_case(np.ones((2, 1)))], tolerance=FP16)
    assert (row.ties, row.decisions, row.agreeing) == (0, 2, 2)
    row = compare_one(tensor, np.array([[1.0, 1.0]], np.float32), cases=[make_case(np.array([[0, 1]]))], tolerance=FP16)
    assert (row.ties, row.decisions, row.agreeing) == (0, 1, 1)


@pytest.mark.parametrize("name", ["last_hidden_state", "pooler_output"])
def test_features_have_no_argmax_to_count(name: str) -> None:
    tensor = find_tensor("feature-extraction", name)
    row = compare_one(tensor, np.ones((3, 4, 2) if tensor.per_token else (3, 2), np.float32))
    assert (row.decisions, row.agreement) == (0, None)


@pytest.mark.parametrize(
    ("tolerance", "row", "accepted"),
    [
        (FP32, {"share": 1.0}, True),
        (FP32, {"share": 1.01}, False),
        (FP32, {"finite": False}, False),
        (FP16, {"share": 1.0}, True),
        (FP16, {"share": 1.01}, False),
        (FP16, {"decisions": 1000, "agreeing": 995}, True),
        (FP16, {"decisions": 1000, "agreeing": 994}, False),
        (FP16, {"decisions": 0}, True),
    ],
)
def test_tolerances_are_those_of_the_recipes(tolerance: Tolerance, row: dict[str, Any], *, accepted: bool) -> None:
    comparison = Comparison(output="logits", method="runtime", **row)
    assert comparison.accepted(tolerance) is accepted
    assert failed([comparison], tolerance) == ([] if accepted else [comparison])


def test_each_method_is_run_over_every_case_and_reported_for_every_output() -> None:
    outputs = {
        "logits": find_tensor("fill-mask", "logits"),
        **graph_outputs([find_tensor("fill-mask", "hidden_states")], layers=1),
    }
    arrays = {name: np.ones((3, 4, 2), np.float32) for name in outputs}
    ticks: list[int] = []
    rows = compare(
        [make_reference(arrays), make_reference(arrays)],
        {method: lambda: replay([arrays, arrays]) for method in ("runtime", "rounding copy")},
        outputs,
        [make_case(), make_case()],
        FP32,
        advance=lambda: ticks.append(1),
    )
    assert [(row.method, row.output, row.cases) for row in rows] == [
        (method, output, 2)
        for method in ("runtime", "rounding copy")
        for output in ("logits", "hidden_states.0", "hidden_states.1")
    ]
    assert len(ticks) == 4


def test_eager_outputs_have_the_names_of_the_graph(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    plan = make_plan(str(checkpoint("fill-mask")), outputs=["hidden_states", "attentions"])
    model = HEADS[plan.task.architecture].from_pretrained(plan.source.network)
    ids = torch.arange(5, 11).reshape(2, 3)
    with torch.inference_mode():
        result = model(ids, output_hidden_states=True, output_attentions=True)
    feeds = {"input_ids": ids.numpy(), "attention_mask": np.ones((2, 3), np.int64)}
    (graph,) = plan.graphs
    found = eager_outputs(model, graph.inputs, graph.outputs, feeds)
    expected = {
        "logits": result.logits,
        **{f"hidden_states.{index}": state for index, state in enumerate(result.hidden_states)},
        **{f"attentions.{index}": weights for index, weights in enumerate(result.attentions)},
    }
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        np.testing.assert_allclose(found[name], tensor.numpy(), atol=1e-6)
    case = Case(name="", feeds=feeds, mask=np.ones((2, 3), np.int64))
    wide = {name: array.astype(np.float64) + 1.0 for name, array in found.items()}
    (stored,) = reference_outputs(
        lambda _, exact: wide if exact else found, [case], tmp_path, sample=[case], advance=lambda: None
    )
    assert stored.exact is not None
    for kept, outputs in ((stored.values, found), (stored.exact, wide)):
        assert list(kept) == list(outputs)
        for name, array in outputs.items():
            np.testing.assert_array_equal(kept[name], array)


def test_a_case_in_doubt_is_compared_with_fp64_and_with_its_own_noise() -> None:
    tensor = find_tensor("token-classification", "logits")
    quiet = np.zeros((3, 4, 2), np.float32)
    # The sample has little noise. The second case has 100 times as much, and so has the graph.
    references = [make_reference({"logits": quiet}), make_reference({"logits": quiet}, noise=1e-3, sampled=False)]
    cases = [make_case(name="sampled"), make_case(name="in doubt")]

    def compared(difference: float) -> Comparison:
        found = [{"logits": quiet}, {"logits": quiet - np.float32(difference)}]
        outputs = {"logits": tensor}
        (row,) = compare(references, {"runtime": lambda: replay(found)}, outputs, cases, FP32, advance=lambda: None)
        return row

    row = compared(0.5e-3)
    assert (row.worst_case, row.accepted(FP32)) == ("in doubt", True)
    assert row.noise is not None
    assert row.noise.largest == pytest.approx(1e-3)
    assert row.distance is not None
    assert row.distance.largest == pytest.approx(1.5e-3)
    assert not compared(2.5e-3).accepted(FP32)


def test_the_sample_has_the_case_with_most_tokens_of_each_kind_of_mask() -> None:
    plan = make_plan(None, task="token-classification")
    cases = list(stress_cases(plan.task.inputs, plan.limits))
    sample = sample_from_cases(cases)
    assert {case.mask_kind for case in sample} == set(MASK_KINDS)
    assert len(sample) == len(MASK_KINDS)
    for chosen in sample:
        assert chosen.tokens == max(case.mask.size for case in cases if f"mask {chosen.mask_kind}" in case.name)


@pytest.mark.parametrize("place", [0, BLOCK + 1], ids=["in the first block", "in a later block"])
def test_a_value_that_is_not_a_number_is_no_distance_at_all(place: int) -> None:
    found = np.zeros(2 * BLOCK, dtype=np.float32)
    found[place] = np.nan
    distance = distance_between(found, np.zeros_like(found))
    assert np.isnan(distance.rms)
    assert np.isnan(distance.largest)


def test_the_graphs_of_one_method_are_closed_before_those_of_the_next_are_opened() -> None:
    logits, case = find_tensor("token-classification", "logits"), make_case()
    expected = {"logits": np.zeros((3, 4, 2), dtype=np.float32)}
    opened: list[weakref.ref[Any]] = []

    def open_graphs() -> Run:
        assert [graphs() for graphs in opened] == [None] * len(opened)
        run = replay([expected])
        opened.append(weakref.ref(run))
        return run

    methods = {"runtime": open_graphs, "rounding copy": open_graphs}
    compare([make_reference(expected)], methods, {"logits": logits}, [case], FP32, advance=lambda: None)
    assert len(opened) == 2
