"""past → Concat → present: a decoder's cache becomes a state that OpenVINO keeps between runs.

It takes the place of an input and an output for the keys of each layer, and for the values. What reads its rows in
another order is a Gather in front of the Concat, as OpenVINO's own attention with a state expects it. That attention
takes the place of the products and the Softmax between them in each layer that has them alone, because it adds to its
cache in place:

1. Each input of the cache is read through a Gather with the input ROWS.
2. `MatMul(Softmax(MatMul(queries, keys) * scale + mask), values)` becomes ScaledDotProductAttention, where queries are
   made of the same tensor as new keys. A layer may have queries of the last token alone: OpenVINO's attention would
   refuse them, because it takes as many queries as there are new keys.
3. Inputs and outputs of the cache become states, which are empty at first.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from rpln_runtime.engines.base import ROWS


def keep_cache(model: Any, kept: Mapping[str, str]) -> Any:
    """Return a copy of an `openvino.Model` that keeps its cache.

    `kept` has the name of an output for the name of each input that gets its value in the next run. Rows are along the
    first axis.
    """
    from openvino import passes

    changed = model.clone()
    _read_by_rows(changed, kept)
    for output in list(changed.outputs):
        if not output.names.isdisjoint(kept.values()):
            _fuse_attention(output.get_node().input_value(0))
    manager = passes.Manager()
    manager.register_pass(passes.MakeStateful(dict(kept)))
    manager.run_passes(changed)
    _begin_empty(changed)
    changed.validate_nodes_and_infer_types()
    return changed


def fuses_attention(kept: Any) -> bool:
    """Return whether OpenVINO computes any attention of a model that keeps its cache by its own operator."""
    return any(_is(node, "ScaledDotProductAttention") for node in kept.get_ops())


def _read_by_rows(model: Any, kept: Mapping[str, str]) -> None:
    """Put a Gather, whose indices are the new input ROWS, behind each input of the cache."""
    from openvino import opset13

    rows = opset13.parameter([-1], np.int32, name=ROWS)
    rows.output(0).get_tensor().add_names({ROWS})
    model.add_parameters([rows])
    axis = opset13.constant(np.int64(0))
    for past in model.inputs:
        if not past.names.isdisjoint(kept):
            readers = list(past.get_target_inputs())
            read = opset13.gather(past, rows, axis).output(0)
            for reader in readers:
                reader.replace_source_output(read)


def _fuse_attention(present: Any) -> None:
    """Fuse the attention whose values are the tensor `present`, if there is one that can be."""
    from openvino import opset13

    for reader in list(present.get_target_inputs()):
        attention = _attention(reader.get_node(), present)
        if attention is not None and _source(attention.queries) == _source(attention.keys.get_node().input_value(1)):
            queries, keys, mask, scale = attention
            fused = opset13.scaled_dot_product_attention(queries, keys, present, mask, opset13.constant(scale))
            for target in list(reader.get_node().output(0).get_target_inputs()):
                target.replace_source_output(fused.output(0))


class _Attention(NamedTuple):
    """The inputs of an attention. `keys` are (batch, heads, tokens, head_size), from a Concat of old and new ones."""

    queries: Any
    keys: Any
    mask: Any
    scale: np.float32


def _attention(context: Any, values: Any) -> _Attention | None:
    """Return the attention that ends with the node `context`; None if it is not the product of a Softmax and values."""
    if not (_is(context, "MatMul") and context.input_value(1) == values):
        return None
    softmax = context.input_value(0).get_node()
    masked = softmax.input_value(0).get_node()
    if not (_is(softmax, "Softmax") and softmax.get_attributes()["axis"] in {-1, 3} and _is(masked, "Add")):
        return None
    scores, scale = _scaled(masked.input_value(0).get_node())
    if not _is(scores, "MatMul"):
        return None
    turned = scores.input_value(1).get_node()
    if not (_is(turned, "Transpose") and list(turned.input_value(1).get_node().data) == [0, 1, 3, 2]):
        return None
    if not _is(turned.input_value(0).get_node(), "Concat"):
        return None
    return _Attention(scores.input_value(0), turned.input_value(0), masked.input_value(1), scale)


def _scaled(scores: Any) -> tuple[Any, np.float32]:
    """Return the node of the scores before they are multiplied or divided by a number, and the factor."""
    kind = scores.get_type_name()
    if kind in {"Multiply", "Divide"} and _is(scores.input_value(1).get_node(), "Constant"):
        factor = scores.input_value(1).get_node().data
        if factor.size == 1:
            number = np.float32(factor.item())
            return scores.input_value(0).get_node(), number if kind == "Multiply" else 1 / number
    return scores, np.float32(1)


def _source(tensor: Any) -> Any:
    """Return the tensor that a projection to heads was made of."""
    while tensor.get_node().get_type_name() in {"Transpose", "Reshape", "Add", "MatMul"}:
        first, second = tensor.get_node().input_values()
        tensor = second if _is(first.get_node(), "Constant") else first
    return tensor


def _is(node: Any, kind: str) -> bool:
    return bool(node.get_type_name() == kind)


def _begin_empty(model: Any) -> None:
    """Let each state begin with no tokens, in as many rows as the first run has."""
    from openvino import opset13

    (rows,) = (one for one in model.inputs if ROWS in one.names)
    batch = opset13.shape_of(rows, output_type="i64")
    for node in model.get_ops():
        if _is(node, "ReadValue"):
            shape = node.get_output_partial_shape(0)
            heads, head_size = shape[1].get_length(), shape[3].get_length()
            sizes = opset13.concat([batch, np.array([heads, 0, head_size])], 0)
            nothing = opset13.constant(0, node.get_output_element_type(0))
            node.set_arguments([opset13.broadcast(nothing, sizes)])
