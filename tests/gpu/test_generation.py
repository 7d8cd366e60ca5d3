"""Decoders on a GPU generate in fp32 the tokens of the CPU, and logits within the tolerance of their type."""

from typing import Any

import numpy as np
import pytest

from rpln_export.plan.quantization import WEIGHT_ONLY
from rpln_graphs.recipes import RECIPES
from rpln_runtime import Generator, generator, load
from rpln_runtime.session import Session
from tests.gpu.conftest import ROUNDED, Exporting, accepted_difference, require_provider, require_recipe

pytestmark = pytest.mark.gpu

PROVIDERS = ["tensorrt", "tensorrt-rtx", "cuda"]
TASKS = ["text-generation", "text2text-generation"]
TEXTS = ["The old man", "She said that the crew", "It"]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"num_beams": 2, "num_return_sequences": 2},
    {"do_sample": True, "seed": 3, "num_return_sequences": 2},
]


def opened(exported: Exporting, task: str, recipe: str, provider: str) -> Generator:
    return generator(exported(task, recipe, provider), provider=provider, max_new_tokens=24)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("task", TASKS)
def test_tokens_in_fp32_are_those_of_the_cpu(
    exported: Exporting, task: str, provider: str, options: dict[str, Any]
) -> None:
    require_provider(provider)
    expected = opened(exported, task, "fp32", "cpu")(TEXTS, **options)
    assert opened(exported, task, "fp32", provider)(TEXTS, **options) == expected


@pytest.mark.parametrize("recipe", ["fp16", "bf16"])
@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("task", TASKS)
def test_lower_types_generate(exported: Exporting, task: str, provider: str, recipe: str) -> None:
    """The cache stays on the device from step to step, in the lower type. The texts begin as in fp32."""
    require_provider(provider)
    expected = opened(exported, task, "fp32", "cpu")(TEXTS, max_new_tokens=2)
    assert opened(exported, task, recipe, provider)(TEXTS, max_new_tokens=2) == expected
    long = opened(exported, task, recipe, provider)(TEXTS, num_beams=2)
    assert all(answer[0]["generated_text"] for answer in long)


@pytest.mark.parametrize("recipe", [name for name, row in RECIPES.items() if not row.quantizes])
@pytest.mark.parametrize("provider", PROVIDERS)
def test_logits_of_a_prompt_are_within_the_tolerance(exported: Exporting, provider: str, recipe: str) -> None:
    require_provider(provider)
    reference = load(exported("text-generation", "fp32", "cpu"), provider="cpu", variant="prefill")
    session = load(exported("text-generation", recipe, provider), provider=provider, variant="prefill")
    expected, found = (logits_of_prompts(one) for one in (reference, session))
    assert np.abs(expected - found).max() <= accepted_difference(recipe, expected)


@pytest.mark.parametrize("recipe", [name for name in WEIGHT_ONLY if RECIPES[name].lowers])
@pytest.mark.parametrize("provider", ["tensorrt", "tensorrt-rtx"])
def test_an_engine_with_weights_of_few_bits_gives_what_its_graph_gives_on_the_cpu(
    exported: Exporting, provider: str, recipe: str
) -> None:
    require_recipe(provider, recipe)
    folder = exported("text-generation", recipe, provider)
    expected, found = (logits_of_prompts(load(folder, provider=name, variant="prefill")) for name in ("cpu", provider))
    assert np.abs(expected - found).max() <= ROUNDED * np.abs(expected).max()
    texts = generator(folder, provider=provider, max_new_tokens=8)(TEXTS)
    assert all(answer[0]["generated_text"] for answer in texts)


def logits_of_prompts(session: Session) -> np.ndarray:
    """Return the logits that a graph for prompts gives for three of them."""
    ids = np.random.default_rng(0).integers(5, session.manifest.vocab_size, (3, 17))
    feeds = {
        "input_ids": ids,
        "attention_mask": np.ones_like(ids),
        "position_ids": np.arange(17)[None].repeat(3, 0) + 2,
    }
    taken = {spec.name: feeds[spec.name] for spec in session.graph.inputs}
    return session.run(taken, outputs=["logits"])["logits"].astype(np.float32)
