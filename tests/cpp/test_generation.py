"""The C++ runtime generates what Python's does: the same greedy tokens, and samples of the same distribution."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rpln_runtime import InputError, ManifestError, generator
from rpln_runtime.generation.logits import softmax, warp
from rpln_runtime.generation.options import GenerationOptions
from rpln_runtime.generation.positions import positions_from_scheme
from tests.cpp.building import Build
from tests.cpp.messages import assert_says_the_same, words_of
from tests.runtime.bundles import make_tokenizer
from tests.runtime.decoders import (
    decoder_plan,
    encoder_plan,
    make_causal_lm,
    make_decoder_bundle,
    make_encoder_decoder,
)

Demo = Callable[..., Path]

PROMPTS = ["The old man", "", "It was in the year of the great naïve 東京", "He said that", "a b c d e f g h"]


def ask(build: Build, folder: Path, inputs: Any, **options: Any) -> Any:
    request = {"inputs": inputs, "options": options}
    (answer,) = build.ask("answer", folder, [request], provider="cpu", threads=1)
    return answer


QUANTIZED = [
    ("text-generation", {"precision": "int8-weight-only", "optimize": "weights-8"}),
    ("text-generation", {"precision": "int4", "optimize": "weights-4-fused", "quantize_embeddings": True}),
    ("text2text-generation", {"precision": "int4", "optimize": "weights-4"}),
]
"""Tasks, and the choices of their exports."""


@pytest.fixture(scope="session")
def tiny_decoders(built: Build, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return bundles of one model, one for each kind of graph."""
    folders = {}
    model = None
    for kind, variants in (("with-past", ["with-past"]), ("two", ["prefill", "decode"]), ("full", ["full"])):
        folder = tmp_path_factory.mktemp(kind)
        tokenizer = make_tokenizer(folder)
        model = model or make_causal_lm(len(tokenizer))
        make_decoder_bundle(folder, model, tokenizer, [decoder_plan(model, variant) for variant in variants])
        folders[kind] = folder
    folder = tmp_path_factory.mktemp("halves")
    tokenizer = make_tokenizer(folder)
    plan = decoder_plan(model, "with-past", logits="all", dtype="float16")
    make_decoder_bundle(folder, model, tokenizer, [plan])
    return folders | {"halves": folder}


@pytest.mark.parametrize("kind", ["with-past", "two", "full", "halves"])
def test_greedy_texts_of_every_kind_of_graphs_equal_those_of_python(
    built: Build, tiny_decoders: dict[str, Path], kind: str
) -> None:
    folder = tiny_decoders[kind]
    generate = generator(folder, provider="cpu", threads=1, max_new_tokens=12)
    assert ask(built, folder, PROMPTS, max_new_tokens=12) == generate(PROMPTS)
    plain: dict[str, Any] = {"stop_token_ids": [], "return_full_text": False, "repetition_penalty": 1.7}
    assert ask(built, folder, PROMPTS, max_new_tokens=20, **plain) == generate(PROMPTS, max_new_tokens=20, **plain)
    assert ask(built, folder, PROMPTS[0], max_new_tokens=3) == generate(PROMPTS[0], max_new_tokens=3)


def test_greedy_texts_of_the_embedded_model_equal_those_of_python(built: Build, demo: Demo) -> None:
    folder = demo("text-generation")
    generate = generator(folder, provider="cpu", threads=1)
    several: list[dict[str, Any]] = [
        {"max_new_tokens": 40, "stop_token_ids": []},
        {"max_new_tokens": 30, "stop_strings": [" the", "."]},
        {"max_new_tokens": 15, "positions": "transformers-generate"},
        {},
    ]
    for options in several:
        assert ask(built, folder, PROMPTS, **options) == generate(PROMPTS, **options)


@pytest.mark.parametrize(("task", "choices"), QUANTIZED)
def test_texts_of_quantized_decoders_equal_those_of_python(
    built: Build, demo: Demo, task: str, choices: dict[str, Any]
) -> None:
    folder = demo(task, **choices)
    generate = generator(folder, provider="cpu", threads=1, max_new_tokens=16)

    assert ask(built, folder, PROMPTS, max_new_tokens=16) == generate(PROMPTS)


def test_texts_of_the_embedded_encoder_decoder_equal_those_of_python(built: Build, demo: Demo) -> None:
    folder = demo("text2text-generation", optimize="none")
    texts = ["the old man walked to the boat .", "mr. berry lives in atlanta", ""]
    assert ask(built, folder, texts) == generator(folder, provider="cpu", threads=1)(texts)


def test_texts_of_an_encoder_decoder_equal_those_of_python(built: Build, tmp_path: Path) -> None:
    for variant in ("with-past", "full"):
        folder = tmp_path / variant
        folder.mkdir()
        tokenizer = make_tokenizer(folder)
        model = make_encoder_decoder(len(tokenizer))
        make_decoder_bundle(folder, model, tokenizer, [decoder_plan(model, variant), encoder_plan(model)])
        generate = generator(folder, provider="cpu", threads=1, max_new_tokens=10, stop_token_ids=[])
        assert ask(built, folder, PROMPTS, max_new_tokens=10, stop_token_ids=[]) == generate(PROMPTS)


