"""Invalid options, prompts and bundles are refused with what was found and what was expected."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rpln_runtime import EncoderStates, GenerationOptions, Generator, InputError, ManifestError, RplnError, generator
from rpln_runtime.generation.options import DEFAULT_NEW_TOKENS
from rpln_runtime.generation.prompts import new_tokens
from rpln_runtime.manifest import Axis, Generation
from rpln_runtime.tasks import TOTAL
from tests.runtime.bundles import USABLE_LENGTH
from tests.runtime.decoders import HIDDEN, DecoderBundle, copy_decoder
from tests.runtime.messages import naming


@pytest.fixture(scope="module")
def continue_(causal_lm: DecoderBundle) -> Generator:
    return generator(causal_lm.folder)


NUMBERS = r"0\.0001 to 10000"


@pytest.mark.parametrize(
    ("options", "facts"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0, .*1 or more"),
        ({"max_new_tokens": 2.0}, r"max_new_tokens is 2\.0, .*1 or more"),
        ({"do_sample": "yes"}, "do_sample is 'yes', .*True or False"),
        ({"do_sample": True, "temperature": 0}, f"temperature is 0, .*{NUMBERS}"),
        ({"do_sample": True, "temperature": float("nan")}, f"temperature is nan, .*{NUMBERS}"),
        ({"do_sample": True, "temperature": True}, f"temperature is True, .*{NUMBERS}"),
        ({"do_sample": True, "top_k": -1}, "top_k is -1, .*0 or more"),
        ({"do_sample": True, "top_p": -0.1}, r"top_p is -0\.1, .*0 to 1"),
        ({"do_sample": True, "top_p": 1.5}, r"top_p is 1\.5, .*0 to 1"),
        ({"do_sample": True, "min_p": -0.1}, r"min_p is -0\.1, .*0 to 1"),
        ({"do_sample": True, "seed": -1}, "seed is -1, .*0 or more"),
        ({"repetition_penalty": "2"}, f"repetition_penalty is '2', .*{NUMBERS}"),
        ({"num_beams": 0}, "num_beams is 0, .*1 or more"),
        ({"min_new_tokens": 10**20}, "min_new_tokens is 10{20}, .*0 to 9223372036854775807"),
        ({"min_length": 2**63}, "min_length is 9223372036854775808, .*0 to 9223372036854775807"),
        ({"num_beams": 2, "length_penalty": float("inf")}, "length_penalty is inf, .*-10 to 10"),
        ({"num_beams": 2, "early_stopping": "always"}, "early_stopping is 'always', .*True, False or 'never'"),
        ({"num_return_sequences": 0}, "num_return_sequences is 0, .*1 or more"),
        ({"stop_token_ids": [2, -1]}, "stop_token_ids .*-1, .*0 or more"),
        ({"stop_strings": [""]}, "stop_strings .*''"),
        ({"stop_strings": [b"."]}, r"stop_strings .*b'\.'"),
        ({"positions": "absolute"}, "positions is 'absolute', .*'forward', 'transformers-generate'"),
        ({"return_full_text": 1}, "return_full_text is 1, .*True or False"),
        ({"temperature": 0.5}, r"temperature is 0\.5, .*no effect .*do_sample=True"),
        ({"seed": 0}, "seed is 0, .*no effect .*do_sample=True"),
        ({"length_penalty": 2.0}, r"length_penalty is 2\.0, .*no effect .*num_beams"),
        ({"early_stopping": True}, "early_stopping is True, .*no effect .*num_beams"),
        ({"do_sample": True, "num_beams": 2}, "do_sample is True .*num_beams is 2"),
        ({"num_beams": 2, "num_return_sequences": 3}, "num_return_sequences is 3, .*num_beams is 2.* do_sample=True"),
    ],
)
def test_options_out_of_range_or_without_effect(
    causal_lm: DecoderBundle, continue_: Generator, options: dict[str, Any], facts: str
) -> None:
    for refused in (
        lambda: GenerationOptions(**options),
        lambda: continue_("Ada", **options),
        lambda: continue_.tokens([[0]], **options),
        lambda: continue_.stream("Ada", **options),
        lambda: generator(causal_lm.folder, **options),
    ):
        with pytest.raises(InputError, match=facts):
            refused()


def test_the_documentation_has_every_option_with_its_default() -> None:
    page = (
        (Path(__file__).parents[3] / "docs/generation.md")
        .read_text(encoding="utf-8")
        .partition("## What the checkpoint sets")[0]
    )
    documented = dict(re.findall(r"^\| `(\w+)` \| ([^|]*) \|", page, re.MULTILINE))
    defaults = {field.name: str(field.default) for field in dataclasses.fields(GenerationOptions)}
    assert {name: text.strip("`").strip('"') for name, text in documented.items()} == defaults | {
        "max_new_tokens": str(DEFAULT_NEW_TOKENS)
    }


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ({}, DEFAULT_NEW_TOKENS),
        ({"max_new_tokens": 7}, 7),
        ({"max_length": 30}, 25),
        ({"max_length": 30, "max_new_tokens": 7}, 7),
        ({"max_length": 3}, 1),  # the prompt is longer already
        ({"max_length": 1000}, 96),  # as many as there is room for
    ],
)
def test_the_checkpoint_sets_the_default_length(stated: dict[str, Any], expected: int) -> None:
    ids: dict[str, Any] = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_ids": (2,), "start_token_id": None}
    generation = Generation(**ids, first_position=2, pad_position=1, **stated)
    assert new_tokens([0, 5, 6, 7, 8], None, 100, generation) == expected
    assert new_tokens([0, 5, 6, 7, 8], 9, 100, generation) == 9


@pytest.mark.parametrize(
    ("options", "facts"),
    [
        ({"stop_token_ids": 2}, "stop_token_ids is 2, .*list of token ids"),
        ({"stop_strings": 5}, "stop_strings is 5, .*list of texts"),
        ({"stop_strings": None}, "stop_strings is None, .*list of texts"),
        ({"callback": 3}, "callback is 3, .*function"),
    ],
)
def test_values_of_another_kind_are_refused(continue_: Generator, options: dict[str, Any], facts: str) -> None:
    with pytest.raises(InputError, match=facts):
        continue_("Ada", **options)


@pytest.mark.parametrize("prompts", [[0, 1, 2], [None]])
def test_prompts_that_are_no_lists_are_refused(continue_: Generator, prompts: Any) -> None:
    with pytest.raises(InputError, match=r"a prompt is .*list of token ids"):
        continue_.tokens(prompts)


def test_unknown_options_are_refused_with_those_there_are(continue_: Generator) -> None:
    with pytest.raises(InputError, match=r"'max_length' .*max_new_tokens, "):
        continue_("Ada", max_length=5)


def test_options_at_the_ends_of_their_ranges(continue_: Generator) -> None:
    for temperature, penalty in ((0.0001, 0.0001), (10_000, 10_000)):
        extremes: dict[str, Any] = {"temperature": temperature, "repetition_penalty": penalty, "top_p": 0, "min_p": 1}
        assert continue_.tokens([[0, 41]], do_sample=True, **extremes)
    for length_penalty in (-10, 10):
        assert continue_.tokens([[0, 41]], num_beams=2, length_penalty=length_penalty)


def test_a_call_overrides_for_itself_alone(causal_lm: DecoderBundle) -> None:
    continue_ = generator(causal_lm.folder, max_new_tokens=5, stop_token_ids=())
    assert len(continue_.tokens([[0]])[0][0].tokens) == 5
    assert len(continue_.tokens([[0]], max_new_tokens=3)[0][0].tokens) == 3
    assert len(continue_.tokens([[0]])[0][0].tokens) == 5


def test_prompts_that_leave_too_little_room(continue_: Generator) -> None:
    with pytest.raises(InputError, match=r"max_new_tokens is 6, .*60 tokens .* 5.* 64"):
        continue_.tokens([[0, 7], [0] * 60], max_new_tokens=6)
    assert len(continue_.tokens([[0] * 60], max_new_tokens=5, stop_token_ids=())[0][0].tokens) == 5
    for refused in (lambda: continue_.tokens([[0] * 65]), lambda: continue_.stream("Ada " * 100)):
        with pytest.raises(InputError, match=r"a prompt has \d+ tokens .* 64"):
            refused()


@pytest.mark.parametrize("token", [-1, 10_000, 1.5, "a", True])
def test_tokens_that_are_no_ids_are_refused(continue_: Generator, token: Any) -> None:
    prompt: Any = [0, token] if not isinstance(token, bool) else [token]
    with pytest.raises(InputError, match=r"a prompt's token is .* 0 to "):
        continue_.tokens([prompt])


@pytest.mark.parametrize("inputs", [{"text": "Ada"}, 7, None, iter(["Ada"])])
def test_inputs_that_are_no_texts_are_refused(continue_: Generator, inputs: Any) -> None:
    with pytest.raises(InputError, match=r"the input is .*EncoderStates"):
        continue_(inputs)


def test_texts_that_are_no_strings_are_refused(continue_: Generator) -> None:
    texts: Any = ["Ada", 7]
    with pytest.raises(InputError, match=r"a text .*int.* str"):
        continue_(texts)


def test_an_empty_prompt_needs_a_first_token(causal_lm: DecoderBundle, tmp_path: Path) -> None:
    assert causal_lm.manifest.generation is not None
    generation = dataclasses.replace(causal_lm.manifest.generation, bos_token_id=None)
    bundle = copy_decoder(causal_lm, tmp_path, generation=generation)
    with pytest.raises(InputError, match="a prompt is empty"):
        generator(bundle.folder)("")


# -- encoders ----------------------------------------------------------------------------------------------------------


def states(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


def test_states_for_a_decoder_without_cross_attention(continue_: Generator) -> None:
    with pytest.raises(InputError, match=r"no cross-attention.* EncoderStates.*--task text2text-generation"):
        continue_(EncoderStates(states(1, 3, HIDDEN)))


def test_states_in_place_of_texts_and_texts_in_place_of_states_are_refused(
    encoder_decoder: DecoderBundle, tmp_path: Path
) -> None:
    whole = generator(encoder_decoder.folder)
    with pytest.raises(InputError, match=r"an encoder of its own.* EncoderStates"):
        whole(EncoderStates(states(1, 3, HIDDEN)))
    with pytest.raises(InputError, match="return_full_text"):
        whole("Ada", return_full_text=True)
    cross = generator(copy_decoder(encoder_decoder, tmp_path, "with-past", "cross").folder)
    with pytest.raises(InputError, match=r"no encoder.* EncoderStates"):
        cross("Ada")
    with pytest.raises(InputError, match="hidden_states has 2"):
        cross.stream(EncoderStates(states(2, 3, HIDDEN)))


@pytest.mark.parametrize(
    ("given", "facts"),
    [
        (EncoderStates(states(1, 3, HIDDEN + 1)), ("encoder_hidden_states", "33", "axis 2", "32")),
        (EncoderStates(states(3, HIDDEN)), ("encoder_hidden_states", "2", "(3, 32)", "3")),
        (EncoderStates(states(1, 3, HIDDEN).astype(np.float64)), ("encoder_hidden_states", "float64", "float32")),
        (EncoderStates(states(1, 65, HIDDEN)), ("encoder_hidden_states", "65", "'encoder_sequence'", "64")),
        (
            EncoderStates(states(2, 3, HIDDEN), np.ones((2, 4), np.int64)),
            ("attention_mask", "int64", "(2, 4)", "int64", "(2, 3)"),
        ),
        (
            EncoderStates(states(2, 3, HIDDEN), np.ones((2, 3), np.float32)),
            ("attention_mask", "float32", "(2, 3)", "int64", "(2, 3)"),
        ),
        (EncoderStates(states(2, 3, HIDDEN), np.array([[1, 1, 0], [0, 0, 0]])), ("attention_mask", "0 and 1", "row")),
        (EncoderStates(states(1, 3, HIDDEN), np.array([[1, 2, 0]])), ("attention_mask", "0 and 1")),
    ],
)
def test_states_that_do_not_fit_are_refused(
    encoder_decoder: DecoderBundle, tmp_path: Path, given: EncoderStates, facts: tuple[str, ...]
) -> None:
    cross = generator(copy_decoder(encoder_decoder, tmp_path, "with-past", "cross").folder)
    with pytest.raises(InputError, match=naming(*facts)):
        cross(given)


def test_a_text_too_long_for_the_encoder(encoder_decoder: DecoderBundle) -> None:
    with pytest.raises(InputError, match=r"102 tokens.* 1 to 64"):
        generator(encoder_decoder.folder)("a" * 100)


# -- bundles -----------------------------------------------------------------------------------------------------------


def test_bundles_that_do_not_generate(
    every_variant: DecoderBundle, encoder_decoder: DecoderBundle, tmp_path: Path
) -> None:
    for bundle, variants, fields, facts in (
        (every_variant, ("prefill",), {}, "variants prefill, .*with-past, prefill and decode, or full"),
        (encoder_decoder, ("encoder",), {}, "variants encoder, .*with-past, prefill and decode, or full"),
        (every_variant, ("with-past",), {"generation": None}, "text-generation.* decoder"),
    ):
        folder = copy_decoder(bundle, tmp_path, *variants, **fields).folder
        with pytest.raises(InputError, match=facts):
            generator(folder)


def test_bundles_that_are_incomplete(encoder_decoder: DecoderBundle, tmp_path: Path) -> None:
    alone = copy_decoder(encoder_decoder, tmp_path, "with-past")
    with pytest.raises(ManifestError, match="encoder or cross"):
        generator(alone.folder)
    assert encoder_decoder.manifest.generation is not None
    generation = dataclasses.replace(encoder_decoder.manifest.generation, start_token_id=None)
    unstarted = copy_decoder(encoder_decoder, tmp_path, "with-past", "encoder", generation=generation)
    with pytest.raises(ManifestError, match="no start_token_id"):
        generator(unstarted.folder)("Ada")


def test_a_graph_that_counts_positions_itself(every_variant: DecoderBundle, tmp_path: Path) -> None:
    full = copy_decoder(every_variant, tmp_path, "full")
    with pytest.raises(
        InputError, match=r"positions is 'transformers-generate', .*full\.onnx .*position_ids.* 'forward'"
    ):
        generator(full.folder, positions="transformers-generate")


def test_a_limit_is_needed(causal_lm: DecoderBundle, tmp_path: Path) -> None:
    axes = causal_lm.manifest.axes | {TOTAL: Axis(minimum=1, maximum=None)}
    folder = copy_decoder(causal_lm, tmp_path, axes=axes).folder
    with pytest.raises(ManifestError, match=r"no maximum .*'past_sequence \+ sequence' of model\.onnx"):
        generator(folder).tokens([[0]])


def test_an_input_that_does_not_follow_from_tokens(causal_lm: DecoderBundle, tmp_path: Path) -> None:
    (graph,) = causal_lm.manifest.graphs
    first, *others = graph.inputs
    assert first.name == "input_ids"
    embeddings = dataclasses.replace(first, name="inputs_embeds", dtype="float32", shape=(*first.shape, 8))
    graph = dataclasses.replace(graph, inputs=(embeddings, *others))
    bundle = copy_decoder(causal_lm, tmp_path, graphs=(graph,))
    with pytest.raises(RplnError, match=r"inputs_embeds"):
        generator(bundle.folder)


@pytest.mark.parametrize(("option", "value"), [("batch_size", 0), ("threads", 0), ("provider", "tpu")])
def test_wrong_arguments(causal_lm: DecoderBundle, option: str, value: Any) -> None:
    with pytest.raises(RplnError, match=option):
        generator(causal_lm.folder, **{option: value})


def test_the_limits_are_those_of_the_bundle(continue_: Generator) -> None:
    assert continue_.manifest.axes[TOTAL].maximum == USABLE_LENGTH
