"""Inputs and outputs: what a configuration says of them, compared with what is behind it."""

from collections.abc import Iterator, Mapping, Sequence

from rpln_runtime.manifest import Graph
from rpln_runtime.triton.checks.model import Model
from rpln_runtime.triton.parts import tensor_from_spec
from rpln_runtime.triton.pbtxt import Message


def compare_with_graph(model: Model, graph: Graph, source: str) -> Iterator[str]:
    """Yield where the inputs and outputs of `model` differ from those of `graph`."""
    specs = {"input": graph.inputs, "output": graph.outputs}
    yield from compare_tensors(model, {side: list(map(tensor_from_spec, specs[side])) for side in specs}, source)


def compare_tensors(model: Model, expected: Mapping[str, Sequence[Message]], source: str) -> Iterator[str]:
    """Yield where the inputs and outputs of `model` differ from the expected ones, which `source` has.

    Triton itself does not notice an output that is left out.
    """
    for side, found in model.sides.items():
        yield from _compare_side(side, found, expected[side], source)


def _compare_side(side: str, found: Sequence[Message], expected: Sequence[Message], source: str) -> Iterator[str]:
    names = [tensor["name"] for tensor in found]
    known = {tensor["name"]: tensor for tensor in expected}
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"{side} {name!r} is there {names.count(name)} times"
    for name in known.keys() - set(names):
        yield f"{side} {name!r} is missing: {source} has {', '.join(known)}"
    for tensor in found:
        name = tensor["name"]
        if name not in known:
            yield f"{side} {name!r} is unknown to {source}, which has {', '.join(known)}"
            continue
        for field in ("data_type", "dims", "optional"):
            ours, theirs = tensor.get(field), known[name].get(field)
            if ours != theirs:
                yield f"{field} of {side} {name!r} is {_shown(ours)}, {source} has {_shown(theirs)}"


def _shown(value: object) -> str:
    return "not given" if value is None else str(value)
