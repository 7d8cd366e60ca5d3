"""val_87, node_linear_3 -> encoder.layer.0.attention.self.query.MatMul: names that read like the model.

Rules:
1. A node and its first output are called <module>.<operator>; if a module has several, Add, Add_1, and so on. Further
   outputs are called <node>.out1, <node>.out2.
2. Initializers keep their state-dict names, without the prefix of the wrapper and of the base model.
3. Constants that are no parameters (a parameter has a dot in its name) are called after the first node that reads them:
   <node>.<input position>.
4. Graph inputs and outputs keep the names they were given.
"""

import ast
from collections import Counter

import onnx_ir as ir

from rpln_graphs.rewriting.base import CountingPass

PREFIXES = ("model.", "decoder.", "roberta_prelayernorm.")
"""The prefixes that names lose: those of GraphCall, of an encoder-decoder's decoder, and of the base model."""
SCOPES_KEY = "pkg.torch.onnx.name_scopes"
"""The key of a node's metadata under which torch notes the modules around it."""
NO_MODULE = "_empty_nn_module_stack_from_metadata_hook"
"""What torch calls the scope of arithmetic on symbolic sizes."""


class NameValues(CountingPass):
    """A pass that names nodes, values and weights after the model. It counts the nodes."""

    def rewrite(self, model: ir.Model) -> int:
        graph = model.graph
        for initializer in list(graph.initializers.values()):
            initializer.name = _without_prefix(initializer.name or "")  # rule 2
        fixed = {id(value) for value in (*graph.inputs, *graph.outputs)}  # rule 4
        seen: Counter[str] = Counter()
        for node in graph:
            base = ".".join(filter(None, (module_from_node(node), node.op_type)))
            name = f"{base}_{seen[base]}" if seen[base] else base
            seen[base] += 1
            node.name = name
            _name_outputs(node, name, fixed)
            _name_constants(node, name)
        return len(graph)


def module_from_node(node: ir.Node) -> str:
    """Return the dotted path of the torch module that `node` was traced from; empty for the model itself."""
    scopes = scopes_from_node(node)
    modules = [scope for scope in scopes[:-1] if scope != NO_MODULE]  # the last scope is the torch operator
    return _without_prefix(modules[-1] + ".").removesuffix(".") if modules else ""


def scopes_from_node(node: ir.Node) -> list[str]:
    """Return the paths of the torch modules around `node`, outermost first, and behind them the operator's name."""
    scopes: list[str] = ast.literal_eval(node.metadata_props.get(SCOPES_KEY, "[]"))
    return scopes


def _without_prefix(name: str) -> str:
    for prefix in PREFIXES:
        name = name.removeprefix(prefix)
    return name


def _name_outputs(node: ir.Node, name: str, fixed: set[int]) -> None:
    """Name the outputs of `node` (rule 1)."""
    for position, output in enumerate(node.outputs):
        if id(output) not in fixed:
            output.name = f"{name}.out{position}" if position else name


def _name_constants(node: ir.Node, name: str) -> None:
    """Name the constants that `node` is the first to read (rule 3)."""
    for position, value in enumerate(node.inputs):
        if value is not None and value.is_initializer() and "." not in (value.name or ""):
            value.name = f"{name}.{position}"
