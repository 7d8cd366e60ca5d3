"""Graphs of decoders, step by step, give what transformers' own model gives for all tokens at once."""

import copy
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from transformers import DynamicCache, EncoderDecoderModel

from tests.graphs.anatomy import (
    assert_axes,
    assert_clean,
    assert_initializers_are_the_state_dict,
    assert_weights_are_stored_once,
)
from tests.graphs.decoders import (
    PRUNED,
    TEXT,
    TEXT2TEXT,
    Ids,
    Player,
    encode,
    foreign_translator,
    forward,
    generating,
    generator,
    padded,
    positions_of,
    random_ids,
    theirs,
    translating,
    translator,
)
from tests.graphs.networks import USABLE_LENGTH, Network, tiny_model, trace_variant
from tests.graphs.text_graphs import Arrays

TOLERANCE = 1e-4
LAYERS = range(2)
CUTS = (
    (1, 1, 1),
    (5, 1, 1, 1),
    (3, 4, 1, 2),
    (1, USABLE_LENGTH - 1),
    (USABLE_LENGTH - 3, 1, 1, 1),  # up to the last row of positions
    (USABLE_LENGTH,),
)
EVERY_CUT = pytest.mark.parametrize("cuts", CUTS, ids=str)
PROMPTS = pytest.mark.parametrize("prompt", ["with-past", "prefill"])
MASKS: dict[str, Ids] = {
    "left": np.array([[0, 0, 0, 1, 1], [0, 1, 1, 1, 1], [1, 1, 1, 1, 1]]),
    "right": np.array([[1, 1, 0, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]),
    "holes": np.array([[1, 0, 1, 0, 1], [0, 1, 0, 0, 1], [1, 1, 0, 1, 1]]),
}
EVERY_MASK = pytest.mark.parametrize("mask", MASKS)


def assert_close(found: Any, expected: Any, what: str = "") -> None:
    assert found.shape == tuple(expected.shape), what
    assert_allclose(found, expected, rtol=0, atol=TOLERANCE, err_msg=what)


def ones(ids: Ids) -> Ids:
    return np.ones_like(ids)


def mask_with_steps(mask: str, steps: int) -> Ids:
    """Return the mask of prompts with this padding, and of `steps` more tokens."""
    return np.pad(MASKS[mask], ((0, 0), (0, steps)), constant_values=1)


def assert_steps_are(expected: Any, steps: list[Arrays], cuts: tuple[int, ...], keep: Ids) -> None:
    """Check the logits of each step's last position against those of the whole history, in rows whose token is real."""
    for end, found in zip(np.cumsum(cuts).tolist(), steps, strict=True):
        real = keep[:, end - 1] == 1
        assert real.any()
        assert_close(found["logits"][real], expected[real, end - 1 : end], f"token {end}")


def self_layers(outputs: Any) -> Any:
    """Return the self-attention part of transformers' cache. transformers 4.57 keeps cross-attention beside it."""
    past = outputs.past_key_values
    return getattr(past, "self_attention_cache", past).layers


# -- a decoder alone -------------------------------------------------------------------------------------------------


@PROMPTS
@EVERY_CUT
@pytest.mark.parametrize("rows", [1, 3])
def test_steps_equal_transformers_forward(prompt: str, cuts: tuple[int, ...], rows: int) -> None:
    ids = random_ids(rows, sum(cuts))
    expected = forward(theirs(generator()), input_ids=ids)
    steps = Player(generating(prompt).graph, generating("with-past").graph).play(ids, ones(ids), cuts)

    assert_steps_are(expected.logits, steps, cuts, ones(ids))
    for layer, entry in enumerate(self_layers(expected)):
        assert_close(steps[-1][f"present.{layer}.key"], entry.keys)
        assert_close(steps[-1][f"present.{layer}.value"], entry.values)


def test_steps_equal_transformers_steps_with_its_own_cache() -> None:
    ids, reference, past = random_ids(2, 9), theirs(generator()), DynamicCache()
    player = Player(generating("with-past").graph)

    for start, end in ((0, 4), (4, 5), (5, 8), (8, 9)):
        expected = forward(reference, input_ids=ids[:, start:end], past_key_values=past, use_cache=True)
        found = player(ids[:, start:end], np.ones((2, end), dtype=np.int64))
        assert_close(found["logits"], expected.logits[:, -1:], f"tokens {start} to {end}")


@PROMPTS
@EVERY_MASK
def test_padded_prompts_equal_transformers_with_the_same_positions(prompt: str, mask: str) -> None:
    cuts = (5, 1, 2, 1)
    keep = mask_with_steps(mask, sum(cuts[1:]))
    ids = padded(random_ids(*keep.shape), keep)
    expected = forward(theirs(generator()), input_ids=ids, attention_mask=keep, position_ids=positions_of(keep)).logits

    steps = Player(generating(prompt).graph, generating("with-past").graph).play(ids, keep, cuts)
    assert_steps_are(expected, steps, cuts, keep)


def test_a_left_padded_prompt_goes_on_as_it_does_alone() -> None:
    keep = mask_with_steps("left", 3)
    ids = padded(random_ids(*keep.shape), keep)
    together = Player(generating("with-past").graph).play(ids, keep, (5, 1, 1, 1))

    for row, mask in enumerate(keep):
        alone = ids[row : row + 1, mask == 1]
        steps = Player(generating("with-past").graph).play(alone, ones(alone), (alone.shape[1] - 3, 1, 1, 1))
        for one, several in zip(steps, together, strict=True):
            assert_close(several["logits"][row], one["logits"][0])


def test_rows_of_the_cache_go_on_in_any_order_and_number() -> None:
    history, keep = random_ids(3, 4), np.ones((3, 4), dtype=np.int64)
    player, reference = Player(generating("with-past").graph), theirs(generator())
    player(history, keep)

    for number, rows in enumerate(([2, 0, 1], [0, 0, 1, 2, 2], [4, 1], [1])):
        new = random_ids(len(rows), 1 + number % 2, seed=number + 1)
        history = np.concatenate([history[rows], new], axis=1)
        found = player(new, ones(history), np.array(rows))
        assert_close(found["logits"], forward(reference, input_ids=history).logits[:, -1:], str(rows))


def test_prompts_make_the_same_of_either_graph() -> None:
    keep = MASKS["holes"]
    ids = padded(random_ids(*keep.shape), keep)
    one = Player(generating("with-past").graph)(ids, keep)
    other = Player(generating("prefill").graph)(ids, keep)

    assert list(one) == list(other)
    for name, array in one.items():
        assert_close(other[name], array, name)


# -- all optional inputs and outputs, heads pruned differently in each layer -------------------------------------------


@cache
def detailed() -> Network:
    return trace_variant(
        tiny_model(TEXT, pruned_heads=PRUNED),
        TEXT,
        "with-past",
        inputs=("input_ids", "attention_mask", "token_type_ids"),
        outputs=("hidden_states", "attentions"),
        all_logits=True,
        opset=23,
    )


def unpruned_reference() -> Any:
    """Return transformers' model with all heads; those that are pruned in ours are silenced."""
    whole = tiny_model(TEXT)
    states = whole.state_dict()
    with torch.no_grad():
        for name, tensor in detailed().model.state_dict().items():
            layer = name.split(".")[3] if ".attention." in name else ""
            if tensor.shape == states[name].shape:
                states[name].copy_(tensor)
            else:
                kept = channels_kept(int(layer))
                states[name].zero_()
                states[name][(slice(None), kept) if ".output." in name else kept] = tensor
    return theirs(whole)


def channels_kept(layer: int) -> list[int]:
    return [head * 8 + channel for head in heads_kept(layer) for channel in range(8)]


def heads_kept(layer: int) -> list[int]:
    return [head for head in range(4) if head not in PRUNED[layer]]


def test_every_output_of_pruned_layers_equals_transformers_with_silent_heads() -> None:
    ids = random_ids(2, 8)
    expected = forward(
        unpruned_reference(), input_ids=ids, output_hidden_states=True, output_attentions=True, return_dict=True
    )
    cuts = (3, 1, 4)
    steps = Player(detailed().graph).play(ids, ones(ids), cuts)

    for new, end, found in zip(cuts, np.cumsum(cuts).tolist(), steps, strict=True):
        assert_close(found["logits"], expected.logits[:, end - new : end])
        for layer in LAYERS:
            states = expected.hidden_states[layer][
                :, end - new : end
            ]  # transformers 5 normalises the state after the last layer
            assert_close(found[f"hidden_states.{layer}"], states)
            attentions = expected.attentions[layer][:, heads_kept(layer), end - new : end, :end]
            assert_close(found[f"attentions.{layer}"], attentions)
            keys = self_layers(expected)[layer].keys[:, heads_kept(layer), :end]
            assert_close(found[f"present.{layer}.key"], keys)


def test_token_types_are_looked_up() -> None:
    ids = random_ids(2, 6)
    types = np.random.default_rng(1).integers(0, 3, ids.shape)
    expected = forward(unpruned_reference(), input_ids=ids, token_type_ids=types).logits
    player = Player(detailed().graph, memory={"token_type_ids": types[:, :4]})
    first = player(ids[:, :4], ones(ids[:, :4]))
    player.memory = {"token_type_ids": types[:, 4:]}

    assert_close(first["logits"], expected[:, :4])
    assert_close(player(ids[:, 4:], ones(ids))["logits"], expected[:, 4:])


def test_axes_of_a_step_are_those_of_its_tokens_and_of_all_so_far() -> None:
    graph, new, every = detailed().graph.graph, "sequence", "past_sequence + sequence"
    pairs = [(layer, 4 - len(PRUNED[layer]), part) for layer in LAYERS for part in ("key", "value")]

    assert {value.name: str(value.shape) for value in (*graph.inputs, *graph.outputs)} == {
        **dict.fromkeys(["input_ids", "token_type_ids", "position_ids"], f"[batch,{new}]"),
        "attention_mask": f"[batch,{every}]",
        "logits": f"[batch,{new},61]",
        **{f"hidden_states.{index}": f"[batch,{new},32]" for index in (0, 1, 2)},
        **{f"attentions.{layer}": f"[batch,{4 - len(PRUNED[layer])},{new},{every}]" for layer in LAYERS},
        **{f"past_key_values.{layer}.{part}": f"[batch,{heads},past_sequence,8]" for layer, heads, part in pairs},
        **{f"present.{layer}.{part}": f"[batch,{heads},{every},8]" for layer, heads, part in pairs},
    }


def test_the_default_logits_are_those_of_the_last_position() -> None:
    networks = (detailed(), generating("with-past"), generating("prefill"), translating("with-past"))

    assert [str(network.graph.graph.outputs[0].shape) for network in networks] == [
        "[batch,sequence,61]",
        *["[batch,1,61]"] * 3,
    ]


# -- relative positions ----------------------------------------------------------------------------------------------


@cache
def relative(kind: str) -> Network:
    model = tiny_model(TEXT, position_embedding_type=kind, type_vocab_size=1, num_hidden_layers=1)
    return trace_variant(model, TEXT, "with-past", opset=18)


@EVERY_CUT
@pytest.mark.parametrize("kind", ["relative_key", "relative_key_query"])
def test_relative_positions_equal_a_forward_pass_without_a_cache(kind: str, cuts: tuple[int, ...]) -> None:
    # With a cache, transformers 4.57 measures distances from the last token; transformers 5 has no relative positions.
    network = relative(kind)
    ids = random_ids(2, sum(cuts))
    expected = forward(network.model, input_ids=ids, use_cache=False).logits

    steps = Player(network.graph).play(ids, ones(ids), cuts)
    assert_steps_are(expected, steps, cuts, ones(ids))


@EVERY_MASK
def test_relative_positions_of_padded_prompts(mask: str) -> None:
    network, cuts = relative("relative_key_query"), (5, 2, 1)
    keep = mask_with_steps(mask, sum(cuts[1:]))
    ids = padded(random_ids(*keep.shape), keep)
    expected = forward(network.model, input_ids=ids, attention_mask=keep, use_cache=False).logits

    assert_steps_are(expected, Player(network.graph).play(ids, keep, cuts), cuts, keep)


# -- a decoder that reads an encoder's output ------------------------------------------------------------------------


ENCODER_MASKS: dict[str, Ids] = {
    "none": np.ones((3, 7), dtype=np.int64),
    "one token": np.ones((3, 1), dtype=np.int64),
    "right": np.array([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]]),
    "holes": np.array([[1, 0, 1, 0, 1, 1], [0, 1, 0, 0, 1, 0], [1, 1, 0, 1, 1, 1]]),
}
EVERY_ENCODER_MASK = pytest.mark.parametrize("mask", ENCODER_MASKS)


