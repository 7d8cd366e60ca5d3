"""Inputs and outputs: what a configuration says against what is behind it."""

from collections.abc import Iterator, Sequence

from rpln_runtime.triton.pbtxt import Message


def compare_tensors(side: str, found: Sequence[Message], expected: Sequence[Message], source: str) -> Iterator[str]:
    """What of `found` differs from `expected`, which `source` says. Triton itself does not miss outputs."""
    names = [tensor.get("name", "") for tensor in found]
    known = {tensor["name"]: tensor for tensor in expected}
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"{side} {name!r} is there {names.count(name)} times"
    for name in known.keys() - set(names):
        yield f"{side} {name!r} is missing: {source} has {', '.join(known)}"
    for tensor in found:
        name = tensor.get("name", "")
        if name not in known:
            yield f"{side} {name!r} is none of those of {source}, which has {', '.join(known)}"
            continue
        for field in ("data_type", "dims", "optional"):
            ours, theirs = tensor.get(field), known[name].get(field)
            if ours != theirs:
                yield f"{field} of {side} {name!r} is {_shown(ours)}, {source} has {_shown(theirs)}"


def _shown(value: object) -> str:
    return "not given" if value is None else str(value)
