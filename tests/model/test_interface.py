"""The documented interface beyond numbers: tuples and dicts, switches in the config, refusals of bad arguments."""

import inspect
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import rpln_model
from rpln_model import HEADS, ConfigError, ModelInputError, RplnModelError
from rpln_model.activations import ACTIVATIONS
from rpln_model.config import updated_config, usable_length
from tests.model import lines
from tests.model.references import (
    HIDDEN,
    LAYERS,
    LENGTH,
    OUTPUT_TOLERANCE,
    PAD,
    SINGLE_HEADS,
    assert_equal_outputs,
    difference,
    labels_for,
    own_model,
    pair,
    random_ids,
    random_values,
    tiny_config,
    token_shape,
)

BASE, CAUSAL = "RobertaPreLayerNormModel", "RobertaPreLayerNormForCausalLM"
MASKED = "RobertaPreLayerNormForMaskedLM"


def leaves(value: Any) -> list[Tensor | None]:
    """Return the tensors of a tuple in order. transformers 5 puts () where 4.57 leaves out what is absent."""
    if isinstance(value, tuple):
        return [leaf for item in value for leaf in leaves(item)]
    return [value] if value is None or isinstance(value, Tensor) else []


@pytest.mark.parametrize("architecture", SINGLE_HEADS)
def test_tuples_have_the_order_of_transformers(architecture: str) -> None:
    reference, ours = pair(architecture, is_decoder=architecture == CAUSAL)
    inputs = {"input_ids": random_ids(*token_shape(architecture)), **labels_for(architecture)}
    for asked in ({}, {"output_attentions": True}, {"output_attentions": True, "output_hidden_states": True}):
        theirs = reference(**inputs, **asked, return_dict=False)
        mine = ours(**inputs, **asked, return_dict=False)
        got, expected = leaves(mine), leaves(theirs)
        assert [None if leaf is None else leaf.shape for leaf in got] == [
            None if leaf is None else leaf.shape for leaf in expected
        ]
        for ours_leaf, theirs_leaf in zip(got[:2], expected[:2], strict=True):
            assert theirs_leaf is not None
            assert ours_leaf is not None
            assert difference(ours_leaf, theirs_leaf) <= OUTPUT_TOLERANCE


@pytest.mark.parametrize("architecture", SINGLE_HEADS)
def test_the_config_decides_what_the_caller_leaves_open(architecture: str) -> None:
    reference, ours = pair(
        architecture, output_attentions=True, output_hidden_states=True, is_decoder=architecture == CAUSAL
    )
    ids = random_ids(*token_shape(architecture))
    outputs = ours(ids)
    assert_equal_outputs(outputs, reference(ids), final_norm=ours.base_model.LayerNorm)
    assert len(outputs.attentions) == LAYERS
    assert len(outputs.hidden_states) == LAYERS + 1
    plain = ours(ids, output_attentions=False, output_hidden_states=False)
    assert plain.get("attentions") is None
    assert plain.get("hidden_states") is None
    ours.config.return_dict = False
    assert isinstance(ours(ids), tuple)
    assert not isinstance(ours(ids, return_dict=True), tuple)
    vars(ours.config).update(return_dict=True, torchscript=True)
    assert isinstance(ours(ids), tuple)


def test_the_cache_is_returned_as_the_config_and_the_caller_say() -> None:
    _, decoder = pair(CAUSAL, is_decoder=True)
    ids = random_ids(2, LENGTH)
    assert decoder(ids).past_key_values is not None
    assert decoder(ids, use_cache=False).past_key_values is None
    assert decoder(ids, labels=ids).past_key_values is None
    decoder.config.use_cache = False
    assert decoder(ids).past_key_values is None
    assert decoder(ids, use_cache=True).past_key_values is not None
    assert own_model(BASE)(ids, use_cache=True).past_key_values is None


