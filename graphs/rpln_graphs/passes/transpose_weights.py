"""MatMul(x, Transpose(weight)) -> MatMul(x, weight.T): a Linear's weight is stored the way ONNX multiplies by it.

Rules:
1. Only a 2-D initializer under a Transpose of permutation (1, 0) is turned; its data is turned when it is saved.
2. An initializer with other readers (a tied embedding) stays as it is, and so does its Transpose: weights are stored
   once, and every runtime folds the Transpose of a constant when it loads the graph.
"""

import onnx_ir as ir

from rpln_graphs.rewriting.base import CountingPass
from rpln_graphs.rewriting.initializers import transposed_initializer


class TransposeWeights(CountingPass):
    """Counts the weights turned."""

    def rewrite(self, model: ir.Model) -> int:
        turned = 0
        for node in list(model.graph):
            if not _turns_a_matrix(node):
                continue
            weight = node.inputs[0]
            assert weight is not None and weight.name is not None
            if not weight.is_initializer() or len(weight.uses()) != 1:
                continue  # rule 2
            transposed = transposed_initializer(weight, name=f"{weight.name}.T")
            model.graph.register_initializer(transposed)
            ir.convenience.replace_all_uses_with(node.outputs[0], transposed)
            model.graph.remove(node, safe=True)
            del model.graph.initializers[weight.name]
            turned += 1
        return turned


def _turns_a_matrix(node: ir.Node) -> bool:
    return node.op_type == "Transpose" and tuple(node.attributes["perm"].as_ints()) == (1, 0)
