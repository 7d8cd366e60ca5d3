"""A traced model is a clean onnx_ir model that gives what eager torch gives, over the whole stress set."""

from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np
import pytest
from numpy.testing import assert_allclose

from rpln_graphs.errors import GraphError
from rpln_graphs.passes import CLEAN_UP
from rpln_graphs.rewriting.base import counts_from_model
from rpln_graphs.trace import NEWEST_OPSET, trace_model
from rpln_runtime.tasks import TASKS
from tests.graphs.anatomy import (
    assert_axes,
    assert_clean,
    assert_initializers_are_the_state_dict,
    assert_weights_are_stored_once,
)
from tests.graphs.conftest import Traced
from tests.graphs.networks import PAD, USABLE_LENGTH, Network, tiny_model, trace_task
from tests.graphs.text_graphs import Arrays, operators, runner
from tests.trace_cache import traced_anew

TOLERANCE = 1e-4
TIED = ("fill-mask", "text-generation", "text2text-generation")
"""Tasks whose heads share the table of word embeddings."""
EVERY_TASK = pytest.mark.parametrize("task", TASKS)
IDS = ("input_ids", "attention_mask", "token_type_ids", "position_ids", "head_mask")
EMBEDDED = ("attention_mask", "token_type_ids", "position_ids", "inputs_embeds", "head_mask")
INTERNALS = ("hidden_states", "attentions")


@pytest.fixture(autouse=True, scope="module")
def _traced_anew() -> Iterator[None]:
    with traced_anew():
        yield


@pytest.fixture(scope="module")
def traced() -> Traced:
    """Return a function that traces the network of a task, without the cache of traces."""
    return cache(trace_task)


def assert_equals_eager(network: Network, batches: Sequence[tuple[str, Arrays]]) -> None:
    """Check every element of every output, those of padding included, because both sides compute the same."""
    compute = runner(network.graph)
    for name, feeds in batches:
        expected, found = network.eager(feeds), compute(feeds)
        assert list(found) == list(expected)
        for output, array in expected.items():
            assert_allclose(found[output], array, rtol=0, atol=TOLERANCE, err_msg=f"{output}, {name}")


def assert_equals_eager_under_stress(network: Network) -> None:
    assert_equals_eager(network, [(case.name, case.feeds) for case in network.stress_cases()])


@EVERY_TASK
def test_equals_eager_over_the_stress_set(task: str, traced: Traced) -> None:
    assert_equals_eager_under_stress(traced(task))


@pytest.mark.parametrize(("batch", "length"), [(1, 1), (1, USABLE_LENGTH), (3, USABLE_LENGTH), (5, 1), (2, 7)], ids=str)
def test_equals_eager_at_the_limits(batch: int, length: int, traced: Traced) -> None:
    rng = np.random.default_rng(0)
    shape = (batch, length)
    feeds: Arrays = {
        "input_ids": rng.integers(PAD + 1, 61, shape),
        "attention_mask": np.ones(shape, dtype=np.int64),
        "token_type_ids": rng.integers(0, 3, shape),
    }
    assert_equals_eager(traced("token-classification"), [(f"{batch} x {length}", feeds)])


@pytest.mark.parametrize("choices", [1, 2, 5])
def test_equals_eager_with_any_number_of_choices(choices: int, traced: Traced) -> None:
    rng = np.random.default_rng(0)
    shape = (2, choices, 6)
    feeds: Arrays = {
        "input_ids": rng.integers(PAD + 1, 61, shape),
        "attention_mask": np.ones(shape, dtype=np.int64),
        "token_type_ids": rng.integers(0, 3, shape),
    }
    assert_equals_eager(traced("multiple-choice"), [(f"{choices} choices", feeds)])


@pytest.mark.parametrize("opset", [17, 18, NEWEST_OPSET])
def test_opsets(opset: int) -> None:
    network = trace_task("token-classification", opset=opset, num_hidden_layers=1)

    assert network.graph.opset_imports == {"": opset}
    assert_equals_eager_under_stress(network)
    assert_clean(network.graph)
    assert_weights_are_stored_once(network)


@pytest.mark.parametrize("opset", [16, NEWEST_OPSET + 1])
def test_other_opsets_are_refused(opset: int) -> None:
    task = TASKS["fill-mask"]

    with pytest.raises(GraphError, match=f"opset {opset} .* 17 to {NEWEST_OPSET}"):
        trace_model(tiny_model(task), task.inputs, task.outputs, opset=opset)


def test_a_graph_that_opset_17_has_no_operator_for_is_refused() -> None:
    with pytest.raises(GraphError, match=r"opset 17.*--opset 18"):
        trace_task("fill-mask", opset=17, num_hidden_layers=1, hidden_act="mish")


