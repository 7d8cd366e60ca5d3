import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from rpln_runtime import InputError
from rpln_runtime.inputs import check_feeds
from rpln_runtime.manifest import Axis, Graph, Manifest, TensorSpec, read_manifest
from rpln_runtime.tasks import TOTAL
from tests.runtime.bundles import Bundle
from tests.runtime.messages import naming

TOKENS = ("batch", "sequence")


def ids(*shape: int, value: int = 5) -> np.ndarray:
    return np.full(shape, value, np.int64)


def holding(value: int) -> np.ndarray:
    array = ids(2, 8, value=1)
    array[1, 3] = value
    return array


GOOD: dict[str, np.ndarray] = {
    "input_ids": ids(2, 8),
    "attention_mask": ids(2, 8, value=1),
    "token_type_ids": ids(2, 8, value=0),
    "position_ids": ids(2, 8, value=2),
    "head_mask": np.ones((2, 4), np.float32),
}
VALUES = {"input_ids": 400, "attention_mask": 2, "token_type_ids": 2, "position_ids": 66}


@pytest.fixture(scope="module")
def manifest(bundle_of: Callable[..., Bundle]) -> Manifest:
    return read_manifest(bundle_of("token-classification").folder)


@pytest.fixture(scope="module")
def graph(manifest: Manifest) -> Graph:
    specs = [
        TensorSpec(
            name=name,
            dtype=array.dtype.name,
            shape=TOKENS if array.dtype == np.int64 else array.shape,
            values=VALUES.get(name),
        )
        for name, array in GOOD.items()
    ]
    return dataclasses.replace(manifest.graphs[0], inputs=tuple(specs))


def test_good_feeds_pass(graph: Graph, manifest: Manifest) -> None:
    check_feeds(GOOD, graph, manifest)
    check_feeds({name: np.asfortranarray(array) for name, array in GOOD.items()}, graph, manifest)
    check_feeds(GOOD | {name: ids(2, 8, value=values - 1) for name, values in VALUES.items()}, graph, manifest)
    check_feeds(GOOD | {name: ids(2, 8, value=0) for name in VALUES}, graph, manifest)
    for shape in ((1, 1), (3, 64)):
        check_feeds(GOOD | {name: ids(*shape, value=0) for name in GOOD if name != "head_mask"}, graph, manifest)


NAMES = "input_ids, attention_mask, token_type_ids, position_ids, head_mask"


@pytest.mark.parametrize(
    ("changes", "facts"),
    [
        ({"inputs": ids(1)}, ("'inputs'", NAMES)),
        ({"input_ids": [[1, 2]]}, ("input_ids", "list", "int64")),
        ({"input_ids": ids(2, 8).astype(np.int32)}, ("input_ids", "int32", "int64", ".astype()")),
        ({"head_mask": np.ones((2, 4))}, ("head_mask", "float64", "float32", ".astype()")),
        ({"input_ids": ids(8)}, ("input_ids", "1", "(8,)", "2", "(batch, sequence)")),
        (
            {"attention_mask": ids(2, 8, 8, value=1)},
            ("attention_mask", "3", "(2, 8, 8)", "2", "(batch, sequence)"),
        ),
        ({"head_mask": np.ones((3, 4), np.float32)}, ("head_mask", "3", "axis 0", "2")),
        ({"input_ids": ids(0, 8)}, ("input_ids", "0", "'batch'", "1 or more")),
        ({"input_ids": ids(2, 0)}, ("input_ids", "0", "'sequence'", "1 to 64")),
        ({"input_ids": ids(2, 65)}, ("input_ids", "65", "'sequence'", "1 to 64", "windows")),
        ({"attention_mask": ids(2, 7, value=1)}, ("attention_mask", "7", "'sequence'", "input_ids", "8")),
        ({"token_type_ids": ids(1, 8, value=0)}, ("token_type_ids", "1", "'batch'", "input_ids", "2")),
        ({"input_ids": holding(-1)}, ("input_ids", "-1", "(1, 3)", "0 to 399")),
        ({"input_ids": holding(400)}, ("input_ids", "400", "(1, 3)", "0 to 399")),
        ({"attention_mask": holding(2)}, ("attention_mask", "2", "(1, 3)", "0 to 1")),
        ({"token_type_ids": holding(2)}, ("token_type_ids", "2", "(1, 3)", "0 to 1")),
        ({"position_ids": holding(66)}, ("position_ids", "66", "(1, 3)", "0 to 65")),
    ],
)
def test_refusals_name_the_input_the_value_and_the_limit(
    graph: Graph, manifest: Manifest, changes: dict[str, Any], facts: tuple[str, ...]
) -> None:
    with pytest.raises(InputError, match=naming(*facts)):
        check_feeds(GOOD | changes, graph, manifest)


