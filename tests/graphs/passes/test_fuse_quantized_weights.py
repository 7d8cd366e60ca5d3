"""MatMul(x, DequantizeLinear(W)) with W in blocks -> MatMulNBits(x, W): bytes lie as the operator reads them."""

import numpy as np
import pytest

from rpln_graphs.passes.fuse_quantized_weights import DOMAIN, FuseQuantizedWeights
from rpln_graphs.passes.quantize_weights import QuantizeWeights, QuantizeWeightsTo4, QuantizeWeightsTo8
from rpln_graphs.rewriting.base import Context
from tests.graphs.passes.test_quantize_weights import QUERY, graph
from tests.graphs.quantized import quantized
from tests.graphs.text_graphs import node_named, values_of

COLUMN = np.array([-128.0] + [0.0] * 13 + [64.0, 1.0] + [0.0] * 16, dtype=np.float32)[:, None]
"""One column of two blocks, the first of which has its scale at 1 in 8 bits."""


def test_values_of_8_bits_are_shifted_block_by_block() -> None:
    after = quantized(graph(weight=np.repeat(COLUMN, 3, axis=1)), Context(), QuantizeWeightsTo8, FuseQuantizedWeights)
    blocks = values_of(after.graph.initializers[f"{QUERY}.blocks"])

    assert blocks.dtype == np.uint8
    assert blocks.shape == (3, 1, 32)  # 32 rows are one block
    assert blocks[0, 0].tolist() == [0, *[128] * 13, 192, 129, *[128] * 16]
    node = node_named(after, "queries")
    assert (node.domain, node.op_type) == (DOMAIN, "MatMulNBits")
    assert after.opset_imports[DOMAIN] == 1
    assert [node.attributes.get_int(name, 0) for name in ("K", "N", "bits", "block_size")] == [32, 3, 8, 32]


def test_two_values_of_4_bits_share_a_byte_the_first_in_its_low_half() -> None:
    weight = np.repeat(np.arange(-7.0, 9.0, dtype=np.float32).clip(-7, 7)[:, None], 3, axis=1)
    after = quantized(graph(weight=weight), Context(), QuantizeWeightsTo4, FuseQuantizedWeights)
    blocks = values_of(after.graph.initializers[f"{QUERY}.blocks"])

    pairs = [(low + 8) | (high + 8) << 4 for low, high in zip(range(-7, 9, 2), range(-6, 9, 2), strict=True)]
    pairs[-1] = 15 | 15 << 4  # 7 and 7
    assert blocks.shape == (3, 1, 8)
    assert blocks[0, 0].tolist() == pairs


@pytest.mark.parametrize("kind", [QuantizeWeightsTo8, QuantizeWeightsTo4])
def test_nothing_of_the_standard_form_is_left(kind: type[QuantizeWeights]) -> None:
    after = quantized(graph(), Context(), kind, FuseQuantizedWeights)

    assert {name.rpartition(".")[2] for name in after.graph.initializers} == {"blocks", "scales"}