@pytest.mark.parametrize("architecture", SINGLE_HEADS)
def test_arguments_stand_where_transformers_documents_them(architecture: str) -> None:
    """They may be passed by position, too. transformers 5 dropped head_mask and takes the last ones only by keyword."""
    theirs = [*inspect.signature(getattr(transformers, architecture).forward).parameters]
    theirs = [name for name in theirs if name != "kwargs"]
    parameters = inspect.signature(SINGLE_HEADS[architecture].forward).parameters.values()
    mine = [parameter.name for parameter in parameters if parameter.kind is not parameter.KEYWORD_ONLY]
    only_here = {"head_mask", "output_attentions", "output_hidden_states", "return_dict"}
    if lines.TRANSFORMERS_4 and architecture == CAUSAL:
        theirs.append("logits_to_keep")  # new in transformers 5
    if architecture == MASKED:
        assert mine.pop() == "masked_positions"  # our own argument comes after all of theirs
    assert [name for name in mine if name not in only_here or name in theirs] == theirs
    assert only_here <= set(mine)
    if lines.TRANSFORMERS_4:
        assert mine == theirs


@pytest.mark.parametrize("chunk", [1, LENGTH, 3])
def test_chunked_feed_forward_is_the_same_network(chunk: int) -> None:
    reference, ours = pair(BASE)
    chunked = SINGLE_HEADS[BASE](tiny_config(chunk_size_feed_forward=chunk))
    chunked.load_state_dict(ours.state_dict())
    ids = random_ids(3, LENGTH)
    assert_equal_outputs(chunked.eval()(ids), reference(ids), final_norm=ours.base_model.LayerNorm)
    if LENGTH % chunk == 0:
        reference, ours = pair(BASE, chunk_size_feed_forward=chunk)
        assert_equal_outputs(ours(ids), reference(ids), final_norm=ours.base_model.LayerNorm)


def test_chunks_are_as_long_as_the_config_says() -> None:
    model = own_model(BASE, chunk_size_feed_forward=3)
    lengths: list[int] = []
    model.base_model.encoder.layer[0].intermediate.register_forward_hook(
        lambda _module, _inputs, output: lengths.append(output.shape[1])
    )
    model(random_ids(2, LENGTH))
    assert lengths == [3, 3, 1]


@pytest.mark.parametrize("given", ["input_ids", "inputs_embeds"])
def test_explicit_positions(given: str) -> None:
    reference, ours = pair(BASE)
    inputs = {"input_ids": random_ids(3, LENGTH), "inputs_embeds": random_values(3, LENGTH, HIDDEN)}
    positions = random_ids(3, LENGTH, high=19, seed=9)
    asked = {given: inputs[given], "position_ids": positions, "token_type_ids": torch.ones(3, LENGTH, dtype=torch.long)}
    assert_equal_outputs(ours(**asked), reference(**asked), final_norm=ours.base_model.LayerNorm)
    assert difference(ours(**asked)[0], ours(**{given: inputs[given]})[0]) > 0.01


def test_padding_tokens_do_not_count_as_positions() -> None:
    """The ids decide, not the mask: two padding tokens in the middle do not move the positions after them."""
    model = own_model(BASE)
    ids = random_ids(1, 5)
    padded = torch.cat([ids[:, :2], torch.full((1, 2), PAD), ids[:, 2:]], dim=1)
    mask = (padded != PAD).long()
    real = [0, 1, 4, 5, 6]
    assert difference(model(padded, attention_mask=mask)[0][:, real], model(ids)[0]) <= OUTPUT_TOLERANCE


def test_the_usable_length_is_what_the_position_table_serves() -> None:
    config = tiny_config()
    longest = usable_length(config)
    assert longest == 19 - PAD - 1
    model = own_model(BASE)
    assert model(random_ids(1, longest))[0].isfinite().all()
    with pytest.raises(IndexError):
        model(random_ids(1, longest + 1))


@pytest.mark.parametrize("name", [name for name in ACTIVATIONS if name in transformers.activations.ACT2FN])
def test_activations_of_transformers(name: str) -> None:
    x = torch.linspace(-12, 12, 97, dtype=torch.float64)
    assert difference(ACTIVATIONS[name](x), transformers.activations.ACT2FN[name](x)) <= 1e-9


def test_every_activation_without_weights_of_transformers_is_here() -> None:
    with_weights = {"prelu", "xielu"}
    assert set(transformers.activations.ACT2CLS) - with_weights <= set(ACTIVATIONS)


@pytest.mark.parametrize("activation", [torch.tanh, torch.nn.functional.elu, torch.nn.ELU(), lambda x: x.clamp(0, 2)])
def test_a_callable_activation(activation: Any) -> None:
    reference, ours = pair(BASE, hidden_act=activation)
    ids = random_ids(3, LENGTH)
    assert_equal_outputs(ours(ids), reference(ids), final_norm=ours.base_model.LayerNorm)


