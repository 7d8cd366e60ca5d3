"""The vocabulary and merges of a checkpoint's tokenizer, as a graph from texts needs them."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from rpln_export.errors import PlanError
from rpln_export.extras import EXTRAS
from rpln_export.plan.export_plan import ExportPlan
from rpln_export.plan.text_graph import EXTRA
from rpln_graphs.text import BytePairs
from rpln_model.config import padding_row

_SPECIAL: Final = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")

# Fields of a tokenizer.json, each with the values for which the graph's operator does the same as the tokenizer.
_BUILT_IN: Final[Mapping[tuple[str, str], tuple[object, ...]]] = {
    ("pre_tokenizer", "type"): ("ByteLevel",),
    ("pre_tokenizer", "use_regex"): (True, None),
    ("post_processor", "type"): ("RobertaProcessing",),
    ("model", "type"): ("BPE",),
    ("model", "dropout"): (None, 0.0),
    ("model", "continuing_subword_prefix"): (None, ""),
    ("model", "end_of_word_suffix"): (None, ""),
    ("model", "byte_fallback"): (None, False),
    ("model", "ignore_merges"): (None, False),
}


def byte_pairs_from_tokenizer(tokenizer: Any, plan: ExportPlan) -> BytePairs:
    """Return the byte pairs of `tokenizer`, a fast tokenizer of transformers.

    Raises PlanError where the tokenizer does what the graph's operator does not.
    """
    document = json.loads(tokenizer.backend_tokenizer.to_str())
    added = {token["content"]: token for token in document["added_tokens"]}
    mask = added.get("<mask>")
    vocabulary = document["model"]["vocab"] | {token: entry["id"] for token, entry in added.items()}
    for reason in (*_reasons(document, added), *_other_padding(vocabulary, padding_row(plan.config))):
        raise PlanError(
            f"--with-tokenizer needs RoBERTa's byte-level BPE, as {EXTRAS[EXTRA].distribution} has it, but the "
            f"tokenizer of {plan.name} has {reason}. Leave --with-tokenizer out, or name another tokenizer with "
            "--tokenizer."
        )
    merges = (pair if isinstance(pair, str) else " ".join(pair) for pair in document["model"]["merges"])
    return BytePairs(
        vocabulary=vocabulary,
        merges=tuple(merges),
        mask="<mask>" if mask else None,
        mask_takes_space_before=bool(mask and mask["lstrip"]),
        mask_takes_space_after=bool(mask and mask["rstrip"]),
        prefix_space=bool(document["pre_tokenizer"]["add_prefix_space"]),
        truncation_side=tokenizer.truncation_side,
    )


def _reasons(document: dict[str, Any], added: Mapping[str, dict[str, Any]]) -> Iterator[str]:
    """Yield a reason for each thing that a tokenizer.json asks for and the graph's operator does not do."""
    if document["normalizer"] is not None:
        yield f"a normalizer ({document['normalizer'].get('type')})"
    for (part, name), accepted in _BUILT_IN.items():
        value = (document[part] or {}).get(name)
        if value not in accepted:
            yield f"{part}.{name}={value!r}, expected {' or '.join(map(repr, accepted))}"
    if strangers := [token for token in added if token not in _SPECIAL]:
        yield f"tokens added to its vocabulary ({', '.join(strangers[:3])})"
    if added.get("<mask>", {}).get("single_word"):
        yield "a mask token with single_word=True, expected False"
    if [document["post_processor"].get(name, [None])[0] for name in ("cls", "sep")] != ["<s>", "</s>"]:
        yield "other tokens around a text than <s> and </s>"


def _other_padding(vocabulary: Mapping[str, int], row: int) -> Iterator[str]:
    """Yield a reason if the operator, which pads with `<pad>`, does not pad with the `row` of the network."""
    if vocabulary.get("<pad>") != row:
        yield f"no token <pad> with the id {row}, which is the network's pad_token_id"