@pytest.mark.parametrize("positions", ["relative_key", "relative_key_query"])
def test_relative_positions(positions: str) -> None:
    network = trace_task("token-classification", position_embedding_type=positions, num_hidden_layers=1)

    assert any(".distance_embedding." in name for name in network.graph.graph.initializers)
    assert_equals_eager_under_stress(network)
    assert_clean(network.graph)


@pytest.mark.parametrize(
    ("task", "inputs", "outputs"),
    [
        ("feature-extraction", EMBEDDED, ("pooler_output", *INTERNALS)),
        ("multiple-choice", IDS, INTERNALS),
        ("question-answering", EMBEDDED, INTERNALS),
    ],
)
def test_all_optional_inputs_and_outputs_at_once(task: str, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> None:
    network = trace_task(task, inputs=inputs, outputs=outputs)

    expected = [tensor.name for tensor in TASKS[task].outputs]
    expected += ["pooler_output"] if "pooler_output" in outputs else []
    expected += ["hidden_states.0", "hidden_states.1", "hidden_states.2", "attentions.0", "attentions.1"]
    assert [value.name for value in network.graph.graph.inputs] == list(inputs)
    assert [value.name for value in network.graph.graph.outputs] == expected
    assert_equals_eager_under_stress(network)
    assert_clean(network.graph)
    assert_axes(network)


def test_an_untied_head_has_its_own_weight() -> None:
    network = trace_task("fill-mask", tie_word_embeddings=False, num_hidden_layers=1)

    names = set(network.graph.graph.initializers)
    assert {"embeddings.word_embeddings.weight", "lm_head.decoder.weight.T"} <= names
    assert_weights_are_stored_once(network)
    assert_equals_eager_under_stress(network)


def test_a_model_in_training_is_traced_as_in_evaluation() -> None:
    task = TASKS["token-classification"]
    model = tiny_model(task, num_hidden_layers=1, hidden_dropout_prob=0.5).train()
    graph = trace_model(model, task.inputs, task.outputs)

    assert "Dropout" not in operators(graph)


# -- what every traced graph looks like ------------------------------------------------------------------------------


@EVERY_TASK
def test_there_are_standard_operators_only_and_no_control_flow(task: str, traced: Traced) -> None:
    assert_clean(traced(task).graph)


@EVERY_TASK
def test_no_weight_is_stored_twice(task: str, traced: Traced) -> None:
    assert_weights_are_stored_once(traced(task))


@pytest.mark.parametrize("task", TIED)
def test_a_tied_embedding_is_stored_once(task: str, traced: Traced) -> None:
    network = traced(task)
    table = (61, 32)

    shapes = [tuple(value.shape or ()) for value in network.graph.graph.initializers.values()]
    assert shapes.count(table) + shapes.count(table[::-1]) == 1


@EVERY_TASK
def test_initializers_are_the_state_dict(task: str, traced: Traced) -> None:
    assert_initializers_are_the_state_dict(traced(task))


@EVERY_TASK
def test_weights_are_turned_but_for_a_tied_one(task: str, traced: Traced) -> None:
    transposes = [node for node in traced(task).graph.graph if node.op_type == "Transpose"]
    turned = [node.inputs[0].name for node in transposes if node.inputs[0] and node.inputs[0].is_initializer()]

    assert turned == (["lm_head.decoder.weight"] if task in TIED else [])


def test_weights_are_shared_with_the_model(traced: Traced) -> None:
    network = traced("token-classification")
    weight = network.graph.graph.initializers["embeddings.word_embeddings.weight"].const_value
    assert weight is not None

    assert np.shares_memory(weight.numpy(), network.model.state_dict()[f"roberta_prelayernorm.{weight.name}"].numpy())


@EVERY_TASK
def test_axes_are_named_as_in_the_task(task: str, traced: Traced) -> None:
    assert_axes(traced(task))


@EVERY_TASK
def test_values_are_named_after_modules(task: str, traced: Traced) -> None:
    names = {node.name for node in traced(task).graph.graph}

    assert {
        "embeddings.LayerNorm.LayerNormalization",
        "encoder.layer.0.attention.self.query.MatMul",
        "encoder.layer.1.attention.output.dense.Add",
        "encoder.layer.1.intermediate.LayerNorm.LayerNormalization",
        "LayerNorm.LayerNormalization",
    } <= names
    assert not [name for name in names if name is None or name.startswith(("node_", "val_", "n_"))]


@EVERY_TASK
def test_all_clean_up_is_on_record(task: str, traced: Traced) -> None:
    counts = counts_from_model(traced(task).graph)

    assert list(counts) == [kind.__name__ for kind in CLEAN_UP]
    assert all(counts.values())
