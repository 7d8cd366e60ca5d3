"""MatMul(x, Transpose(weight)) -> MatMul(x, weight.T): a Linear's weight is stored the way ONNX multiplies by it.

Rules:
1. Only an initializer of two axes under a Transpose with permutation (1, 0) is transposed; its data are transposed when
   they are saved.
2. An initializer with other readers (a tied embedding) stays as it is, and so does its Transpose: weights are stored
   once, and every runtime folds the Transpose of a constant when it loads the graph.
"""

import onnx_ir as ir

from rpln_graphs.rewriting.base import CountingPass
from rpln_graphs.rewriting.initializers import transposed_initializer
from rpln_graphs.rewriting.values import operand, permutation


class TransposeWeights(CountingPass):
    """A pass that stores weights transposed. It counts the weights that it transposed."""

    def rewrite(self, model: ir.Model) -> int:
        count = 0
        for node in list(model.graph):
            if node.op_type != "Transpose" or permutation(node) != (1, 0):
                continue  # rule 1
            weight = operand(node, 0)
            if not weight.is_initializer() or len(weight.uses()) != 1:
                continue  # rule 2
            transposed = transposed_initializer(weight, name=f"{weight.name}.T")
            model.graph.register_initializer(transposed)
            ir.convenience.replace_all_uses_with(node.outputs[0], transposed)
            model.graph.remove(node, safe=True)
            del model.graph.initializers[weight.name or ""]
            count += 1
        return count
