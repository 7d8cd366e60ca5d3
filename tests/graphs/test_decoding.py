"""The stress set of a decoder covers what it should, and each of its steps continues the one before."""

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from rpln_graphs.decoding import MEMORY_LENGTH, DecodingCase, decoding_cases
from rpln_graphs.stress import MASK_KINDS, Limits
from rpln_graphs.variants import VARIANTS
from rpln_runtime.tasks import TASKS, Tensor
from tests.graphs.text_graphs import Arrays

PAD, MEMORY_PAD = 1, 3
USABLE = 41
TASK = TASKS["text-generation"]
OWN = (*TASK.inputs, *TASK.optional_inputs)
ENCODER, CROSS = VARIANTS["encoder"].inputs, VARIANTS["cross"].inputs


def limits(*, usable_length: int = USABLE, vocab_size: int = 60, pad: int = PAD) -> Limits:
    return Limits(
        usable_length=usable_length,
        vocab_size=vocab_size,
        type_vocab_size=3,
        pad_token_id=pad,
        sizes={"hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 4, "encoder_hidden_size": 6},
    )


def cases(*, usable_length: int = USABLE, memory: Sequence[Tensor] = ENCODER, room: int = 20) -> list[DecodingCase]:
    """Return the stress set. `room` is the encoder's usable length."""
    bounds = limits(usable_length=usable_length)
    of_memory = limits(usable_length=room, vocab_size=50, pad=MEMORY_PAD)
    return list(decoding_cases(OWN, bounds, memory=memory, memory_limits=of_memory))


def scripts(found: Sequence[DecodingCase]) -> Iterator[list[DecodingCase]]:
    """Return the cases of each script, from its prompt to its last step."""
    starts = [number for number, case in enumerate(found) if case.rows is None]
    for start, end in zip(starts, [*starts[1:], len(found)], strict=True):
        yield list(found[start:end])


def past_length(case: DecodingCase) -> int:
    return int(case.history["attention_mask"].shape[1] - case.mask.shape[1])


def kind(case: DecodingCase) -> str:
    match = re.search(r"mask (\w+),", case.name)
    assert match is not None
    return match[1]


# -- what is covered -------------------------------------------------------------------------------------------------


def test_pasts_are_empty_short_long_and_as_long_as_there_are_positions() -> None:
    lengths = {past_length(case) for case in cases()}

    assert lengths >= {0, 1, 2, 5, 17, 20, USABLE - 1}
    assert max(lengths) == USABLE - 1


def test_steps_are_single_and_several_tokens_over_a_past() -> None:
    assert {case.mask.shape[1] for case in cases() if past_length(case)} == {1, 2, 3, 4}


def test_prompts_are_of_every_length_under_every_mask() -> None:
    prompts = {(*script[0].mask.shape, kind(script[0])) for script in scripts(cases())}

    crossed = {(rows, length, mask) for rows, length in ((2, 5), (2, 6), (3, 17)) for mask in MASK_KINDS}
    assert prompts == {*crossed, (1, 1, "none"), (1, USABLE - 3, "none")}


def test_rows_of_the_cache_are_reordered_repeated_and_dropped() -> None:
    moves = [
        (len(before.mask), case.rows.tolist())
        for script in scripts(cases())
        for before, case in pairwise(script)
        if case.rows is not None
    ]

    assert (2, [1, 0]) in moves
    assert any(len(rows) > count and len(set(rows)) < len(rows) for count, rows in moves)
    assert any(len(rows) < count for count, rows in moves)
    assert any(rows == list(range(count)) for count, rows in moves)


def test_the_last_script_ends_at_the_last_usable_position() -> None:
    *earlier, last = cases()

    assert last.history["attention_mask"].shape == (1, USABLE)
    assert last.feeds["position_ids"].tolist() == [[PAD + USABLE]]
    assert max(int(case.history["position_ids"].max()) for case in earlier) == PAD + USABLE - 1


@pytest.mark.parametrize("usable_length", [1, 2, 3, 4, 8, 16])
def test_no_case_is_longer_than_a_short_network_allows(usable_length: int) -> None:
    lengths = [case.history["input_ids"].shape[1] for case in cases(usable_length=usable_length)]

    assert max(lengths) == usable_length


# -- one step and the next -------------------------------------------------------------------------------------------


def test_a_script_begins_with_a_prompt_and_goes_on_with_rows() -> None:
    for script in scripts(cases()):
        prompt, *steps = script
        assert past_length(prompt) == 0
        assert all(case.rows is not None for case in steps)
        assert "prompt" in prompt.name
        assert not [case.name for case in steps if "prompt" in case.name.rpartition(", ")[2]]


def test_what_a_step_is_fed_is_the_end_of_its_history() -> None:
    for case in cases():
        new = case.mask.shape[1]
        for name in ("input_ids", "token_type_ids", "position_ids", "inputs_embeds"):
            assert_array_equal(case.feeds[name], case.history[name][:, -new:], err_msg=f"{name}, {case.name}")
        assert_array_equal(case.feeds["attention_mask"], case.history["attention_mask"], err_msg=case.name)
        assert_array_equal(case.mask, case.history["attention_mask"][:, -new:], err_msg=case.name)


def test_a_history_is_the_one_before_and_the_new_tokens() -> None:
    met = 0
    for script in scripts(cases()):
        for before, case in pairwise(script):
            assert case.rows is not None
            for name in ("input_ids", "token_type_ids", "position_ids", "inputs_embeds", "attention_mask"):
                earlier = case.history[name][:, : past_length(case)]
                assert_array_equal(earlier, before.history[name][case.rows], err_msg=f"{name}, {case.name}")
            for name, array in before.memory.items():
                assert_array_equal(case.memory[name], array[case.rows], err_msg=f"{name}, {case.name}")
            assert case.mask.all(), case.name
            met += 1
    assert met > 30


def test_positions_count_the_real_tokens_so_far() -> None:
    for case in cases():
        for positions, mask in zip(case.history["position_ids"], case.history["attention_mask"], strict=True):
            assert_array_equal(positions[mask == 1], PAD + 1 + np.arange(mask.sum()), err_msg=case.name)
            assert_array_equal(positions[mask == 0], PAD, err_msg=case.name)


def test_padding_is_where_the_mask_says() -> None:
    for case in cases():
        assert_array_equal(case.history["input_ids"] == PAD, case.history["attention_mask"] == 0, err_msg=case.name)
        assert set(np.unique(case.history["input_ids"])) <= set(range(60))


# -- what the encoder is fed -----------------------------------------------------------------------------------------


def test_the_encoder_is_fed_ids_of_its_own_vocabulary() -> None:
    met: set[int] = set()
    for case in cases():
        keep = case.memory["attention_mask"]
        assert keep.shape == (len(case.mask), MEMORY_LENGTH)
        assert keep.any(axis=1).all(), case.name
        assert_array_equal(case.memory["input_ids"] == MEMORY_PAD, keep == 0, err_msg=case.name)
        met |= set(np.unique(case.memory["input_ids"]).tolist())
    assert met <= set(range(50))
    assert {0, 49} <= met


def test_memories_are_masked_in_every_way() -> None:
    joined = {"".join(map(str, row)) for case in cases() for row in case.memory["attention_mask"]}

    assert any(re.fullmatch("1+0+", row) for row in joined)
    assert any(re.fullmatch("0+1+", row) for row in joined)
    assert any("101" in row for row in joined)
    assert "1" * MEMORY_LENGTH in joined


@pytest.mark.parametrize("room", [1, 2, 4])
def test_an_encoder_with_little_room_is_fed_as_many_tokens_as_it_takes(room: int) -> None:
    assert {case.memory["input_ids"].shape[1] for case in cases(room=room)} == {room}


def test_hidden_states_stand_for_an_encoder_of_another_architecture() -> None:
    for case in cases(memory=CROSS):
        assert case.memory["encoder_hidden_states"].shape == (len(case.mask), MEMORY_LENGTH, 6)
        assert case.memory["encoder_hidden_states"].dtype == np.float32
        assert set(case.memory) == {"encoder_hidden_states", "attention_mask"}


def test_a_decoder_alone_has_no_memory() -> None:
    assert all(case.memory == {} for case in decoding_cases(OWN, limits()))


# -- as a whole ------------------------------------------------------------------------------------------------------


def test_inputs_are_those_asked_for_in_the_types_they_declare() -> None:
    chosen = [tensor for tensor in OWN if tensor.name in {"attention_mask", "inputs_embeds"}]

    for case in decoding_cases(chosen, limits()):
        for made in (case.feeds, case.history):
            assert {name: array.dtype for name, array in made.items()} == {
                "attention_mask": np.int64,
                "inputs_embeds": np.float32,
            }


def test_it_is_the_same_on_every_call() -> None:
    for one, other in zip(cases(), cases(), strict=True):
        assert one.name == other.name
        assert_same(one.feeds, other.feeds)
        assert_same(one.history, other.history)
        assert_same(one.memory, other.memory)


def assert_same(one: Arrays, other: Arrays) -> None:
    assert list(one) == list(other)
    for name, array in one.items():
        assert_array_equal(array, other[name], err_msg=name)


@pytest.mark.parametrize("usable_length", [1, 4, 8, 23, USABLE])
def test_cases_differ_in_name(usable_length: int) -> None:
    names = [case.name for case in cases(usable_length=usable_length)]

    assert len(set(names)) == len(names)
