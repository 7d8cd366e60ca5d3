"""The residual stream in a graph, found by its readers: in a pre-LayerNorm network only LayerNorms read it."""

from typing import Final

import onnx_ir as ir

from rpln_graphs.rewriting.values import operand

ELSEWHERE: Final = frozenset({"embeddings.LayerNorm", "lm_head.layer_norm"})
"""The modules of LayerNorms that read something else."""


def residual_norms(model: ir.Model) -> dict[str, ir.Node]:
    """Return the LayerNormalization nodes that read the residual stream, in order, by the path of their module.

    The path is read from the name of the node's scale.
    """
    nodes = [node for node in model.graph if node.op_type == "LayerNormalization"]
    norms = {(operand(node, 1).name or "").removesuffix(".weight"): node for node in nodes}
    return {module: node for module, node in norms.items() if module not in ELSEWHERE}