def test_samples_follow_the_distribution_of_python(built: Build, tiny_decoders: dict[str, Path]) -> None:
    folder = tiny_decoders["with-past"]
    options: dict[str, Any] = {"temperature": 0.8, "top_k": 12, "top_p": 0.9, "min_p": 0.02}
    generate = generator(folder, provider="cpu", threads=1)
    ids_RS = np.array([generate._tokens_from_text(PROMPTS[0])])
    positions = positions_from_scheme("forward", generate._sources.generation)
    logits_RV = generate._decoder.begin(np.ones_like(ids_RS), positions=positions, cross=None).start(ids_RS)
    (probabilities,) = softmax(warp(logits_RV, GenerationOptions(do_sample=True, **options)))
    count = 4_000
    answers = ask(
        built,
        folder,
        PROMPTS[0],
        do_sample=True,
        seed=5,
        num_return_sequences=count,
        max_new_tokens=1,
        return_full_text=False,
        **options,
    )
    found = Counter(answer["generated_text"] for answer in answers)
    expected: Counter[str] = Counter()
    for token, probability in enumerate(probabilities.tolist()):
        if probability:
            expected[generate._text_from_tokens([token])] += probability
    assert found.keys() <= expected.keys()
    for text, probability in expected.items():
        # The tolerance is 4.5 standard deviations of a share of this many draws.
        assert abs(found[text] / count - probability) < 4.5 * (probability * (1 - probability) / count) ** 0.5 + 1e-3


def test_a_seed_repeats_samples_in_any_batch(built: Build, demo: Demo) -> None:
    folder = demo("text-generation")
    options: dict[str, Any] = {"do_sample": True, "max_new_tokens": 12, "stop_token_ids": []}
    alone = [ask(built, folder, prompt, seed=7, **options) for prompt in PROMPTS]
    assert ask(built, folder, PROMPTS, seed=7, **options) == alone
    assert ask(built, folder, PROMPTS, seed=8, **options) != alone
    several = ask(built, folder, PROMPTS[0], seed=7, num_return_sequences=3, **options)
    assert several[0] == alone[0][0]
    assert len({answer["generated_text"] for answer in several}) == 3
    assert ask(built, folder, PROMPTS[0], **options) != ask(built, folder, PROMPTS[0], **options)


@pytest.mark.parametrize(
    ("inputs", "options"),
    [
        ("a", {"unknown": 1}),
        ("a", {"temperature": 0.5}),
        ("a", {"seed": 3}),
        ("a", {"do_sample": "yes"}),
        ("a", {"do_sample": True, "temperature": 0}),
        ("a", {"do_sample": True, "top_p": 1.5}),
        ("a", {"max_new_tokens": 0}),
        ("a", {"max_new_tokens": 100_000}),
        ("a " * 900, {}),
        ("a", {"num_return_sequences": 2}),
        ("a", {"length_penalty": 2.0}),
        ("a", {"stop_strings": [""]}),
        ("a", {"stop_token_ids": [-1]}),
        ("a", {"stop_token_ids": 5}),
        ("a", {"positions": "backward"}),
        ("a", {"min_new_tokens": 3, "min_length": 5}),
        ("a", {"no_repeat_ngram_size": -1}),
        ("a", {"min_new_tokens": 2**63}),
        ("a", {"bad_words_ids": [[5], []]}),
        ("a", {"bad_words_ids": [5]}),
        ("a", {"suppress_tokens": [1_000_000]}),
        ("a", {"suppress_tokens": list(range(4_096))}),
        ("a", {"forced_bos_token_id": "<s>"}),
        ("a", {"forced_eos_token_id": [-1]}),
        ("a", {"do_sample": True, "num_beams": 2}),
        ("a" * 20_000, {}),
    ],
)
def test_bad_prompts_and_options_are_refused(built: Build, demo: Demo, inputs: str, options: dict[str, Any]) -> None:
    folder = demo("text-generation")
    with pytest.raises(InputError) as refused:
        generator(folder, provider="cpu")(inputs, **options)
    answer = ask(built, folder, inputs, **options)
    assert answer["code"] == InputError.exit_code
    assert_says_the_same(answer["error"], str(refused.value))


def test_integers_that_64_bits_do_not_hold_are_refused(built: Build, demo: Demo) -> None:
    answer = ask(built, demo("text-generation"), "a", min_new_tokens=10**20)
    assert answer["code"] == InputError.exit_code
    assert {"min_new_tokens", str(2**63 - 1)} <= words_of(answer["error"])


