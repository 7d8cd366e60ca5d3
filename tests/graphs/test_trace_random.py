"""Traces of random networks give what eager torch gives."""

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from rpln_runtime.tasks import TASKS
from tests.graphs.networks import trace_task
from tests.graphs.text_graphs import runner
from tests.trace_cache import traced_anew

TOLERANCE = 1e-4
SECONDS_EACH = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)


@st.composite
def networks(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a task, one of its graphs, and fields of a config."""
    heads = draw(st.sampled_from([1, 2, 3, 4]))
    task = TASKS[draw(st.sampled_from(list(TASKS)))]
    return {
        "name": task.name,
        "variant": draw(st.sampled_from((*task.variants, *task.encoders[:1]))),
        "seed": draw(st.integers(0, 99)),
        "num_hidden_layers": draw(st.integers(1, 3)),
        "num_attention_heads": heads,
        "hidden_size": heads * draw(st.sampled_from([4, 6, 10, 16])),
        "intermediate_size": draw(st.sampled_from([1, 20, 50])),
        "hidden_act": draw(st.sampled_from(["gelu", "relu", "silu", "gelu_new"])),
        "position_embedding_type": draw(st.sampled_from(["absolute", "relative_key", "relative_key_query"])),
        "type_vocab_size": draw(st.integers(1, 3)),
        "layer_norm_eps": draw(st.sampled_from([1e-12, 1e-5, 1e-2])),
        "tie_word_embeddings": draw(st.booleans()),
        "pad_token_id": draw(st.sampled_from([0, 1, 3])),
    }


def check(fields: dict[str, Any]) -> None:
    with traced_anew():
        network = trace_task(**fields)
    compute = runner(network.graph)
    for case in network.stress_cases():
        expected, found = network.eager(case.feeds), compute(case.feeds)
        for name, array in expected.items():
            largest = max(1.0, float(np.abs(array).max()))
            assert_allclose(found[name], array, rtol=0, atol=TOLERANCE * largest, err_msg=f"{name}, {case.name}")


@pytest.mark.full
@settings(SECONDS_EACH, max_examples=6, derandomize=True)
@given(networks())
def test_a_few_networks(fields: dict[str, Any]) -> None:
    check(fields)


@pytest.mark.fuzz
@settings(SECONDS_EACH, max_examples=10)
@given(networks())
def test_many_networks(fields: dict[str, Any]) -> None:
    check(fields)