def source(mask: str) -> Arrays:
    """Return inputs of the encoder's graph."""
    keep = ENCODER_MASKS[mask]
    return {"input_ids": padded(random_ids(*keep.shape, high=53, seed=7), keep), "attention_mask": keep}


def memory_of(fed: Arrays) -> Arrays:
    """Return what the decoder's graphs read of the encoder's outputs."""
    _, memory = encode(translating("encoder").graph, fed)
    return {"encoder_attention_mask": fed["attention_mask"], **memory}


def together(reference: Any, fed: Arrays, ids: Ids, keep: Ids | None = None, **options: bool) -> Any:
    """Return the outputs of transformers' encoder-decoder for all tokens at once."""
    given = {} if keep is None else {"decoder_attention_mask": keep, "decoder_position_ids": positions_of(keep)}
    return forward(reference, **fed, decoder_input_ids=ids, **given, **options)


@PROMPTS
@EVERY_ENCODER_MASK
@pytest.mark.parametrize("cuts", [(1, 1, 1, 1), (4, 1, 3)], ids=str)
def test_steps_over_a_memory_equal_transformers(prompt: str, mask: str, cuts: tuple[int, ...]) -> None:
    ids, fed = random_ids(3, sum(cuts)), source(mask)
    expected = together(theirs(translator()), fed, ids).logits

    player = Player(translating(prompt).graph, translating("with-past").graph, memory_of(fed))
    assert_steps_are(expected, player.play(ids, ones(ids), cuts), cuts, ones(ids))


