"""Random networks that are traced and then folded, merged or fused give what eager torch gives."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rpln_graphs.passes.fold_norm_affine import FoldNormAffine
from rpln_graphs.passes.fold_query_scale import FoldQueryScale
from rpln_graphs.passes.fold_token_types import FoldTokenTypes
from rpln_graphs.passes.fuse_attention import FuseAttention
from rpln_graphs.passes.merge_projections import MergeProjections
from rpln_runtime.tasks import TASKS
from tests.graphs.folded import apply, distance
from tests.graphs.networks import copied, trace_task

SECONDS_EACH = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
TOLERANCE = 1e-4


@st.composite
def networks(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a task, one of its graphs, inputs and outputs, and fields of a config."""
    heads = draw(st.sampled_from([1, 2, 3]))
    task = TASKS[draw(st.sampled_from(list(TASKS)))]
    embedded = draw(st.booleans()) and any(tensor.name == "inputs_embeds" for tensor in task.optional_inputs)
    offered = {tensor.name for tensor in task.optional_outputs} & {"hidden_states", "attentions"}
    return {
        "name": task.name,
        "variant": draw(st.sampled_from(task.variants)),
        "inputs": (
            "inputs_embeds" if embedded else "input_ids",
            *draw(st.sampled_from([(), ("attention_mask",), ("attention_mask", "token_type_ids")])),
        ),
        "outputs": draw(st.sampled_from([(), tuple(sorted(offered))])),
        "opset": draw(st.integers(18, 23)),
        "seed": draw(st.integers(0, 99)),
        "num_hidden_layers": draw(st.integers(1, 3)),
        "num_attention_heads": heads,
        "hidden_size": heads * draw(st.sampled_from([4, 6, 16])),
        "intermediate_size": draw(st.sampled_from([1, 20])),
        "hidden_act": draw(st.sampled_from(["gelu", "relu", "gelu_new"])),
        "position_embedding_type": draw(st.sampled_from(["absolute", "relative_key", "relative_key_query"])),
        "type_vocab_size": draw(st.integers(1, 2)),
        "tie_word_embeddings": draw(st.booleans()),
    }


def check(fields: dict[str, Any]) -> None:
    """Check the counts against formulas, and the outputs against eager torch.

    With L layers there are L attentions and 2 L LayerNorms; with cross-attention 2 L and 3 L.
    """
    network = trace_task(**fields)
    layers, crossed = fields["num_hidden_layers"], network.config.add_cross_attention
    absolute = fields["position_embedding_type"] == "absolute"
    attentions = layers * (absolute + crossed)
    folded = copied(network.graph)

    assert apply(folded, FoldTokenTypes, FoldQueryScale, FoldNormAffine) == {
        "FoldTokenTypes": int(absolute and "token_type_ids" not in fields["inputs"]),
        "FoldQueryScale": attentions,
        "FoldNormAffine": layers * (2 + crossed),
    }
    assert distance(network, folded) < TOLERANCE

    merged, fused = copied(folded), copied(folded)
    assert apply(merged, MergeProjections) == {"MergeProjections": layers}
    assert distance(network, merged) < TOLERANCE

    hidden = layers * absolute if "attentions" in fields["outputs"] else 0
    assert apply(fused, FuseAttention) == {"FuseAttention": attentions - hidden}
    assert distance(network, fused) < TOLERANCE


@pytest.mark.full
@settings(SECONDS_EACH, max_examples=4, derandomize=True)
@given(networks())
def test_a_few_networks(fields: dict[str, Any]) -> None:
    check(fields)


@pytest.mark.fuzz
@settings(SECONDS_EACH, max_examples=10)
@given(networks())
def test_many_networks(fields: dict[str, Any]) -> None:
    check(fields)
