"""Documents that are nearly valid: JSON with parts that were changed, and bytes with some that were changed."""

import copy
import json
from typing import Any, Final

from hypothesis import strategies as st

STRANGE: Final[list[Any]] = [
    None,
    True,
    False,
    0,
    1,
    -1,
    2.5,
    1e300,
    float("nan"),
    float("inf"),
    2**31,
    2**63 - 1,
    2**63,
    2**64,
    10**30,
    "",
    "a",
    "../a",
    "/",
    "\0",
    "\ud800",
    "a" * 300,
    "logits",
    "sequence",
    "float16",
    [],
    {},
    [None],
    ["batch", 1],
    {"a": 1},
]
"""Values that a reader may not expect in some place."""
DEPTHS: Final = [2, 64, 65, 126, 127, 128, 900, 5000]

_RAW: Final = "a place for text that json.dumps would not write"


@st.composite
def documents(draw: st.DrawFn, valid: Any) -> bytes:
    """Draw the JSON value `valid` with some parts changed, as bytes, of which some may be changed in turn."""
    document, deep = copy.deepcopy(valid), None
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(["replace", "remove", "add", "copy", "deep"]))
        if kind == "deep":
            depth, opening = draw(st.sampled_from(DEPTHS)), draw(st.sampled_from(["[", '{"a":']))
            deep = opening * depth + "0" + {"[": "]"}.get(opening, "}") * depth
            document = _changed(draw, document, "replace", _RAW)
        else:
            document = _changed(draw, document, kind, copy.deepcopy(draw(st.sampled_from(STRANGE))))
    text = json.dumps(document)
    if deep is not None:
        text = text.replace(json.dumps(_RAW), deep, 1)
    content = text.encode()
    return draw(changed_bytes(content)) if draw(st.integers(0, 7)) == 0 else content


def _changed(draw: st.DrawFn, document: Any, kind: str, value: Any) -> Any:
    """Return `document` with a change at a place that is drawn: each level is left for one of its parts, mostly."""
    parent: Any = None
    key: Any = None
    at = document
    while isinstance(at, dict | list) and at and draw(st.integers(0, 7)):
        place = draw(st.integers(0, len(at) - 1))
        parent, key = at, list(at)[place] if isinstance(at, dict) else place
        at = parent[key]
    if parent is None:
        return value if kind == "replace" else document
    if kind == "remove":
        del parent[key]
    elif kind == "add":
        if isinstance(parent, list):
            parent.insert(draw(st.integers(0, len(parent))), value)
        else:
            parent[draw(st.sampled_from(["a", "", "type", "\ud800"]))] = value
    elif kind == "copy" and isinstance(parent, list):
        parent.append(copy.deepcopy(at))
    else:
        parent[key] = value
    return document


@st.composite
def changed_bytes(draw: st.DrawFn, valid: bytes) -> bytes:
    """Draw the bytes `valid` with some of them changed, cut off, or put in."""
    content = bytearray(valid)
    for _ in range(draw(st.integers(1, 4))):
        if not content:
            break
        at = draw(st.integers(0, len(content) - 1))
        kind = draw(st.sampled_from(["set", "cut", "put in", "remove"]))
        if kind == "set":
            content[at] = draw(st.sampled_from([0, 1, 2, 0x7F, 0x80, 0xFF]) | st.integers(0, 255))
        elif kind == "cut":
            del content[at:]
        elif kind == "put in":
            content[at:at] = draw(st.binary(min_size=1, max_size=8))
        else:
            del content[at : at + draw(st.integers(1, 8))]
    return bytes(content)
