"""Manifests with every field that older bundles lack, for readers to be tried with."""

import json
from pathlib import Path
from typing import Any

from rpln_runtime.limits import OPTIONAL_FIELDS


def manifest_with_all_fields(bundle: Path) -> Any:
    """Return the manifest of an old `bundle`, as JSON, with the optional fields that fit its task."""
    document: dict[str, Any] = json.loads((bundle / "rpln.json").read_text(encoding="utf-8"))
    candidate = {"variant": "full", "form": "fused", "provider": "cpu", "speedup": 1.2, "outcome": "chosen"}
    document["optimization"]["candidates"] = [candidate | {"speedup_low": 1.1, "speedup_high": 1.3}]
    document["source"]["adapter"] = "LORA, merged into base"
    document |= {"truncation_side": "left", "token_types": False}
    document["sentences"] = {
        "poolings": [],
        "max_length": 16,
        "prompts": {"query": "Query: ", "document": ""},
        "default_prompt": "query",
        "include_prompt": True,
    }
    if document["generation"]:
        document["generation"]["defaults"] = {
            "num_beams": 2,
            "temperature": 0.7,
            "no_repeat_ngram_size": 2,
            "bad_words_ids": [[5, 6]],
            "suppress_tokens": [7],
            "forced_eos_token_id": 2,
        }
    absent = {name for name in OPTIONAL_FIELDS if f'"{name}":' not in json.dumps(document)}
    assert absent <= {"defaults"}, f"{absent} came with a later version: give them values here"
    return document
