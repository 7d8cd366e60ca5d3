"""LIMITS: what a bundle's documents hold at most. runtime/cpp/include/rpln/limits.hpp has the same tables.

Readers check them before they use a value, so that a damaged file ends in an error that names the place.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """The limits of a JSON file.

    Attributes:
        size: the most bytes of the file.
        depth: the most lists and objects inside each other.
    """

    size: int
    depth: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """The integers that a field may hold, both included."""

    minimum: int
    maximum: int


MANIFEST: Final = "manifest"
TOKENIZER: Final = "tokenizer"
OTHER: Final = "other"

DOCUMENTS: Final = {
    MANIFEST: Document(size=1 << 26, depth=64),
    # The depth at which the tokenizers library stops, because serde_json does.
    TOKENIZER: Document(size=1 << 28, depth=127),
    OTHER: Document(size=1 << 26, depth=64),
}
"""The limits by the kind of document: manifests of bundles and engines, tokenizer.json, and any other JSON."""

MOST_PATH_BYTES: Final = 1024
"""The most bytes of a path in a bundle."""
MOST_NAME_BYTES: Final = 255
"""The most bytes of one part of a path, which is the most that file systems take."""

MOST_LINE_BYTES: Final = 1 << 20
"""The most bytes of a line of a corpus. A longer one is an error, and is never in memory as a whole.

A task that reads a text in windows runs the graph thousands of times for a line of this size."""

MOST_THREADS: Final = 1024
"""The most threads of a session. Each is made when it opens: millions of them would take hours."""

_INTEGER: Final = Range(minimum=-(2**63), maximum=2**63 - 1)
_COUNT: Final = Range(minimum=0, maximum=2**63 - 1)
_SIZE: Final = Range(minimum=1, maximum=2**31 - 1)
_LEAST: Final = Range(minimum=0, maximum=2**31 - 1)
_TOKEN_ID: Final = Range(minimum=0, maximum=2**31 - 1)
_DEFAULT: Final = Range(minimum=-(2**31), maximum=2**31 - 1)

RANGES: Final = {
    "size": _COUNT,
    "shape": _SIZE,
    "values": _SIZE,
    "minimum": _LEAST,
    "maximum": _LEAST,
    "opset": _SIZE,
    "threads": Range(minimum=1, maximum=MOST_THREADS),
    "pad_token_id": _TOKEN_ID,
    "bos_token_id": _TOKEN_ID,
    "eos_token_ids": _TOKEN_ID,
    "start_token_id": _TOKEN_ID,
    "mask_token_id": _TOKEN_ID,
    "first_position": _TOKEN_ID,
    "pad_position": _TOKEN_ID,
    "max_new_tokens": _SIZE,
    "max_length": _SIZE,
    "defaults": _DEFAULT,
    "usable_length": _SIZE,
    "vocab_size": _SIZE,
    "type_vocab_size": _LEAST,
    "passes": _COUNT,
    # Of engines, which only Python reads.
    "optimum": _LEAST,
    "weights": _COUNT,
    "activations": _COUNT,
    "workspace": _COUNT,
    "attentions": _COUNT,
    "profile": _COUNT,
    # Of the journals of corpora, which only Python has.
    "lines": _COUNT,
    "errors": _COUNT,
    "read": _COUNT,
    "written": _COUNT,
}
"""The integers of a manifest by the name of their field, which means the same in every object."""

OPTIONAL_FIELDS: Final = frozenset(
    {
        "adapter",
        "defaults",
        "include_prompt",
        "sentences",
        "speedup_high",
        "speedup_low",
        "token_types",
        "truncation_side",
    }
)
"""The fields of a manifest that older bundles lack. Where they are missing, they have the defaults of their rows."""


def range_of_field(name: str) -> Range:
    """Return the integers that the field `name` may hold: those of 64 bits where RANGES says nothing."""
    return RANGES.get(name, _INTEGER)
