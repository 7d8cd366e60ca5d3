"""What generation_config.json may set gives the tokens of transformers' `generate`, as an option and as a default."""

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rpln_runtime import Generated, Generator, InputError, ManifestError, generator
from rpln_runtime._version import __version__
from rpln_runtime.manifest import write_manifest
from rpln_runtime.triton.parts import VERSION_PARAMETER
from rpln_runtime.triton.plan import make_plan
from rpln_runtime.triton.steps.generator import BUNDLE, GeneratorStep
from tests.runtime.decoders import EOS, DecoderBundle, assert_same_sequences, copy_decoder, reference

NEW = 16
LENGTHS = (1, 4, 9, 2)
MODES: list[dict[str, Any]] = [{}, {"num_beams": 3, "num_return_sequences": 2}]
FIELDS = (
    "no_repeat_ngram_size=1",
    "no_repeat_ngram_size=2",
    "bad_words_ids",
    "min_length",
    "min_new_tokens",
    "min_length and min_new_tokens",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "forced_eos_token_id of several",
    "suppress_tokens",
    "begin_suppress_tokens",
    "begin_suppress_tokens and forced_bos_token_id",
    "all",
)
COMPARED = [
    (name, mode)
    for name in FIELDS
    for mode in MODES
    # Several forced tokens are equally likely; in beam search, torch's topk takes them in no certain order.
    if not mode or name != "forced_eos_token_id of several"
]