def fields_of_config(often: list[int]) -> list[dict[str, Any]]:
    """Return fields of generation_config.json, which are options of a generation, too.

    They keep a generator from choosing the tokens that it chooses `often` near the beginning.
    """
    return [
        {"no_repeat_ngram_size": 1},
        {"no_repeat_ngram_size": 2, "repetition_penalty": 1.4},
        {"bad_words_ids": [[often[0]], often[1:3], [2], [0, often[1]], *([token] for token in often[3:])]},
        {"min_length": 22},
        {"min_new_tokens": 20, "forced_eos_token_id": [2, 9]},
        {"forced_bos_token_id": 30, "begin_suppress_tokens": often},
        {"begin_suppress_tokens": list(range(3, 2_000)), "forced_eos_token_id": 2},
        {"suppress_tokens": often, "min_length": 9, "no_repeat_ngram_size": 3},
    ]


@pytest.mark.parametrize("task", ["text-generation", "text2text-generation"])
def test_constraints_choose_the_tokens_of_python_as_options_and_as_defaults(
    built: Build, demo: Demo, tmp_path: Path, task: str
) -> None:
    folder = demo(task, **({"optimize": "none"} if task == "text2text-generation" else {}))
    generate = generator(folder, provider="cpu", threads=1)
    rows = generate.tokens([generate._tokens_from_text(text) for text in PROMPTS], max_new_tokens=24)
    often = sorted({token for (row,) in rows for token in row.tokens[1:4]} - {2})
    usual_options: dict[str, Any] = {"max_new_tokens": 24, "stop_token_ids": [2, *often[-2:]]}
    usual = generate(PROMPTS, **usual_options)
    for place, fields in enumerate(fields_of_config(often)):
        expected = generate(PROMPTS, **usual_options, **fields)
        assert ask(built, folder, PROMPTS, **usual_options, **fields) == expected
        changed = with_defaults(folder, tmp_path / str(place), fields)
        assert ask(built, changed, PROMPTS, **usual_options) == expected
        assert generator(changed, provider="cpu", threads=1)(PROMPTS, **usual_options) == expected
        assert expected != usual, fields
    idle = with_defaults(folder, tmp_path / "idle", {"temperature": 0.5, "length_penalty": 2.0})
    assert ask(built, idle, PROMPTS, **usual_options) == usual


def with_defaults(folder: Path, copy: Path, defaults: dict[str, Any]) -> Path:
    """Return a copy of a bundle whose manifest sets these options."""
    shutil.copytree(folder, copy)
    document = json.loads((copy / "rpln.json").read_text(encoding="utf-8"))
    document["generation"]["defaults"] = defaults
    (copy / "rpln.json").write_text(json.dumps(document), encoding="utf-8")
    return copy


def test_beams_that_the_checkpoint_sets_are_refused_with_the_way_to_go_on(
    built: Build, demo: Demo, tmp_path: Path
) -> None:
    folder = with_defaults(demo("text-generation"), tmp_path / "beams", {"num_beams": 4, "no_repeat_ngram_size": 2})
    (refused,) = built.ask("answer", folder, [{"inputs": "a", "options": {}}], provider="cpu", threads=1)
    assert refused["code"] == InputError.exit_code
    assert {"num_beams", "4", "checkpoint"} <= words_of(refused["error"])
    assert "num_beams=1" in refused["error"]
    request = {"inputs": PROMPTS, "options": {}}
    (answers,) = built.ask("answer", folder, [request], provider="cpu", threads=1, num_beams=1)
    assert answers == generator(folder, provider="cpu", threads=1, num_beams=1)(PROMPTS)


@pytest.mark.parametrize(
    "defaults",
    [
        {"unknown": 1},
        {"temperature": -1.0},
        {"num_return_sequences": 3},
        {"suppress_tokens": [1_000_000]},
        {"do_sample": True, "num_beams": 2},
        {"top_k": 2**40},
        [],
    ],
    ids=str,
)
def test_defaults_that_cannot_be_are_refused_when_the_bundle_opens(
    built: Build, demo: Demo, tmp_path: Path, defaults: Any
) -> None:
    folder = with_defaults(demo("text-generation"), tmp_path / "bundle", defaults)
    with pytest.raises(ManifestError) as refused:
        generator(folder, provider="cpu")
    answer = ask(built, folder, "a")
    assert answer["code"] == ManifestError.exit_code
    assert_says_the_same(answer["error"], str(refused.value))


def test_beam_search_is_refused(built: Build, demo: Demo) -> None:
    answer = ask(built, demo("text-generation"), "a", num_beams=4)
    assert answer["code"] == InputError.exit_code
    assert {"num_beams", "4"} <= words_of(answer["error"])


def test_pieces_of_text_joined_are_the_text(built: Build, demo: Demo) -> None:
    folder = demo("text-generation")
    request = {"inputs": PROMPTS, "options": {"max_new_tokens": 25, "stop_token_ids": [], "return_full_text": False}}
    ((texts, pieces),) = built.ask("stream", folder, [request], threads=1)
    assert ["".join(parts) for parts in pieces] == [text for (text,) in texts]
    assert all(len(parts) > 10 for parts in pieces)