@EVERY_MASK
def test_padded_prompts_over_a_memory(mask: str) -> None:
    cuts, fed = (5, 1, 2), source("holes")
    keep = mask_with_steps(mask, sum(cuts[1:]))
    ids = padded(random_ids(*keep.shape), keep)
    expected = together(theirs(translator()), fed, ids, keep).logits

    player = Player(translating("with-past").graph, memory=memory_of(fed))
    assert_steps_are(expected, player.play(ids, keep, cuts), cuts, keep)


@EVERY_ENCODER_MASK
def test_the_encoders_graph_equals_transformers(mask: str) -> None:
    fed = source(mask)
    expected = together(theirs(translator()), fed, random_ids(3, 2))
    found, memory = encode(translating("encoder").graph, fed)

    real = fed["attention_mask"] == 1
    assert_close(found["last_hidden_state"][real], expected.encoder_last_hidden_state[real])
    for layer, entry in enumerate(expected.past_key_values.cross_attention_cache.layers):
        for part, tensor in (("key", entry.keys), ("value", entry.values)):
            array = memory[f"cross_key_values.{layer}.{part}"]
            assert_close(np.moveaxis(array, 1, 2)[real], tensor.transpose(1, 2)[real])


def test_rows_of_cache_and_memory_go_on_together() -> None:
    fed, history, reference = source("right"), random_ids(3, 2), theirs(translator())
    player = Player(translating("with-past").graph, memory=memory_of(fed))
    player(history, ones(history))

    for number, rows in enumerate(([2, 0, 1], [0, 0, 1, 2, 2], [4, 1])):
        new = random_ids(len(rows), 1, seed=number + 1)
        history = np.concatenate([history[rows], new], axis=1)
        fed = {name: array[rows] for name, array in fed.items()}
        found = player(new, ones(history), np.array(rows))
        assert_close(found["logits"], together(reference, fed, history).logits[:, -1:], str(rows))