def test_updating_a_config_leaves_the_original_alone() -> None:
    config = tiny_config(num_labels=2)
    updated = updated_config(config, {"num_labels": 7, "position_embedding_type": "relative_key", "hidden_act": "relu"})
    assert (updated.num_labels, updated.hidden_act) == (7, "relu")
    assert (config.num_labels, config.hidden_act) == (2, "gelu")
    with pytest.raises(TypeError, match=r"'hiden_act'.* field of Roberta"):
        updated_config(config, {"hiden_act": "relu"})


IDS = random_ids(3, LENGTH)
MEMORY = random_values(3, 5, HIDDEN)
PAST = tuple((random_values(3, 4, 2, 6), random_values(3, 4, 2, 6)) for _ in range(LAYERS))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "You have to specify either input_ids or inputs_embeds"),
        (
            {"input_ids": IDS, "inputs_embeds": random_values(3, LENGTH, HIDDEN)},
            "both input_ids and inputs_embeds",
        ),
        (
            {"input_ids": IDS, "attention_mask": torch.ones(LENGTH)},
            r"attention_mask has 1 dim.*\(batch, sequence, sequence\)",
        ),
        ({"input_ids": IDS, "attention_mask": torch.ones(3, 1, LENGTH, LENGTH)}, "attention_mask has 4 dimensions"),
        (
            {"input_ids": IDS, "head_mask": torch.ones(LAYERS, 1, 4)},
            r"head_mask has 3 dim.*\(layers, heads\)",
        ),
        ({"input_ids": IDS, "head_mask": torch.ones(5, 4)}, "head_mask is for 5 layers; this model has 2"),
        (
            {"input_ids": IDS, "encoder_hidden_states": MEMORY, "encoder_attention_mask": torch.ones(5)},
            "encoder_attention_mask has 1 dimensions",
        ),
        ({"input_ids": IDS, "past_key_values": PAST[:1]}, "past_key_values has 1 layers; expected 2, one per layer"),
        ({"input_ids": IDS, "past_key_values": ()}, "past_key_values has 0 layers; expected 2, one per layer"),
        (
            {"input_ids": IDS, "past_key_values": [(*layer, MEMORY) for layer in PAST]},
            r"past_key_values has 3 tensors for layer 0.*\(key, value\)",
        ),
    ],
)
def test_contradicting_inputs_are_refused(inputs: dict[str, Any], message: str) -> None:
    model = own_model(CAUSAL, is_decoder=True, add_cross_attention=True)
    with pytest.raises(ModelInputError, match=message) as error:
        model(**inputs)
    assert isinstance(error.value, ValueError)  # transformers raises this


def test_cross_attention_has_to_be_configured() -> None:
    model = own_model(CAUSAL, is_decoder=True)
    with pytest.raises(ModelInputError, match="add_cross_attention=True"):
        model(IDS, encoder_hidden_states=MEMORY)


def test_language_models_say_when_their_config_is_of_the_other_kind(caplog: pytest.LogCaptureFixture) -> None:
    own_model(CAUSAL)
    own_model("RobertaPreLayerNormForMaskedLM", is_decoder=True)
    causal, masked = [record.message for record in caplog.records if record.name.startswith("rpln_model")]
    assert "RobertaPreLayerNormForCausalLM" in causal
    assert "RobertaPreLayerNormForMaskedLM" in masked
    assert all("is_decoder=True" in message for message in (causal, masked))


def test_heads_are_the_documented_seven_and_an_encoder_decoder_and_all_is_exported() -> None:
    assert len(SINGLE_HEADS) == 7
    assert [*HEADS] == [*SINGLE_HEADS, "EncoderDecoderModel"]
    assert rpln_model.EncoderDecoderModel is HEADS["EncoderDecoderModel"]
    for name, head in SINGLE_HEADS.items():
        assert head.__name__ == name
        assert getattr(rpln_model, name) is head
        assert set(inspect.signature(getattr(transformers, name)).parameters) == set(inspect.signature(head).parameters)
    assert all(hasattr(rpln_model, name) for name in rpln_model.__all__)
    assert {ConfigError.exit_code, ModelInputError.exit_code, RplnModelError.exit_code} == {7}
