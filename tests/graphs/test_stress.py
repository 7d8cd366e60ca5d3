"""The stress set covers what it should, and its names tell what its cases are."""

import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from rpln_graphs.stress import MASK_KINDS, Case, Limits, stress_cases
from rpln_runtime.tasks import MASKED_LOGITS, MASKED_POSITIONS, TASKS, Tensor

PAD = 1
LONG = pytest.mark.parametrize("usable_length", [510, 41, 18])


def limits(*, usable_length: int = 41, vocab_size: int = 60, type_vocab_size: int = 3, pad: int = PAD) -> Limits:
    return Limits(
        usable_length=usable_length,
        vocab_size=vocab_size,
        type_vocab_size=type_vocab_size,
        pad_token_id=pad,
        sizes={"hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 4},
    )


def tensors(task: str, *names: str) -> list[Tensor]:
    offered = {tensor.name: tensor for tensor in (*TASKS[task].inputs, *TASKS[task].optional_inputs)}
    return [offered[name] for name in names or offered]


def cases(task: str = "fill-mask", **bounds: int) -> list[Case]:
    return list(stress_cases(tensors(task), limits(**bounds)))


def kind(case: Case) -> str:
    found = re.search(r"mask (\w+)$", case.name)
    assert found is not None
    return found[1]


@LONG
def test_batches_lengths_and_masks_are_crossed(usable_length: int) -> None:
    met = {(*case.mask.shape, kind(case)) for case in cases(usable_length=usable_length)}

    crossed = {(batch, length, mask) for batch in (1, 2, 7) for length in (2, 5, 17) for mask in MASK_KINDS}
    # In a batch whose only row is padding there would be nothing to compare.
    assert met - {(1, usable_length, "none")} == {
        *((batch, length, mask) for batch, length, mask in crossed if batch > 1 or mask != "empty"),
        *((batch, 1, "none") for batch in (1, 2, 7)),
    }


@LONG
def test_the_usable_maximum_comes_at_batch_1(usable_length: int) -> None:
    longest = [case for case in cases(usable_length=usable_length) if case.mask.shape[1] == usable_length]

    assert [(case.mask.shape[0], kind(case)) for case in longest] == [(1, "none")]


@pytest.mark.parametrize("usable_length", [1, 2, 3, 16])
def test_no_case_is_longer_than_a_short_network_allows(usable_length: int) -> None:
    lengths = {case.mask.shape[1] for case in cases(usable_length=usable_length)}

    assert max(lengths) == usable_length


def test_masks_are_what_they_are_called() -> None:
    for case in cases():
        for row in case.mask[: -1 if kind(case) == "empty" else None]:
            steps = {int(after - before) for before, after in pairwise(row)}
            assert row.any(), case.name
            assert steps <= {"none": {0}, "right": {0, -1}, "left": {0, 1}}.get(kind(case), {-1, 0, 1}), case.name
        assert case.mask[-1].any() == (kind(case) != "empty"), case.name


@pytest.mark.parametrize("mask", ["right", "left", "holes", "empty"])
def test_rows_of_a_batch_are_padded_differently(mask: str) -> None:
    assert any(len({bytes(row) for row in case.mask}) > 1 for case in cases() if kind(case) == mask)


def test_some_masks_have_holes() -> None:
    holed = [case for case in cases() if kind(case) == "holes"]

    assert any("101" in "".join(map(str, row)) for case in holed for row in case.mask)


@pytest.mark.parametrize("pad", [0, 1, 59])
def test_padding_is_where_the_mask_says(pad: int) -> None:
    for case in cases(pad=pad):
        ids = case.feeds["input_ids"]
        assert_array_equal(ids == pad, case.mask == 0, err_msg=case.name)
        assert_array_equal(case.feeds["attention_mask"], case.mask)
        assert ids.min() >= 0
        assert ids.max() < 60


def test_ids_reach_both_ends_of_the_vocabulary() -> None:
    for case in cases(vocab_size=50_000):
        if kind(case) == "none" and case.mask.size > 1:
            assert (case.feeds["input_ids"][0, 0], case.feeds["input_ids"][-1, -1]) == (0, 49_999), case.name


def test_every_token_type_is_met() -> None:
    assert {int(entry) for case in cases() for entry in case.feeds["token_type_ids"].flat} == {0, 1, 2}
    assert not any(case.feeds["token_type_ids"].any() for case in cases(type_vocab_size=1))


def test_positions_count_real_tokens_from_behind_the_row_of_padding() -> None:
    for case in cases():
        for positions, mask in zip(case.feeds["position_ids"], case.mask, strict=True):
            assert_array_equal(positions[mask == 1], PAD + 1 + np.arange(mask.sum()), err_msg=case.name)
            assert_array_equal(positions[mask == 0], PAD, err_msg=case.name)


def test_heads_are_kept_and_silenced() -> None:
    masks = [case.feeds["head_mask"] for case in cases()]

    assert {mask.shape for mask in masks} == {(3, 4)}
    assert {float(entry) for mask in masks for entry in mask.flat} == {0.0, 1.0}


def test_choices_are_rows() -> None:
    for case in cases("multiple-choice"):
        rows, length = case.mask.shape
        assert case.feeds["input_ids"].shape == (rows // 3, 3, length)
        assert case.feeds["inputs_embeds"].shape == (rows // 3, 3, length, 8)
        assert_array_equal(case.feeds["attention_mask"].reshape(rows, length), case.mask)


@pytest.mark.parametrize("task", TASKS)
def test_inputs_are_those_asked_for_in_the_types_they_declare(task: str) -> None:
    chosen = tensors(task, "attention_mask", "inputs_embeds")

    for case in stress_cases(chosen, limits()):
        assert {name: array.dtype for name, array in case.feeds.items()} == {
            "attention_mask": np.int64,
            "inputs_embeds": np.float32,
        }


def test_it_is_the_same_on_every_call() -> None:
    first, second = cases("multiple-choice"), cases("multiple-choice")

    assert [case.name for case in first] == [case.name for case in second]
    for one, other in zip(first, second, strict=True):
        assert_array_equal(one.mask, other.mask)
        for name, array in one.feeds.items():
            assert_array_equal(array, other.feeds[name], err_msg=f"{name} of {one.name}")


def test_cases_differ_in_name() -> None:
    names = [case.name for case in cases()]

    assert len(set(names)) == len(names)


# -- mask tokens -----------------------------------------------------------------------------------------------------

MASK = 7


def masked_cases() -> list[Case]:
    inputs = [*tensors("fill-mask", "input_ids", "attention_mask"), MASKED_POSITIONS]
    return list(stress_cases(inputs, replace(limits(), mask_token_id=MASK)))


def test_mask_tokens_are_nowhere_first_last_many_and_everywhere() -> None:
    marked = [case.feeds["input_ids"] == MASK for case in masked_cases()]
    long = [places for places in marked if places.shape[1] > 2]

    assert any(not places.any() for places in long)
    assert any(places.all() for places in long)
    assert any(places[:, 0].all() and not places[:, 1:].any() for places in long)
    assert any(places[:, -1].all() and not places[:, :-1].any() for places in long)
    assert any(len(set(places.sum(1))) > 1 and places.sum(1).max() > 1 for places in long)  # different in each row


def test_mask_tokens_are_under_padding_too() -> None:
    assert any(((case.feeds["input_ids"] == MASK) & (case.mask == 0)).any() for case in masked_cases())


def test_without_an_id_there_are_no_mask_tokens_but_by_chance() -> None:
    masked, plain = masked_cases(), list(stress_cases([MASKED_POSITIONS, *tensors("fill-mask")], limits()))

    assert [case.name for case in masked] == [case.name for case in plain]
    assert not any((case.feeds["input_ids"] == MASK).all() for case in plain if case.mask.shape[1] > 2)


def test_positions_are_in_the_text_and_there_may_be_none() -> None:
    shapes = set()
    for case in masked_cases():
        positions = case.feeds["masked_positions"]
        shapes.add(positions.shape[1])
        assert len(positions) == len(case.mask)
        assert ((positions >= 0) & (positions < case.mask.shape[1])).all()

    assert {0, 1, 2} <= shapes


def test_values_of_the_tokens_that_an_output_is_of() -> None:
    case = max(masked_cases(), key=lambda case: len(set((case.feeds["input_ids"] == MASK).sum(1))))
    numbers = np.arange(case.mask.size).reshape(case.mask.shape)
    ids, positions = case.feeds["input_ids"], case.feeds["masked_positions"]
    rows, length = ids.shape

    assert case.selected(numbers, MASKED_LOGITS.axes).tolist() == [
        row * length + place for row in range(rows) for place in range(length) if ids[row, place] == MASK
    ]
    assert case.selected(numbers, MASKED_POSITIONS.axes).tolist() == [
        [row * length + place for place in positions[row]] for row in range(rows)
    ]
    assert_array_equal(case.selected(numbers, ("batch", "sequence")), numbers)
