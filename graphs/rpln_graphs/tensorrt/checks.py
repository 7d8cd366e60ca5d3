"""Checks that an engine computes what its graph says: products in the graph's types, and attention in one kernel.

TensorRT falls back silently: an fp16 engine that computes in fp32 gives right answers, but slowly.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

import onnx_ir as ir

from rpln_graphs.errors import EngineError
from rpln_graphs.rewriting.values import maker
from rpln_runtime.engines.manifest import Layer

PRODUCTS: Final = frozenset({"MatMul", "Gemm"})
"""The operators whose type is checked."""
GEMM: Final = "gemm"
"""The kind of a kernel that computes a product and nothing else. Kernels of other kinds may move its operands."""
QUANTIZED: Final = frozenset({"int4", "int8", "float8_e4m3fn"})
"""The types of quantized products, or of their weights alone."""
NARROW: Final = QUANTIZED | {"float16", "bfloat16"}
"""The types that lose precision where the graph does not ask for them."""
WEIGHTS_OF_ATTENTION: Final = ("attentions.", "cross_attentions.")
"""The beginnings of the names of outputs that no fused attention can return."""
SMALLEST_HEAD: Final = 10
"""The smallest head size that TensorRT-RTX 1.7 fuses in whole networks; it fuses no attention of a single head."""


def precision_of_products(layers: Sequence[Layer], graph: ir.Model, *, profiles: int) -> str:
    """Return the type of products, by its name in numpy, after checking the kernels of all profiles.

    If any product is quantized, it is the type of quantized products, or of their weights if only these are quantized;
    otherwise, it is that of most products.

    Raises EngineError, with the names of the nodes, if a product's kernels do not read its operands in the graph's
    type.
    """
    for profile in range(profiles):
        types = _types_of_nodes(layer for layer in layers if layer.profile == profile)
        wrong = [
            f"{name} ({' and '.join(dict.fromkeys(operands))}: {', '.join(sorted(types.get(name, ()))) or 'no kernel'})"
            for name, operands in _products(graph)
            if not types.get(name, set()).issuperset(operands) or NARROW.intersection(types[name]).difference(operands)
        ]
        if wrong:
            raise EngineError(
                f"profile {profile} of the engine does not multiply in the types of its graph: {'; '.join(wrong)}. "
                "Please report it, with the version of TensorRT (rpln doctor)."
            )
    # The kernels read what the graph says, so that its types are theirs.
    asked = [weight for _, (_, weight) in _products(graph)]
    return Counter([dtype for dtype in asked if dtype in QUANTIZED] or asked).most_common(1)[0][0]


def fused_attentions(layers: Sequence[Layer], graph: ir.Model, *, profiles: int) -> list[int]:
    """Return, for each profile, the number of the graph's attentions that are one kernel."""
    return [sum(_is_fused(one, layers, profile) for one in _attentions(graph)) for profile in range(profiles)]


def unfused_attentions(layers: Sequence[Layer], graph: ir.Model, profile: int) -> list[str]:
    """Return the names of the attentions that `profile` computes in several kernels although TensorRT has one."""
    return [one.name for one in _attentions(graph) if one.has_kernel and not _is_fused(one, layers, profile)]


class _Attention(NamedTuple):
    """An attention: its softmax with the names of the products before and after it, or one operator without products.

    `has_kernel` says whether TensorRT has one kernel for all of it.
    """

    name: str
    products: tuple[str, ...]
    has_kernel: bool


def _is_fused(attention: _Attention, layers: Sequence[Layer], profile: int) -> bool:
    """Return whether a single kernel of the profile computes the attention."""
    return any(_fuses(layer, attention) for layer in layers if layer.profile == profile)


def _fuses(layer: Layer, attention: _Attention) -> bool:
    """Return whether `layer` computes the softmax and both products; a kernel for one operator is known by its name."""
    if attention.name not in layer.nodes:
        return False
    return {*attention.products} <= {*layer.nodes} if attention.products else "mha" in layer.name


def _attentions(graph: ir.Model) -> list[_Attention]:
    """Return the attentions of a graph, in order."""
    asked_for = any((value.name or "").startswith(WEIGHTS_OF_ATTENTION) for value in graph.graph.outputs)
    found = []
    for node in graph.graph:
        if node.op_type == "Attention":
            found.append(_Attention(node.name or "", (), has_kernel=not asked_for))
        elif node.op_type == "Softmax":
            before, after = _product(_before(node)), _product(_after(node))
            between = {one.op_type for one in itertools.takewhile(_is_no_product, _after(node))}
            # A head mask is multiplied between the softmax and the product, which no kernel does.
            has_kernel = not asked_for and _has_kernel(before) and between <= {"Cast"}
            found.append(_Attention(node.name or "", (_name(before), _name(after)), has_kernel))
    return found


def _has_kernel(product: ir.Node | None) -> bool:
    """Return whether TensorRT fuses the sizes of `product`, whose keys are [batch, heads, head size, tokens]."""
    keys = product.inputs[1] if product is not None else None
    if keys is None or keys.shape is None or len(keys.shape) != 4:
        return True
    heads, head_size = keys.shape[1], keys.shape[2]
    return heads != 1 and not (isinstance(head_size, int) and head_size < SMALLEST_HEAD)


def _product(nodes: Iterator[ir.Node]) -> ir.Node | None:
    """Return the first MatMul among `nodes`, or None if there is none."""
    return next(itertools.dropwhile(_is_no_product, nodes), None)


def _is_no_product(node: ir.Node) -> bool:
    return node.op_type != "MatMul"


def _before(node: ir.Node) -> Iterator[ir.Node]:
    """Yield the node that computes the first operand of `node`, the one that computes its first operand, and so on."""
    value = node.inputs[0]
    while value is not None and (producer := value.producer()) is not None:
        yield producer
        value = producer.inputs[0] if producer.inputs else None


def _after(node: ir.Node) -> Iterator[ir.Node]:
    """Yield the only reader of the result of `node`, the only reader of its result, and so on."""
    users = list(node.outputs[0].uses())
    while len(users) == 1:
        (user,) = users
        yield user.node
        users = list(user.node.outputs[0].uses())


def _name(node: ir.Node | None) -> str:
    return "" if node is None else node.name or ""


def _types_of_nodes(layers: Iterable[Layer]) -> dict[str, set[str]]:
    """Return the dtypes that the kernels of each node read; only its GEMM kernels count, if it has any."""
    layers = list(layers)
    multiplied = {node for layer in layers if layer.kind == GEMM for node in layer.nodes}
    types: dict[str, set[str]] = {}
    for layer in layers:
        for node in layer.nodes:
            if layer.kind == GEMM or node not in multiplied:
                types.setdefault(node, set()).update(layer.inputs)
    return types


def _products(graph: ir.Model) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield the name of each product and the types of its operands before they are dequantized, as numpy calls them."""
    for node in graph.graph:
        if node.op_type in PRODUCTS:
            assert node.name
            yield node.name, (_stored_type(node.inputs[0]), _stored_type(node.inputs[1]))


def _stored_type(operand: ir.Value | None) -> str:
    """Return the type of an operand before it is dequantized, by its name in numpy."""
    widening = maker(operand, "DequantizeLinear")
    stored = operand if widening is None else widening.inputs[0]
    assert stored is not None and stored.dtype is not None
    return str(stored.dtype.numpy().name)