def fields_of(name: str, usual: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Return options of `generate`, chosen so that they change the tokens that it chooses without them, `usual`."""
    first, second = sorted({row[0] for row in usual}), next(token for token in usual[-1][3:] if token != EOS)
    words = [[row[2]] for row in usual if row[2] != EOS][:2] + [row[4:6] for row in usual]
    often = sorted({token for row in usual for token in row[1:4]} - {EOS})
    rows: dict[str, dict[str, Any]] = {
        "no_repeat_ngram_size=1": {"no_repeat_ngram_size": 1},
        "no_repeat_ngram_size=2": {"no_repeat_ngram_size": 2},
        "bad_words_ids": {"bad_words_ids": [*words, [EOS]]},
        "min_length": {"min_length": 14},
        "min_new_tokens": {"min_new_tokens": NEW - 2},
        "min_length and min_new_tokens": {"min_length": 20, "min_new_tokens": 6},
        "forced_bos_token_id": {"forced_bos_token_id": second},
        "forced_eos_token_id": {"forced_eos_token_id": EOS},
        "forced_eos_token_id of several": {"forced_eos_token_id": [17, EOS, 9]},
        "suppress_tokens": {"suppress_tokens": often},
        "begin_suppress_tokens": {"begin_suppress_tokens": first},
        "begin_suppress_tokens and forced_bos_token_id": {
            "begin_suppress_tokens": [*first, *often],
            "forced_bos_token_id": second,
        },
    }
    rows["all"] = {
        "repetition_penalty": 1.2,
        "no_repeat_ngram_size": 3,
        "bad_words_ids": words,
        "min_length": 9,
        "forced_bos_token_id": second,
        "forced_eos_token_id": EOS,
        "suppress_tokens": often[:2],
        "begin_suppress_tokens": first,
    }
    return rows[name]


@pytest.fixture(scope="module")
def continue_(causal_lm: DecoderBundle) -> Generator:
    return generator(causal_lm.folder, max_new_tokens=NEW)


@pytest.fixture(scope="module")
def answer(encoder_decoder: DecoderBundle) -> Generator:
    return generator(encoder_decoder.folder, max_new_tokens=NEW)


def prompts_of(vocab_size: int) -> list[list[int]]:
    rng = np.random.default_rng(7)
    return [rng.integers(5, vocab_size, length).tolist() for length in LENGTHS]


def each_alone(bundle: DecoderBundle, prompts: Sequence[list[int]], **options: Any) -> list[list[Generated]]:
    return [reference(bundle, [prompt], max_new_tokens=NEW, **options)[0] for prompt in prompts]


@pytest.mark.parametrize(("name", "mode"), COMPARED, ids=str)
def test_prompts_go_on_as_in_transformers(
    causal_lm: DecoderBundle, continue_: Generator, name: str, mode: dict[str, Any]
) -> None:
    prompts = prompts_of(causal_lm.manifest.vocab_size)
    usual = continue_.tokens(prompts, stop_token_ids=())
    fields = fields_of(name, [row[0].tokens for row in usual])
    theirs = each_alone(causal_lm, prompts, **fields, **mode)
    assert_same_sequences(tokens_of(continue_, prompts, fields, mode), theirs)
    assert theirs != each_alone(causal_lm, prompts, **mode)


@pytest.mark.parametrize(("name", "mode"), COMPARED, ids=str)
def test_texts_are_answered_as_in_transformers(
    encoder_decoder: DecoderBundle, answer: Generator, name: str, mode: dict[str, Any]
) -> None:
    texts = prompts_of(encoder_decoder.manifest.vocab_size)
    usual = answer.tokens(texts, stop_token_ids=())
    fields = fields_of(name, [row[0].tokens for row in usual])
    theirs = reference(encoder_decoder, texts, max_new_tokens=NEW, **fields, **mode)
    assert_same_sequences(tokens_of(answer, texts, fields, mode), theirs)
    assert theirs != reference(encoder_decoder, texts, max_new_tokens=NEW, **mode)


def tokens_of(
    generate: Generator, prompts: Sequence[list[int]], fields: dict[str, Any], mode: dict[str, Any]
) -> list[list[Generated]]:
    """Return what is generated where the bundle sets `fields`, after checking that options do the same."""
    opened = with_defaults(generate, fields)
    found = opened.tokens(prompts, **mode)
    if "min_new_tokens" in fields:
        fields = {name: value for name, value in fields.items() if name != "min_length"}
    assert generate.tokens(prompts, **fields, **mode) == found
    return found


def with_defaults(generate: Generator, defaults: dict[str, Any]) -> Generator:
    """Return the same generator, as if the manifest of its bundle had these defaults."""
    sources = generate._sources
    generation = dataclasses.replace(sources.generation, defaults=defaults)
    return Generator(
        manifest=dataclasses.replace(generate.manifest, generation=generation),
        decoder=generate._decoder,
        sources=dataclasses.replace(sources, generation=generation),
        tokenizer=generate._tokenizer,
        batch_size=8,
        options={"max_new_tokens": NEW},
    )


def test_a_batch_of_prompts_gets_the_tokens_that_each_gets_alone(
    causal_lm: DecoderBundle, continue_: Generator
) -> None:
    prompts = prompts_of(causal_lm.manifest.vocab_size)
    usual = [row[0].tokens for row in continue_.tokens(prompts, stop_token_ids=())]
    for mode in MODES:
        options = fields_of("all", usual) | mode
        alone = [continue_.tokens([prompt], **options)[0] for prompt in prompts]
        assert_same_sequences(continue_.tokens(prompts, **options), alone)


def test_samples_keep_to_the_constraints(causal_lm: DecoderBundle, continue_: Generator) -> None:
    prompts = prompts_of(causal_lm.manifest.vocab_size)
    options: dict[str, Any] = {"no_repeat_ngram_size": 1, "min_new_tokens": 10, "suppress_tokens": list(range(5, 150))}
    for (one,) in continue_.tokens(prompts, do_sample=True, seed=3, top_k=0, temperature=3.0, **options):
        assert len(set(one.tokens)) == len(one.tokens) >= 10
        assert not {*range(5, 150)} & {*one.tokens}


# -- defaults ----------------------------------------------------------------------------------------------------------

TEXTS = ("Ada", "The dog")
SAMPLING: dict[str, Any] = {"do_sample": True, "temperature": 0.7, "top_k": 30, "top_p": 0.9, "min_p": 0.01}
BEAMS: dict[str, Any] = {"num_beams": 4, "length_penalty": 2.0, "early_stopping": True, "num_return_sequences": 2}


@pytest.mark.parametrize(
    ("defaults", "given", "expected"),
    [
        (SAMPLING, {}, SAMPLING),
        (SAMPLING, {"temperature": 0.5}, SAMPLING | {"temperature": 0.5}),
        (SAMPLING, {"do_sample": False}, {}),
        ({"temperature": 0.7, "top_p": 0.9}, {}, {}),
        (
            {"temperature": 0.7, "top_p": 0.9},
            {"do_sample": True},
            {"do_sample": True, "temperature": 0.7, "top_p": 0.9},
        ),
        (BEAMS, {}, BEAMS),
        (BEAMS, {"num_beams": 1, "num_return_sequences": 1}, {}),
        (BEAMS | {"num_return_sequences": 1}, {"do_sample": True, "num_beams": 1}, {"do_sample": True}),
        (SAMPLING, {"do_sample": False, "num_beams": 2}, {"num_beams": 2}),
        ({"min_length": 9}, {"min_new_tokens": 3}, {"min_new_tokens": 3}),
        ({"min_new_tokens": 3}, {"min_new_tokens": None, "min_length": 9}, {"min_length": 9}),
        ({"suppress_tokens": [7], "min_length": 3}, {"suppress_tokens": None}, {"min_length": 3}),
    ],
    ids=str,
)
def test_options_count_before_defaults_and_idle_defaults_are_left_out(
    continue_: Generator, defaults: dict[str, Any], given: dict[str, Any], expected: dict[str, Any]
) -> None:
    generate = with_defaults(continue_, defaults)
    found = generate._options(given)
    assert found == continue_._options(expected)
    assert generate.options == with_defaults(continue_, defaults)._options({})


@pytest.mark.parametrize(
    ("defaults", "given", "facts"),
    [
        (BEAMS, {"do_sample": True}, "do_sample is True and num_beams is 4.* num_beams=1"),
        (SAMPLING, {"num_beams": 3}, "do_sample is True and num_beams is 3.* do_sample=False"),
        (BEAMS, {"num_beams": 1}, "num_return_sequences is 2, num_beams is 1"),
        ({}, {"temperature": 0.5}, r"temperature is 0\.5, which has no effect without do_sample=True"),
        (SAMPLING, {"do_sample": False, "top_k": 3}, "top_k is 3, which has no effect without do_sample=True"),
        ({"min_new_tokens": 3}, {"min_length": 9}, "min_length is 9, which has no effect with min_new_tokens"),
        ({}, {"suppress_tokens": [300_000]}, "suppress_tokens is 300000, .*0 to "),
        ({}, {"forced_bos_token_id": 300_000}, "forced_bos_token_id is 300000, .*0 to "),
        ({}, {"bad_words_ids": [[5], []]}, "bad_words_ids holds an empty list"),
        ({}, {"bad_words_ids": [5]}, "bad_words_ids is 5, expected a list of token ids"),
        ({}, {"forced_eos_token_id": "</s>"}, "forced_eos_token_id is '</s>'"),
    ],
    ids=str,
)
def test_options_that_do_not_go_together_with_defaults_are_refused(
    continue_: Generator, defaults: dict[str, Any], given: dict[str, Any], facts: str
) -> None:
    generate = with_defaults(continue_, defaults)
    with pytest.raises(InputError, match=facts):
        generate.tokens([[5, 6]], **given)


def test_options_that_exclude_every_token_are_refused(causal_lm: DecoderBundle, continue_: Generator) -> None:
    everything = list(range(causal_lm.manifest.vocab_size))
    modes: list[dict[str, Any]] = [{}, {"do_sample": True}, {"num_beams": 2}]
    for options in modes:
        with pytest.raises(InputError, match=r"exclude every token.* suppress_tokens"):
            continue_.tokens([[5]], suppress_tokens=everything, **options)


def test_a_generator_opened_with_options_keeps_them_before_the_defaults(
    causal_lm: DecoderBundle, tmp_path: Path
) -> None:
    assert causal_lm.manifest.generation is not None
    generation = dataclasses.replace(causal_lm.manifest.generation, defaults=BEAMS)
    folder = copy_decoder(causal_lm, tmp_path, generation=generation).folder
    generate = generator(folder, num_beams=3)
    assert (generate.options.num_beams, generate.options.length_penalty) == (3, 2.0)
    assert generate._options({"num_beams": 2}).num_beams == 2
    assert generate._options({}).num_beams == 3


def texts_of(step: GeneratorStep, options: dict[str, Any]) -> list[list[str]]:
    """Return what a model of Triton sends for each of TEXTS, a text for each sequence."""
    found: dict[tuple[int, int], str] = {}

    def send(prompt: int, sequence: int, piece: str) -> None:
        found[prompt, sequence] = found.get((prompt, sequence), "") + piece

    step(TEXTS, options, send)
    return [[text for (prompt, _), text in sorted(found.items()) if prompt == place] for place in range(len(TEXTS))]


def test_a_server_answers_with_the_defaults_and_takes_the_options_of_requests(
    causal_lm: DecoderBundle, tmp_path: Path
) -> None:
    assert causal_lm.manifest.generation is not None
    generation = dataclasses.replace(causal_lm.manifest.generation, defaults=BEAMS, max_new_tokens=5)
    folder = copy_decoder(causal_lm, tmp_path, generation=generation).folder
    plan = make_plan(
        folder,
        name=None,
        batch_size=None,
        buckets=None,
        max_text_bytes=None,
        options={"length_penalty": 0.5},
        engine=None,
    )
    shutil.copytree(folder, tmp_path / "1" / BUNDLE)
    parameters = {"provider": "cpu", "batch_size": "8", "options": json.dumps(plan.options)}
    step = GeneratorStep(tmp_path / "1", {**parameters, VERSION_PARAMETER: __version__})
    generate = generator(folder, return_full_text=False, **plan.options)
    requests: list[dict[str, Any]] = [{}, {"num_beams": 1, "num_return_sequences": 1, "length_penalty": 1.0}]
    for options in requests:
        answers = generate(TEXTS, **options)
        assert texts_of(step, options) == [[answer["generated_text"] for answer in row] for row in answers]
    with pytest.raises(InputError, match=r"num_beams is 4.* num_beams=1"):
        step(["Ada"], {"do_sample": True}, lambda *_: None)


@pytest.mark.parametrize(
    ("defaults", "facts"),
    [
        ({"temperature": -1.0}, r"temperature is -1\.0"),  # it has no effect yet
        ({"num_beams": 0}, "num_beams is 0"),
        ({"do_sample": True, "num_beams": 3}, "do_sample is True and num_beams is 3"),
        ({"num_return_sequences": 3}, "num_return_sequences is 3"),
        ({"suppress_tokens": [300_000]}, "suppress_tokens is 300000"),
        ({"unknown": 1}, "unknown option 'unknown'"),
        ({"top_k": 2**40}, "defaults is .*expected integers from"),
        ([], r"generation\.defaults is \[\]"),
    ],
    ids=str,
)
def test_defaults_that_cannot_be_are_refused_when_the_bundle_opens(
    causal_lm: DecoderBundle, tmp_path: Path, defaults: Any, facts: str
) -> None:
    assert causal_lm.manifest.generation is not None
    generation = dataclasses.replace(causal_lm.manifest.generation, defaults=defaults)
    folder = Path(shutil.copytree(causal_lm.folder, tmp_path / "bundle"))
    write_manifest(folder, dataclasses.replace(causal_lm.manifest, generation=generation))
    with pytest.raises(ManifestError, match=facts):
        generator(folder)
