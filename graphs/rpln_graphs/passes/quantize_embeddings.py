"""Gather(W, ids) -> Cast(Gather(W8, ids)) Gather(s, ids): word embeddings, and the vocabulary's projection, in 8 bits.

Rules:
1. A table is stored in int8, with a scale for each word. A word has its integers looked up, and its scale.
2. A projection onto the vocabulary reads the whole table as Cast(W8) s. Runtimes compute that once, when they load the
   graph, so that it is as fast as before; it takes no less memory.
3. What is looked up and projected onto is stored once if both are one table (tie_word_embeddings).

These are old operators, which compute the same in every runtime.
"""

import re
from typing import Final

import numpy as np
import onnx_ir as ir

from rpln_graphs.quantization.quantizers import quantized_weight, scales_of_weight
from rpln_graphs.quantization.rounding import QUANTIZED, ROUNDED, SCALE, register_constants
from rpln_graphs.rewriting.base import ExplainingPass
from rpln_graphs.rewriting.nodes import cast_node, take_place, typed_node
from rpln_graphs.rewriting.traits import GELU_HEAD, INPUTS_EMBEDS, GraphTraits
from rpln_graphs.rewriting.values import is_constant, tensor_of

SAVED_KEY: Final = "rpln.embeddings.saved"
"""The key of a model's metadata that holds by how many bytes its tables became smaller."""
UNSCALED: Final = ".unscaled"
"""The ending of the names of integers that became floats, and are not scaled yet."""
_TABLE: Final = re.compile(r"(.*\.)?(word_embeddings\.weight|lm_head\.decoder\.weight(?P<turned>\.T)?)")
"""The names of tables [V, H] of V words, and of a projection's own weight, which is turned: [H, V]."""


class QuantizeEmbeddings(ExplainingPass):
    """A pass that stores tables of words in 8 bits. It counts their readers: a lookup and, in some heads, a product."""

    def formula(self, traits: GraphTraits) -> int:
        """Return 1 for the lookup of ids in a graph with layers, and 1 more for the head of a language model."""
        looks_up = traits.layers > 0 and INPUTS_EMBEDS not in traits.features
        return int(looks_up) + int(GELU_HEAD in traits.features)

    def rewrite(self, model: ir.Model) -> int:
        readers, saved = 0, 0
        for table in list(model.graph.initializers.values()):
            match = _TABLE.fullmatch(table.name or "")
            if match is None or not is_constant(table) or not table.uses():
                continue
            before = tensor_of(table).nbytes
            stored = _stored(model.graph, table, words_first=not match["turned"])
            nodes = [use.node for use in table.uses()]
            for node in nodes:
                if node.op_type == "Gather":
                    _look_up(model.graph, node, *stored)
                else:
                    _project(model.graph, node, table, *stored)
            del model.graph.initializers[table.name or ""]
            readers += len(nodes)
            saved += before - sum(tensor_of(constant).nbytes for constant in stored)
        model.metadata_props[SAVED_KEY] = str(saved)
        self.record(model, [])
        return readers


def _stored(graph: ir.Graph, table: ir.Value, *, words_first: bool) -> tuple[ir.Value, ir.Value]:
    """Store a table in int8, and return its integers and its scales: [V, H] and [V, 1], or [H, V] and [1, V]."""
    name, array = table.name or "", tensor_of(table).numpy()
    columns = array.T if words_first else array
    scales = scales_of_weight(columns)
    integers = quantized_weight(columns, scales)
    arrays = (integers.T, scales[:, np.newaxis]) if words_first else (integers, scales[np.newaxis])
    integers_of, scales_of = register_constants(
        graph,
        {name + ending: np.ascontiguousarray(one) for ending, one in zip((QUANTIZED, SCALE), arrays, strict=True)},
    )
    return integers_of, scales_of


def _look_up(graph: ir.Graph, gather: ir.Node, integers: ir.Value, scales: ir.Value) -> None:
    """Look up the integers and the scale of each word, and multiply them (rule 1)."""
    found, ids = gather.outputs[0], gather.inputs[1]
    name, shape = found.name or "", found.shape
    narrow = typed_node("Gather", [integers, ids], name=name + QUANTIZED, dtype=ir.DataType.INT8, shape=shape)
    scale_shape = None if shape is None else [*shape[:-1], 1]
    scale = typed_node("Gather", [scales, ids], name=name + SCALE, dtype=ir.DataType.FLOAT, shape=scale_shape)
    widened = cast_node(narrow.outputs[0], ir.DataType.FLOAT, name=name + UNSCALED)
    scaled = typed_node(
        "Mul", [widened.outputs[0], scale.outputs[0]], name=name + ROUNDED, dtype=ir.DataType.FLOAT, shape=shape
    )
    graph.insert_before(gather, [narrow, scale, widened, scaled])
    take_place(scaled.outputs[0], found)
    graph.remove(gather, safe=True)


def _project(graph: ir.Graph, reader: ir.Node, table: ir.Value, integers: ir.Value, scales: ir.Value) -> None:
    """Let a node that reads the whole table read the floats that its integers stand for (rule 2)."""
    name = table.name or ""
    widened = cast_node(integers, ir.DataType.FLOAT, name=name + UNSCALED)
    scaled = typed_node(
        "Mul", [widened.outputs[0], scales], name=name + ROUNDED, dtype=ir.DataType.FLOAT, shape=table.shape
    )
    graph.insert_before(reader, [widened, scaled])
    for position, value in enumerate(reader.inputs):
        if value is table:
            reader.replace_input_with(position, scaled.outputs[0])
