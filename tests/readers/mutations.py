"""Documents that are nearly valid: JSON with parts that were changed, and bytes with some that were changed."""

import copy
import json
from random import Random
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


_SEEDS: Final = st.integers(0, 2**48)
_MANY: Final = st.integers(1, 3)
_MANY_BYTES: Final = st.integers(1, 4)
"""What hypothesis draws: how many changes there are, and where random ones come from. Drawing each would take most of
the time that a reader needs for 100,000 inputs."""


@st.composite
def documents(draw: st.DrawFn, valid: Any) -> bytes:
    """Draw the JSON value `valid` with some parts changed, as bytes, of which some may be changed in turn."""
    changes, random = draw(_MANY), Random(draw(_SEEDS))
    document, deep = json.loads(json.dumps(valid)), None
    for _ in range(changes):
        kind = random.choice(["replace", "remove", "add", "copy", "deep"])
        if kind == "deep":
            depth, opening = random.choice(DEPTHS), random.choice(["[", '{"a":'])
            deep = opening * depth + "0" + {"[": "]"}.get(opening, "}") * depth
            document = _changed(random, document, "replace", _RAW)
        else:
            document = _changed(random, document, kind, copy.deepcopy(random.choice(STRANGE)))
    text = json.dumps(document)
    if deep is not None:
        text = text.replace(json.dumps(_RAW), deep, 1)
    content = text.encode()
    return _changed_bytes(random, content, random.randint(1, 4)) if random.randrange(8) == 0 else content


def _changed(random: Random, document: Any, kind: str, value: Any) -> Any:
    """Return `document` with a change at a random place: each level is left for one of its parts, mostly."""
    parent: Any = None
    key: Any = None
    at = document
    while isinstance(at, dict | list) and at and random.randrange(8):
        place = random.randrange(len(at))
        parent, key = at, list(at)[place] if isinstance(at, dict) else place
        at = parent[key]
    if parent is None:
        return value if kind == "replace" else document
    if kind == "remove":
        del parent[key]
    elif kind == "add":
        if isinstance(parent, list):
            parent.insert(random.randint(0, len(parent)), value)
        else:
            parent[random.choice(["a", "", "type", "\ud800"])] = value
    elif kind == "copy" and isinstance(parent, list):
        parent.append(copy.deepcopy(at))
    else:
        parent[key] = value
    return document


@st.composite
def changed_bytes(draw: st.DrawFn, valid: bytes) -> bytes:
    """Draw the bytes `valid` with some of them changed, cut off, or put in."""
    return _changed_bytes(Random(draw(_SEEDS)), valid, draw(_MANY_BYTES))


def _changed_bytes(random: Random, valid: bytes, changes: int) -> bytes:
    content = bytearray(valid)
    for _ in range(changes):
        if not content:
            break
        at = random.randrange(len(content))
        kind = random.choice(["set", "cut", "put in", "remove"])
        if kind == "set":
            content[at] = random.choice([0, 1, 2, 0x7F, 0x80, 0xFF, random.randrange(256)])
        elif kind == "cut":
            del content[at:]
        elif kind == "put in":
            content[at:at] = random.randbytes(random.randint(1, 8))
        else:
            del content[at : at + random.randint(1, 8)]
    return bytes(content)
