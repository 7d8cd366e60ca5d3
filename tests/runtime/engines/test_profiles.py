"""Profiles: every axis gets a range, no range exceeds what the graph takes, and shapes follow from the ranges."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rpln_runtime import InputError
from rpln_runtime.engines.manifest import Profile, Range
from rpln_runtime.engines.profiles import LONGEST, TUNED_LENGTH, UNBOUNDED, axes_of, complete_profile, input_shapes
from rpln_runtime.manifest import Axis, Graph, TensorSpec

USABLE = 510
"""The usable length of the default config: 512 positions, without the row of padding and the one before it."""
TOTAL = "past_sequence + sequence"
LIMITS = {
    "batch": Axis(minimum=1, maximum=None),
    "choices": Axis(minimum=1, maximum=None),
    "sequence": Axis(minimum=1, maximum=USABLE),
    "past_sequence": Axis(minimum=1, maximum=USABLE - 1),
    TOTAL: Axis(minimum=1, maximum=USABLE),
    "encoder_sequence": Axis(minimum=1, maximum=None),
    "masks": Axis(minimum=0, maximum=USABLE),
}


def graph(variant: str, **inputs: tuple[str | int, ...]) -> Graph:
    specs = tuple(TensorSpec(name=name, dtype="int64", shape=shape) for name, shape in inputs.items())
    return Graph(variant=variant, path=f"{variant}.onnx", opset=20, inputs=specs, outputs=())


ENCODER = graph("full", input_ids=("batch", "sequence"), attention_mask=("batch", "sequence"), head_mask=(2, 3))
CHOOSER = graph("full", input_ids=("batch", "choices", "sequence"))
STEP = graph(
    "decode",
    input_ids=("batch", "sequence"),
    attention_mask=("batch", TOTAL),
    past=("batch", 12, "past_sequence", 64),
    encoder_attention_mask=("batch", "encoder_sequence"),
)
GRAPHS = (ENCODER, CHOOSER, STEP)


def sizes(minimum: int, optimum: int, maximum: int) -> Range:
    return Range(minimum=minimum, optimum=optimum, maximum=maximum)


def texts(profile: Profile) -> dict[str, str]:
    return {axis: str(found) for axis, found in profile.items()}


# -- defaults ----------------------------------------------------------------------------------------------------------


def test_every_axis_has_a_default() -> None:
    assert texts(complete_profile(ENCODER, LIMITS)) == {"batch": "1:4:8", "sequence": f"1:128:{USABLE}"}
    assert texts(complete_profile(CHOOSER, LIMITS)) == {
        "batch": "1:4:8",
        "choices": "1:4:8",
        "sequence": f"1:128:{USABLE}",
    }


def test_a_step_is_of_one_token_whatever_is_asked() -> None:
    default = {
        "batch": "1:4:8",
        "sequence": "1:1:1",
        "past_sequence": f"1:128:{USABLE - 1}",
        "encoder_sequence": f"1:128:{LONGEST}",
    }
    assert texts(complete_profile(STEP, LIMITS)) == default
    asked = {"sequence": sizes(1, 64, 128), "past_sequence": sizes(2, 3, 4)}
    assert texts(complete_profile(STEP, LIMITS, asked)) == default | {"past_sequence": "2:3:4"}


def test_a_short_table_is_tuned_for_its_end() -> None:
    limits = LIMITS | {"sequence": Axis(minimum=1, maximum=40)}
    assert texts(complete_profile(ENCODER, limits))["sequence"] == "1:40:40"
    assert TUNED_LENGTH > 40


def test_an_axis_that_may_be_empty_is_compiled_from_one_on() -> None:
    masked = graph("full", input_ids=("batch", "sequence"), masked_positions=("batch", "masks"))
    assert texts(complete_profile(masked, LIMITS))["masks"] == f"1:128:{USABLE}"
    with pytest.raises(InputError, match=r"masks=0:1:2: .* at least 1\.$"):
        complete_profile(masked, LIMITS, {"masks": sizes(0, 1, 2)})


def test_what_is_given_is_kept_and_what_the_graph_lacks_is_left_out() -> None:
    given = {"sequence": sizes(8, 16, 32), "past_sequence": sizes(1, 2, 3)}
    assert texts(complete_profile(ENCODER, LIMITS, given)) == {"batch": "1:4:8", "sequence": "8:16:32"}


def test_axes_that_follow_from_others_are_none_of_their_own() -> None:
    assert axes_of(STEP) == ["batch", "sequence", "past_sequence", "encoder_sequence"]
    assert axes_of(ENCODER) == ["batch", "sequence"]


# -- shapes ------------------------------------------------------------------------------------------------------------


def test_shapes_of_a_step() -> None:
    shapes = input_shapes(STEP, LIMITS, complete_profile(STEP, LIMITS))
    assert shapes == {
        "input_ids": ((1, 1), (4, 1), (8, 1)),
        "attention_mask": ((1, 2), (4, 129), (8, USABLE)),
        "past": ((1, 12, 1, 64), (4, 12, 128, 64), (8, 12, USABLE - 1, 64)),
        "encoder_attention_mask": ((1, 1), (4, 128), (8, LONGEST)),
    }


def test_a_sum_ends_where_the_table_does() -> None:
    # A graph takes a prompt and a past. With both at their longest, the sum would exceed the table of positions.
    both = graph("with-past", input_ids=("batch", "sequence"), attention_mask=("batch", TOTAL))
    profile = {"batch": sizes(1, 1, 1), "sequence": sizes(1, 300, USABLE), "past_sequence": sizes(1, 300, USABLE - 1)}
    assert input_shapes(both, LIMITS, profile)["attention_mask"] == ((1, 2), (1, USABLE), (1, USABLE))


def test_fixed_sizes_stay() -> None:
    assert input_shapes(ENCODER, LIMITS, complete_profile(ENCODER, LIMITS))["head_mask"] == ((2, 3), (2, 3), (2, 3))


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["0:1:2", "2:1:3", "1:3:2", "4:4:3", "0:0:0"])
def test_sizes_out_of_order_are_refused(text: str) -> None:
    wrong = sizes(*map(int, text.split(":")))
    for axis in ("batch", "sequence"):
        with pytest.raises(InputError, match=rf"{axis}={text}.* minimum:tuned:maximum.* at least 1\."):
            complete_profile(ENCODER, LIMITS, {axis: wrong})


def test_a_graph_that_begins_later_is_not_compiled_for_less() -> None:
    limits = LIMITS | {"past_sequence": Axis(minimum=3, maximum=9)}
    assert texts(complete_profile(STEP, limits))["past_sequence"] == "3:9:9"
    with pytest.raises(InputError, match=r"past_sequence=2:3:4: .* at least 3\.$"):
        complete_profile(STEP, limits, {"past_sequence": sizes(2, 3, 4)})


def test_sizes_beyond_the_table_of_positions_are_refused() -> None:
    complete_profile(ENCODER, LIMITS, {"sequence": sizes(1, 1, USABLE)})
    with pytest.raises(InputError, match=r"sequence=1:1:511.* full\.onnx .* 510"):
        complete_profile(ENCODER, LIMITS, {"sequence": sizes(1, 1, USABLE + 1)})


def test_what_only_memory_bounds_is_not_bounded_here() -> None:
    given = {"batch": sizes(1, 2, 100_000), "encoder_sequence": sizes(1, 2, 100_000)}
    assert texts(complete_profile(STEP, LIMITS, given))["batch"] == "1:2:100000"
    assert texts(complete_profile(STEP, LIMITS, given))["encoder_sequence"] == "1:2:100000"


# -- all of them -------------------------------------------------------------------------------------------------------


@st.composite
def cases(draw: st.DrawFn) -> tuple[Graph, Mapping[str, Axis], Profile]:
    """Draw a graph, limits with room for it, and ranges within them for some of the axes."""
    usable = draw(st.integers(3, 600))
    first = draw(st.integers(0, 2))
    limits = LIMITS | {
        "sequence": Axis(minimum=1, maximum=usable),
        "past_sequence": Axis(minimum=min(first, usable - 1), maximum=usable - 1),
        TOTAL: Axis(minimum=1, maximum=usable),
    }
    chosen = draw(st.sampled_from(GRAPHS))
    given = {}
    for axis in draw(st.sets(st.sampled_from(axes_of(chosen)))):
        maximum = limits[axis].maximum or 1000
        given[axis] = sizes(*sorted(draw(st.integers(max(1, limits[axis].minimum), maximum)) for _ in range(3)))
    return chosen, limits, given


@given(case=cases())
def test_shapes_are_in_order_and_never_beyond_the_limits(case: tuple[Graph, Mapping[str, Axis], Profile]) -> None:
    chosen, limits, given = case
    profile = complete_profile(chosen, limits, given)
    assert list(profile) == axes_of(chosen)
    shapes = input_shapes(chosen, limits, profile)
    assert list(shapes) == [spec.name for spec in chosen.inputs]
    for spec in chosen.inputs:
        for axis, smallest, tuned, largest in zip(spec.shape, *shapes[spec.name], strict=True):
            assert 1 <= smallest <= tuned <= largest
            if isinstance(axis, int):
                assert smallest == largest == axis
                continue
            assert smallest >= limits[axis].minimum
            longest = limits[axis].maximum
            assert longest is None or largest <= longest
            if axis in given and not (chosen is STEP and axis == "sequence"):
                assert (smallest, tuned, largest) == (
                    given[axis].minimum,
                    given[axis].optimum,
                    given[axis].maximum,
                )


@given(numbers=st.tuples(*[st.integers(-1, 520)] * 3), axis=st.sampled_from(["batch", "sequence"]))
def test_a_range_is_taken_just_where_it_is_one(numbers: tuple[int, int, int], axis: str) -> None:
    minimum, optimum, maximum = numbers
    fits = 1 <= minimum <= optimum <= maximum and (axis == "batch" or maximum <= USABLE)
    try:
        profile = complete_profile(ENCODER, LIMITS, {axis: sizes(*numbers)})
    except InputError:
        assert not fits
    else:
        assert fits
        assert profile == {**complete_profile(ENCODER, LIMITS), axis: sizes(*numbers)}


def test_the_defaults_themselves_are_ranges() -> None:
    for default in UNBOUNDED.values():
        assert 1 <= default.minimum <= default.optimum <= default.maximum
