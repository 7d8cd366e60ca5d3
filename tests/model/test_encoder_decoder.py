"""EncoderDecoderModel computes what transformers' computes: outputs, losses, gradients, and steps with a cache."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from rpln_model import ConfigError, EncoderDecoderModel, ModelInputError
from rpln_model.cache import KeyValues
from tests.model import lines
from tests.model.encoder_decoders import DECODER_VOCABULARY, START, WIDE, bert_config, joined_config, pair, reference_of
from tests.model.references import (
    HEAD_COUNT,
    HIDDEN,
    LAYERS,
    LENGTH,
    MASKS,
    OUTPUT_TOLERANCE,
    PAD,
    Inputs,
    assert_equal_gradients,
    difference,
    flat,
    padding_mask,
    random_ids,
    random_values,
    tiny_config,
)

TOKENS = 5
INTERNALS = {"output_attentions": True, "output_hidden_states": True}
WIDTHS = pytest.mark.parametrize("width", [HIDDEN, WIDE], ids=["equal widths", "projected"])


def with_losses(test: Any) -> Any:
    """Ignore the warnings that transformers gives when an encoder-decoder computes a loss."""
    for warning in ("Version v4.12.0 introduces a better:FutureWarning", "To copy construct from a tensor:UserWarning"):
        test = pytest.mark.filterwarnings(f"ignore:{warning}")(test)
    return test


def run(model: Any, **inputs: Any) -> Any:
    with torch.no_grad():
        return model(**inputs)


def target_ids(*, seed: int = 4) -> Tensor:
    return random_ids(3, TOKENS, high=DECODER_VOCABULARY, seed=seed)


def inputs_of(mask: str = "none", decoder_mask: str = "none") -> Inputs:
    inputs = {"input_ids": random_ids(3, LENGTH), "decoder_input_ids": target_ids()}
    for kind, name in ((mask, ""), (decoder_mask, "decoder_")):
        if kind != "none":
            ids = inputs[f"{name}input_ids"]
            inputs[f"{name}attention_mask"] = padding_mask(kind, tuple(ids.shape))
            ids[inputs[f"{name}attention_mask"] == 0] = PAD
    return inputs


def assert_same(ours: Any, theirs: Any, model: EncoderDecoderModel) -> None:
    """Check that both outputs have the same tensors, equal to 1e-5."""
    got, expected = flat(ours), flat(theirs)
    if not lines.TRANSFORMERS_4:
        # transformers 5 returns the output of the final LayerNorm here; 4.57 documents its input.
        for name, part in (("encoder", model.encoder), ("decoder", model.decoder.base_model)):
            last = f"{name}_hidden_states.{LAYERS}"
            if last in got and part is not None:
                got[last] = part.LayerNorm(got[last])
    assert got.keys() == expected.keys()
    for name in expected:
        assert got[name].shape == expected[name].shape, name
        assert difference(got[name], expected[name]) <= OUTPUT_TOLERANCE, name


@WIDTHS
@pytest.mark.parametrize("mask", ["none", *MASKS])
def test_outputs(*, mask: str, width: int) -> None:
    reference, ours = pair(tiny_config(hidden_size=width))
    assert (ours.enc_to_dec_proj is not None) == hasattr(reference, "enc_to_dec_proj") == (width != HIDDEN)
    for decoder_mask in ("none", *MASKS):
        inputs = inputs_of(mask, decoder_mask) | INTERNALS
        assert_same(run(ours, **inputs), run(reference, **inputs), ours)


@pytest.mark.parametrize("position_type", lines.POSITION_TYPES)
def test_positions_of_every_type(position_type: str) -> None:
    reference, ours = pair(
        tiny_config(position_embedding_type=position_type), position_embedding_type=position_type, use_cache=False
    )
    assert_same(run(ours, **inputs_of()), run(reference, **inputs_of()), ours)


def test_arguments_stand_where_transformers_documents_them() -> None:
    """They may be passed by position, too. transformers 5 takes the last ones only by keyword."""
    theirs = [*inspect.signature(transformers.EncoderDecoderModel.forward).parameters]
    parameters = inspect.signature(EncoderDecoderModel.forward).parameters.values()
    mine = [parameter.name for parameter in parameters if parameter.kind is not parameter.KEYWORD_ONLY]
    theirs.remove("kwargs")
    assert mine[: len(theirs)] == theirs
    assert set(mine) - set(theirs) <= {"output_attentions", "output_hidden_states", "return_dict"}


def test_the_arguments_of_each_part_reach_it() -> None:
    reference, ours = pair()
    inputs = inputs_of()
    for name, length in (("", LENGTH), ("decoder_", TOKENS)):
        inputs[f"{name}token_type_ids"] = torch.arange(length).expand(3, -1) % 3
        inputs[f"{name}position_ids"] = torch.arange(length).expand(3, -1) + 4
    assert_same(run(ours, **inputs), run(reference, **inputs), ours)
    for name in inputs:
        if name not in ("input_ids", "decoder_input_ids"):
            fewer = {key: value for key, value in inputs.items() if key != name}
            assert difference(run(ours, **fewer).logits, run(ours, **inputs).logits) > 0.01, name


def test_embeddings_in_place_of_ids() -> None:
    reference, ours = pair(tiny_config(hidden_size=WIDE))
    inputs = {
        "inputs_embeds": random_values(3, LENGTH, WIDE),
        "decoder_inputs_embeds": random_values(3, TOKENS, HIDDEN),
        "attention_mask": padding_mask("left", (3, LENGTH)),
    }
    assert_same(run(ours, **inputs), run(reference, **inputs), ours)


@pytest.mark.parametrize("form", ["output", "tuple"])
@WIDTHS
def test_encoder_outputs_in_place_of_an_encoder(*, width: int, form: str) -> None:
    reference, ours = pair(tiny_config(hidden_size=width))
    inputs: Inputs = {"decoder_input_ids": target_ids(), "attention_mask": padding_mask("right", (3, LENGTH))}
    states, hidden = random_values(3, LENGTH, width), (random_values(3, LENGTH, width, seed=8),)
    inputs["encoder_outputs"] = (
        (states, hidden) if form == "tuple" else BaseModelOutput(last_hidden_state=states, hidden_states=hidden)
    )
    assert_same(run(ours, **inputs), run(reference, **inputs), ours)


@WIDTHS
@pytest.mark.parametrize("given", [False, True], ids=["shifted labels", "decoder_input_ids"])
@with_losses
def test_losses(*, given: bool, width: int) -> None:
    reference, ours = pair(tiny_config(hidden_size=width))
    labels = target_ids(seed=5)
    labels[0, 1:3] = -100
    labels[1, -1] = PAD
    inputs = inputs_of("right")
    if not given:
        del inputs["decoder_input_ids"]
    assert_same(run(ours, **inputs, labels=labels), run(reference, **inputs, labels=labels), ours)
    mask = padding_mask("left", (3, TOKENS))
    masked = inputs | {"decoder_attention_mask": mask, "labels": labels}
    assert_same(run(ours, **masked), run(reference, **masked), ours)


def test_labels_need_a_start_token() -> None:
    _, ours = pair()
    ours.config.decoder_start_token_id = None
    with pytest.raises(ModelInputError, match=r"decoder_start_token_id is None.* pad_token_id 1"):
        ours(random_ids(3, LENGTH), labels=target_ids())
    ours.config.decoder_start_token_id = START
    assert ours(random_ids(3, LENGTH), labels=target_ids()).loss.isfinite()


@WIDTHS
@with_losses
def test_training(width: int) -> None:
    """Both sides draw from the same stream of random numbers, so that any difference in dropouts would show."""
    dropout = {"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.2}
    models = pair(tiny_config(hidden_size=width, **dropout), **dropout)
    losses = []
    for model in models:
        torch.manual_seed(5)
        losses.append(model.train()(random_ids(3, LENGTH), labels=target_ids()).loss)
        losses[-1].backward()
    assert difference(losses[1], losses[0]) <= OUTPUT_TOLERANCE
    assert_equal_gradients(models[1], models[0])


def test_tuples_have_the_order_of_transformers() -> None:
    reference, ours = pair()
    inputs = inputs_of() | INTERNALS
    mine, theirs = run(ours, **inputs, return_dict=False), run(reference, **inputs, return_dict=False)
    if lines.TRANSFORMERS_4:
        # transformers 4.57 puts the encoder's pooled output into the tuple, but not into the dictionary.
        pooled = theirs[6]
        assert pooled.shape == (3, HIDDEN)
        theirs = (*theirs[:6], *theirs[7:])
    assert len(mine) == len(theirs)
    got, expected = leaves(mine), leaves(theirs)
    assert [tensor.shape for tensor in got] == [tensor.shape for tensor in expected]
    assert difference(got[0], expected[0]) <= OUTPUT_TOLERANCE
    ours.config.return_dict = False
    assert isinstance(run(ours, **inputs), tuple)


def leaves(value: Any) -> list[Tensor]:
    if isinstance(value, tuple):
        return [leaf for item in value for leaf in leaves(item)]
    return [value] if isinstance(value, Tensor) else []


@WIDTHS
def test_steps_with_a_cache_equal_one_pass_without(width: int) -> None:
    reference, ours = pair(tiny_config(hidden_size=width))
    inputs = inputs_of("right")
    ids = inputs.pop("decoder_input_ids")
    whole = run(reference, **inputs, decoder_input_ids=ids, use_cache=False)
    assert run(ours, **inputs, decoder_input_ids=ids, use_cache=False).past_key_values is None
    past: Any = EncoderDecoderCache(DynamicCache(), DynamicCache())
    encoded: Inputs = {
        "encoder_outputs": (whole.encoder_last_hidden_state,),
        "attention_mask": inputs["attention_mask"],
    }
    logits = []
    for step in torch.split(ids, [2, 1, 1, 1], dim=1):
        encoded |= {"decoder_input_ids": step, "attention_mask": inputs["attention_mask"]}
        outputs = run(ours, **encoded, past_key_values=past, use_cache=True)
        past = outputs.past_key_values
        logits.append(outputs.logits)
    assert difference(torch.cat(logits, dim=1), whole.logits) <= OUTPUT_TOLERANCE


@WIDTHS
def test_an_encoder_and_its_keys_and_values_by_themselves(width: int) -> None:
    """An exporter makes graphs of these: `encode` and `cross_key_values` once, then the decoder without the encoder."""
    reference, ours = pair(tiny_config(hidden_size=width))
    inputs = inputs_of("left", "right")
    expected = run(reference, **inputs, use_cache=True)
    with torch.no_grad():
        encoded = ours.encode(inputs["input_ids"], inputs["attention_mask"])
        cross = ours.cross_key_values(encoded)
    assert difference(encoded, expected.encoder_last_hidden_state) <= OUTPUT_TOLERANCE
    cached = expected.past_key_values.cross_attention_cache.layers
    assert len(cross) == len(cached) == LAYERS
    for (key, value), layer in zip(cross, cached, strict=True):
        assert key.shape == value.shape == (3, HEAD_COUNT, LENGTH, HIDDEN // HEAD_COUNT)
        assert difference(key, layer.keys) <= OUTPUT_TOLERANCE
        assert difference(value, layer.values) <= OUTPUT_TOLERANCE
    outputs = run(
        ours.decoder,
        input_ids=inputs["decoder_input_ids"],
        attention_mask=inputs["decoder_attention_mask"],
        encoder_attention_mask=inputs["attention_mask"],
        past_key_values=KeyValues(cross=cross),
    )
    assert difference(outputs.logits, expected.logits) <= OUTPUT_TOLERANCE


def test_a_foreign_encoder_is_left_out() -> None:
    reference = reference_of(joined_config(bert_config()))
    ours = EncoderDecoderModel(joined_config(bert_config())).eval()
    weights = {name: value for name, value in reference.state_dict().items() if not name.startswith("encoder.")}
    ours.load_state_dict(weights, strict=True)
    assert ours.encoder is None
    inputs = inputs_of("right")
    expected = run(reference, **inputs)
    ids = inputs.pop("input_ids")
    outputs = run(ours, **inputs, encoder_outputs=(expected.encoder_last_hidden_state,))
    assert_same(outputs, expected, ours)
    for call in (ours, ours.encode):
        with pytest.raises(ModelInputError, match=r"encoder.* 'bert'.* encoder_outputs"):
            call(ids)


def test_a_decoder_without_cross_attention_is_none() -> None:
    for config in (tiny_config(), tiny_config(is_decoder=True)):
        with pytest.raises(ConfigError, match=r"no cross-attention.* add_cross_attention=True"):
            EncoderDecoderModel(config)


@WIDTHS
def test_an_encoders_output_of_another_width_is_refused(width: int) -> None:
    _, ours = pair(tiny_config(hidden_size=width))
    states = random_values(3, LENGTH, 20)
    calls: tuple[Callable[[], Any], ...] = (
        lambda: ours(decoder_input_ids=target_ids(), encoder_outputs=(states,)),
        lambda: ours.cross_key_values(states),
    )
    for call in calls:
        with pytest.raises(ModelInputError, match=f"20 wide.* {width}"):
            call()
    with pytest.raises(ModelInputError, match=f"20 wide.* {HIDDEN}"):
        ours.decoder.cross_key_values(states)
