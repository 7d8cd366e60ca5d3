"""A torch model called as its graph gives what plain calls give: of our model, and of transformers' with its caches."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from transformers import DynamicCache

from rpln_graphs.calls import GraphCall
from rpln_graphs.stages import EncoderStage
from rpln_runtime.tasks import TASKS
from tests.graphs.decoders import (
    PRUNED,
    TEXT,
    TEXT2TEXT,
    foreign_translator,
    forward,
    generator,
    random_ids,
    theirs,
    translator,
)
from tests.graphs.networks import eager_outputs, graph_call, tiny_model
from tests.graphs.text_graphs import Arrays

ALONE = [name for name, task in TASKS.items() if not task.encoders]
SIZES = {"batch": 2, "sequence": 3, "past_sequence": 5, "past_sequence + sequence": 8, "encoder_sequence": 7}


def called(call: GraphCall, feeds: Arrays) -> Arrays:
    with torch.inference_mode():
        found = call(*(torch.from_numpy(feeds[name]) for name in call.input_names))
    return {name: tensor.numpy() for name, tensor in zip(call.output_names, found, strict=True)}


def assert_close(found: Any, expected: Any, what: str = "") -> None:
    assert_allclose(found, expected, rtol=0, atol=2e-5, err_msg=what)


def named(pairs: Any, name: str) -> Arrays:
    """Return the keys and values of each layer by the names that graphs give them."""
    return {
        f"{name}.{layer}.{part}": np.asarray(tensor)
        for layer, pair in enumerate(pairs)
        for part, tensor in zip(("key", "value"), pair, strict=True)
    }


def pairs_of(cache: Any) -> list[tuple[Any, Any]]:
    return [(layer.keys, layer.values) for layer in cache.layers]


# -- without a cache -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALONE)
def test_equals_a_plain_call_with_all_inputs_and_outputs(name: str) -> None:
    task = TASKS[name]
    model = tiny_model(task)
    inputs = ("input_ids", "attention_mask", "token_type_ids", "position_ids", "head_mask")
    optional = [tensor.name for tensor in task.optional_outputs]
    call = graph_call(model, task, "full", inputs=inputs, outputs=optional, all_logits=True)
    rng, shape = np.random.default_rng(0), (2, 3, 5) if name == "multiple-choice" else (2, 5)
    feeds: Arrays = {
        "input_ids": rng.integers(2, 61, shape),
        "attention_mask": rng.integers(0, 2, shape),
        "token_type_ids": rng.integers(0, 3, shape),
        "position_ids": rng.integers(2, 43, shape),
        "head_mask": rng.integers(0, 2, (2, 4)).astype(np.float32),
    }

    expected = eager_outputs(model, feeds, [tensor.name for tensor in (*task.outputs, *task.optional_outputs)])
    found = called(call, feeds)
    assert list(found) == list(expected)
    for output, array in expected.items():
        assert_array_equal(found[output], array, err_msg=output)


def test_the_last_logits_are_those_of_the_last_position() -> None:
    ids = random_ids(3, 6)
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    last, every = (
        called(graph_call(generator(), TEXT, "full", all_logits=all_logits), feeds)["logits"]
        for all_logits in (False, True)
    )

    assert (last.shape, every.shape) == ((3, 1, 61), (3, 6, 61))
    assert_close(last, every[:, -1:])


def test_a_network_is_asked_for_what_the_graph_gives_and_no_more() -> None:
    call = graph_call(generator(), TEXT, "full")
    every = graph_call(generator(), TEXT, "full", outputs=("hidden_states", "attentions"), all_logits=True)
    crossed = graph_call(translator(), TEXT2TEXT, "full", outputs=("cross_attentions",))
    nothing = {"output_hidden_states": False, "output_attentions": False, "return_dict": True}

    assert call.options == {**nothing, "logits_to_keep": 1}
    assert every.options == {"output_hidden_states": True, "output_attentions": True, "return_dict": True}
    assert crossed.options == {**nothing, "output_attentions": True, "logits_to_keep": 1}
    assert graph_call(translator(), TEXT2TEXT, "encoder").options == {}


def test_names_are_numbered_by_layer_and_part() -> None:
    call = graph_call(translator(), TEXT2TEXT, "with-past", outputs=("hidden_states", "cross_attentions"))
    pairs = [f"{layer}.{part}" for layer in (0, 1) for part in ("key", "value")]

    assert call.input_names == [
        *("input_ids", "attention_mask", "encoder_attention_mask"),
        *(f"cross_key_values.{pair}" for pair in pairs),
        "position_ids",
        *(f"past_key_values.{pair}" for pair in pairs),
    ]
    assert call.output_names == [
        "logits",
        *(f"hidden_states.{index}" for index in (0, 1, 2)),
        *(f"cross_attentions.{index}" for index in (0, 1)),
        *(f"present.{pair}" for pair in pairs),
    ]


# -- with a cache ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", [1, 3])
@pytest.mark.parametrize("past_length", [1, 5])
def test_a_past_is_read_as_transformers_reads_its_dynamic_cache(past_length: int, tokens: int) -> None:
    ids, reference, past = random_ids(2, past_length + tokens), theirs(generator()), DynamicCache()
    forward(reference, input_ids=ids[:, :past_length], past_key_values=past, use_cache=True)
    given = named(pairs_of(past), "past_key_values")
    expected = forward(reference, input_ids=ids[:, past_length:], past_key_values=past, use_cache=True)

    feeds = {
        "input_ids": ids[:, past_length:],
        "attention_mask": np.ones_like(ids),
        "position_ids": np.arange(ids.shape[1])[None].repeat(2, 0)[:, past_length:] + 2,
        **given,
    }
    found = called(graph_call(generator(), TEXT, "with-past", all_logits=True), feeds)
    assert_close(found.pop("logits"), expected.logits)
    presents = named(pairs_of(past), "present")
    assert list(found) == list(presents)
    for name, array in presents.items():
        assert_close(found[name], array, name)


@pytest.mark.parametrize("variant", ["prefill", "with-past"])
def test_a_prompt_leaves_what_transformers_keeps(variant: str) -> None:
    ids, past = random_ids(2, 4), DynamicCache()
    expected = forward(theirs(generator()), input_ids=ids, past_key_values=past, use_cache=True)
    call = graph_call(generator(), TEXT, variant)
    empty = {name: np.zeros((2, 4, 0, 8), dtype=np.float32) for name in call.input_names if "past" in name}
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "position_ids": np.arange(8).reshape(2, 4) % 4 + 2}

    found = called(call, {**feeds, **empty})
    assert_close(found["logits"], expected.logits[:, -1:])
    for name, array in named(pairs_of(past), "present").items():
        assert_close(found[name], array, name)


def test_inputs_are_not_changed() -> None:
    call = graph_call(generator(), TEXT, "with-past")
    given = {name: torch.ones(shape) for name, shape in shapes_of(call).items() if "past" in name}
    ids = torch.full((2, 3), 7)
    feeds = {"input_ids": ids, "attention_mask": torch.ones(2, 8, dtype=torch.int64), "position_ids": ids, **given}
    with torch.inference_mode():
        call(*(feeds[name] for name in call.input_names))

    for name, tensor in given.items():
        assert tensor.shape == (2, 4, 5, 8), name
        assert tensor.eq(1).all(), name


# -- an encoder's output ---------------------------------------------------------------------------------------------


def test_the_encoder_makes_the_keys_and_values_that_transformers_caches() -> None:
    ids = random_ids(2, 7, high=53)
    mask = np.array([[1] * 7, [1, 1, 1, 0, 0, 0, 0]])
    expected = forward(
        theirs(translator()), input_ids=ids, attention_mask=mask, decoder_input_ids=random_ids(2, 3), use_cache=True
    )
    found = called(graph_call(translator(), TEXT2TEXT, "encoder"), {"input_ids": ids, "attention_mask": mask})

    assert_close(found.pop("last_hidden_state"), expected.encoder_last_hidden_state)
    crossed = named(pairs_of(expected.past_key_values.cross_attention_cache), "cross_key_values")
    assert list(found) == list(crossed)
    for name, array in crossed.items():
        assert_close(found[name], array, name)


@pytest.mark.parametrize("variant", ["full", "prefill", "with-past"])
def test_a_decoder_reads_an_encoders_keys_and_values_in_place_of_its_output(variant: str) -> None:
    source, ids = random_ids(2, 7, high=53), random_ids(2, 4)
    mask = np.array([[1] * 7, [1, 0, 1, 0, 1, 0, 0]])
    expected = forward(
        theirs(translator()),
        input_ids=source,
        attention_mask=mask,
        decoder_input_ids=ids,
        use_cache=True,
        output_attentions=True,
    )
    call = graph_call(translator(), TEXT2TEXT, variant, outputs=("attentions", "cross_attentions"), all_logits=True)
    found = called(
        call,
        {
            "input_ids": ids,
            "attention_mask": np.ones_like(ids),
            "encoder_attention_mask": mask,
            "position_ids": np.arange(4)[None].repeat(2, 0) + 2,
            **named(pairs_of(expected.past_key_values.cross_attention_cache), "cross_key_values"),
            **{name: np.zeros((2, 4, 0, 8), dtype=np.float32) for name in call.input_names if "past" in name},
        },
    )

    assert_close(found["logits"], expected.logits)
    for layer in (0, 1):
        assert_close(found[f"attentions.{layer}"], expected.decoder_attentions[layer])
        assert_close(found[f"cross_attentions.{layer}"], expected.cross_attentions[layer])


def test_hidden_states_of_another_encoder_are_projected() -> None:
    hidden = np.random.default_rng(0).standard_normal((2, 7, 24)).astype(np.float32)
    model = foreign_translator()
    found = called(graph_call(model, TEXT2TEXT, "cross"), {"encoder_hidden_states": hidden})

    projected = torch.from_numpy(hidden) @ model.enc_to_dec_proj.weight.T + model.enc_to_dec_proj.bias
    for layer in (0, 1):
        heads = model.decoder.roberta_prelayernorm.encoder.layer[layer].crossattention.self
        for part in ("key", "value"):
            linear = getattr(heads, part)
            expected = (projected @ linear.weight.T + linear.bias).reshape(2, 7, 4, 8).permute(0, 2, 1, 3)
            assert_close(found[f"cross_key_values.{layer}.{part}"], expected.detach().numpy())


def test_what_runs_before_the_steps_knows_the_encoder_only_where_it_is_ours() -> None:
    assert EncoderStage(translator()).base_model is translator().encoder
    assert EncoderStage(foreign_translator()).base_model is None
    assert EncoderStage(foreign_translator()).encoder_hidden_size == 24


# -- shapes ----------------------------------------------------------------------------------------------------------


def shapes_of(call: GraphCall) -> dict[str, list[int]]:
    return {name: shape for tensor in call.inputs for name, shape in call.shapes(tensor, SIZES).items()}


def test_shapes_are_those_of_sizes_and_config() -> None:
    assert shapes_of(graph_call(translator(), TEXT2TEXT, "with-past")) == {
        "input_ids": [2, 3],
        "attention_mask": [2, 8],
        "encoder_attention_mask": [2, 7],
        **{f"cross_key_values.{layer}.{part}": [2, 4, 7, 8] for layer in (0, 1) for part in ("key", "value")},
        "position_ids": [2, 3],
        **{f"past_key_values.{layer}.{part}": [2, 4, 5, 8] for layer in (0, 1) for part in ("key", "value")},
    }
    assert shapes_of(graph_call(foreign_translator(), TEXT2TEXT, "cross")) == {"encoder_hidden_states": [2, 7, 24]}


def test_pruned_heads_are_missing_in_their_layer_and_only_from_self_attention() -> None:
    model = tiny_model(TEXT2TEXT, pruned_heads=PRUNED)
    call = graph_call(model, TEXT2TEXT, "with-past", outputs=("attentions", "cross_attentions"))
    heads = {
        name: shape[1]
        for tensor in (*call.inputs, *call.outputs)
        if "num_attention_heads" in tensor.axes
        for name, shape in call.shapes(tensor, SIZES).items()
    }
    pairs = [(layer, part) for layer in (0, 1) for part in ("key", "value")]

    assert heads == {
        **{f"cross_key_values.{layer}.{part}": 4 for layer, part in pairs},
        **{f"past_key_values.{layer}.{part}": (3, 2)[layer] for layer, part in pairs},
        "attentions.0": 3,
        "attentions.1": 2,
        "cross_attentions.0": 4,
        "cross_attentions.1": 4,
        **{f"present.{layer}.{part}": (3, 2)[layer] for layer, part in pairs},
    }


def test_a_network_with_pruned_heads_takes_and_gives_these_shapes() -> None:
    call = graph_call(tiny_model(TEXT2TEXT, pruned_heads=PRUNED), TEXT2TEXT, "with-past", outputs=("cross_attentions",))
    feeds = {
        name: np.ones(shape, dtype=np.float32 if "key_values" in name else np.int64)
        for name, shape in shapes_of(call).items()
    }
    found = called(call, feeds)

    shapes = [shape for tensor in call.outputs for shape in call.shapes(tensor, SIZES).values()]
    assert [list(array.shape) for array in found.values()] == shapes