def test_another_encoders_output_is_projected_and_read() -> None:
    model = foreign_translator()
    reference = theirs_with_foreign_encoder()
    keep = ENCODER_MASKS["right"]
    fed = {"input_ids": random_ids(*keep.shape, high=47), "attention_mask": keep}
    hidden = forward(reference.encoder, **fed).last_hidden_state.numpy()
    _, memory = encode(trace_variant(model, TEXT2TEXT, "cross").graph, {"encoder_hidden_states": hidden})

    cuts, ids = (2, 1, 1), random_ids(3, 4)
    expected = forward(reference, **fed, decoder_input_ids=ids).logits
    # Its decoder, and so its graph, is that of the other translator.
    player = Player(translating("with-past").graph, memory={"encoder_attention_mask": keep, **memory})
    assert_steps_are(expected, player.play(ids, ones(ids), cuts), cuts, ones(ids))


def theirs_with_foreign_encoder() -> Any:
    make: Any = EncoderDecoderModel
    reference = make(copy.deepcopy(foreign_translator().config)).eval()
    missing = reference.load_state_dict(foreign_translator().state_dict(), strict=False).missing_keys
    assert all(name.startswith("encoder.") for name in missing)
    return reference


def test_cross_attentions_equal_transformers() -> None:
    # Only heads of self-attention are pruned.
    model = tiny_model(TEXT2TEXT, type_vocab_size=1, num_hidden_layers=1, pruned_heads={0: {2}})
    network = trace_variant(model, TEXT2TEXT, "with-past", outputs=("cross_attentions",), all_logits=True)
    fed, cuts, ids = source("holes"), (3, 1, 2), random_ids(3, 6)
    hidden = torch.from_numpy(forward(model.encoder, **fed).last_hidden_state.numpy())
    pairs = model.cross_key_values(hidden)
    memory = {
        f"cross_key_values.{layer}.{part}": tensor.detach().numpy()
        for layer, pair in enumerate(pairs)
        for part, tensor in zip(("key", "value"), pair, strict=True)
    }
    expected = forward(model, **fed, decoder_input_ids=ids, output_attentions=True, use_cache=False)

    player = Player(network.graph, memory={"encoder_attention_mask": fed["attention_mask"], **memory})
    steps = player.play(ids, ones(ids), cuts)
    for new, end, found in zip(cuts, np.cumsum(cuts).tolist(), steps, strict=True):
        assert_close(found["logits"], expected.logits[:, end - new : end])
        assert_close(found["cross_attentions.0"], expected.cross_attentions[0][:, :, end - new : end])


# -- what the graphs look like ---------------------------------------------------------------------------------------


GRAPHS: dict[str, Callable[[], Network]] = {
    "with-past of a decoder": partial(generating, "with-past"),
    "prefill of a decoder": partial(generating, "prefill"),
    "with-past of an encoder-decoder": partial(translating, "with-past"),
    "prefill of an encoder-decoder": partial(translating, "prefill"),
    "encoder": partial(translating, "encoder"),
    "pruned heads": detailed,
    "relative positions": partial(relative, "relative_key"),
}


@pytest.mark.parametrize("graph", GRAPHS)
def test_graphs_are_clean_and_hold_each_weight_that_they_read_once(graph: str) -> None:
    network = GRAPHS[graph]()

    assert_clean(network.graph)
    assert_weights_are_stored_once(network)
    assert_initializers_are_the_state_dict(network)
    assert_axes(network)