@pytest.mark.parametrize("name", GOOD)
def test_every_input_is_needed(graph: Graph, manifest: Manifest, name: str) -> None:
    with pytest.raises(InputError, match=naming(repr(name), NAMES)):
        check_feeds({other: array for other, array in GOOD.items() if other != name}, graph, manifest)


def test_the_batch_may_be_bounded(graph: Graph, manifest: Manifest) -> None:
    manifest = dataclasses.replace(manifest, axes=manifest.axes | {"batch": Axis(minimum=2, maximum=2)})
    check_feeds(GOOD, graph, manifest)
    with pytest.raises(InputError, match=naming("input_ids", "3", "'batch'", "2 to 2")):
        check_feeds(GOOD | {"input_ids": ids(3, 8)}, graph, manifest)


def test_ids_without_a_limit_may_be_any(graph: Graph, manifest: Manifest) -> None:
    inputs = tuple(dataclasses.replace(spec, values=None) for spec in graph.inputs)
    check_feeds(GOOD | {"input_ids": holding(-1)}, dataclasses.replace(graph, inputs=inputs), manifest)


@pytest.mark.parametrize(("past", "total"), [(0, 3), (4, 7)])
def test_an_axis_named_by_a_sum_is_as_long_as_those_it_names(
    graph: Graph, manifest: Manifest, *, past: int, total: int
) -> None:
    step = decoder(graph)
    axes = manifest.axes | {"past_sequence": Axis(minimum=0, maximum=63), TOTAL: Axis(minimum=1, maximum=64)}
    manifest = dataclasses.replace(manifest, axes=axes)
    feeds = {
        "attention_mask": ids(2, total, value=1),
        "input_ids": ids(2, 3),
        "past_key_values.0.key": np.zeros((2, 2, past, 4), np.float32),
    }
    check_feeds(feeds, step, manifest)
    facts = ("attention_mask", f"{total + 1}", repr(TOTAL), f"{past} of past_key_values.0.key", "3 of input_ids")
    with pytest.raises(InputError, match=naming(*facts)):
        check_feeds(feeds | {"attention_mask": ids(2, total + 1, value=1)}, step, manifest)


def test_an_input_that_numpy_cannot_hold(graph: Graph, manifest: Manifest) -> None:
    spec = dataclasses.replace(decoder(graph).inputs[-1], dtype="bfloat16")
    graph = dataclasses.replace(graph, inputs=(spec,))
    with pytest.raises(
        InputError, match=naming("past_key_values.0.key", "bfloat16", "rpln_runtime.generator", "--fp16")
    ):
        check_feeds({spec.name: np.zeros((1, 2, 3, 4), np.uint16)}, graph, manifest)


def decoder(graph: Graph) -> Graph:
    inputs = (
        TensorSpec(name="attention_mask", dtype="int64", shape=("batch", TOTAL), values=2),
        TensorSpec(name="input_ids", dtype="int64", shape=TOKENS, values=400),
        TensorSpec(name="past_key_values.0.key", dtype="float32", shape=("batch", 2, "past_sequence", 4)),
    )
    return dataclasses.replace(graph, inputs=inputs)


def test_positions_lie_in_the_texts_that_they_come_with(graph: Graph, manifest: Manifest) -> None:
    spec = TensorSpec(name="masked_positions", dtype="int64", shape=("batch", "masks"), values=64)
    graph = dataclasses.replace(graph, inputs=(*graph.inputs, spec))
    manifest = dataclasses.replace(manifest, axes={**manifest.axes, "masks": Axis(minimum=0, maximum=64)})
    for positions in (np.array([[0, 7], [7, 7]]), np.zeros((2, 0), np.int64)):
        check_feeds(GOOD | {"masked_positions": positions}, graph, manifest)
    for outside in (8, -1):
        feeds = GOOD | {"masked_positions": np.array([[0, 1], [0, outside]])}
        with pytest.raises(InputError, match=naming("masked_positions", f"{outside}", "(1, 1)", "0 to 7")):
            check_feeds(feeds, graph, manifest)
