"""Bundles of every task, each made once a run."""

import functools
import warnings
from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import settings

from rpln_runtime.tasks import TASKS
from tests.runtime.bundles import Bundle, copy_with_prefix_space, make_bundle, make_tokenizer
from tests.runtime.decoders import (
    DecoderBundle,
    cross_plan,
    decoder_plan,
    encoder_plan,
    make_causal_lm,
    make_decoder_bundle,
    make_encoder_decoder,
)

# A shared machine may be slow for a moment, so examples have no deadline.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def bundle_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Bundle]:
    @functools.cache
    def bundle_of(task: str, *, add_prefix_space: bool = False, labels: tuple[str, ...] | None = None) -> Bundle:
        folder = tmp_path_factory.mktemp(task)
        if add_prefix_space:
            return copy_with_prefix_space(bundle_of(task), folder)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's exporter warns of its own internals
            return make_bundle(folder, TASKS[task], labels=labels)

    return bundle_of


@pytest.fixture(scope="session")
def causal_lm(tmp_path_factory: pytest.TempPathFactory) -> DecoderBundle:
    """Return a decoder in one graph with a cache."""
    folder = tmp_path_factory.mktemp("causal-lm")
    tokenizer = make_tokenizer(folder)
    model = make_causal_lm(len(tokenizer))
    return make_decoder_bundle(folder, model, tokenizer, [decoder_plan(model, "with-past")])


@pytest.fixture(scope="session")
def every_variant(causal_lm: DecoderBundle, tmp_path_factory: pytest.TempPathFactory) -> DecoderBundle:
    """Return the same decoder in all its variants. Tests copy it with the variants that they are about."""
    folder = tmp_path_factory.mktemp("every-variant")
    make_tokenizer(folder)
    plans = [decoder_plan(causal_lm.model, variant) for variant in ("with-past", "prefill", "decode", "full")]
    return make_decoder_bundle(folder, causal_lm.model, causal_lm.tokenizer, plans)


@pytest.fixture(scope="session")
def other_lm(tmp_path_factory: pytest.TempPathFactory) -> DecoderBundle:
    """Return a decoder whose graphs give all logits, keep an fp16 cache, and take token types and positions."""
    folder = tmp_path_factory.mktemp("other-lm")
    tokenizer = make_tokenizer(folder)
    model = make_causal_lm(len(tokenizer), type_vocab_size=2)
    plans = [
        decoder_plan(model, "with-past", logits="all", dtype="float16"),
        decoder_plan(model, "full", logits="all", positions=True),
    ]
    return make_decoder_bundle(folder, model, tokenizer, plans)


@pytest.fixture(scope="session")
def encoder_decoder(tmp_path_factory: pytest.TempPathFactory) -> DecoderBundle:
    """Return an encoder and a decoder, with a cache and without, and the graph for another encoder's states."""
    folder = tmp_path_factory.mktemp("encoder-decoder")
    tokenizer = make_tokenizer(folder)
    model = make_encoder_decoder(len(tokenizer))
    plans = [decoder_plan(model, "with-past"), decoder_plan(model, "full"), encoder_plan(model), cross_plan(model)]
    return make_decoder_bundle(folder, model, tokenizer, plans)
