"""The checkpoint's own tokenizer.json, which counts where a version of transformers reads only a part of it.

transformers 5 takes the vocabulary, the merges and the added tokens of a RobertaTokenizer(Fast) from the file, and
makes the normalizer, the pre-tokenizer and the post-processor anew; transformers 4.57 and tokenizers take all of it. So
what transformers has read is compared with the file on texts. Both versions agree on this, and so it is no difference:

1. A RobertaTokenizer(Fast) has the SETTINGS that tokenizer_config.json gives, or their defaults.
2. Tokens that tokenizer_config.json names and the file lacks are added.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast
from transformers import __version__ as transformers_version

from rpln_export.errors import PlanError
from rpln_runtime.documents import read_document
from rpln_runtime.limits import TOKENIZER

TOKENIZER_FILE: Final = "tokenizer.json"
TOKENIZER_CONFIG: Final = "tokenizer_config.json"
TOKEN_TYPES: Final = "token_type_ids"

SETTINGS: Final = (
    ("pre_tokenizer", "add_prefix_space", False),
    ("post_processor", "add_prefix_space", False),
    ("post_processor", "trim_offsets", True),
)
"""Settings in a part of tokenizer.json that tokenizer_config.json overrides, with their defaults there."""

_PARTS: Final = ("normalizer", "pre_tokenizer", "model", "post_processor", "decoder", "added_tokens")
_SPECIAL: Final = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_TEXTS: Final = (
    "",
    " ",
    "The quick brown Fox isn't 42 years old; SHE'LL say 'no'.",
    " two  spaces,\ta tab\nand lines \r\n\n ",
    "ÀÉÎ õü naïve café ﬁ ² Straße İ",
    "Привет, Мир! Ελλάδα ΟΔΥΣΣΕΥΣ",
    "東京で寿司。한국어 ภาษาไทย हिन्दी שלום مرحبا",
    "😀👩‍👩‍👧 e\u0301 \u200d\ufeff\x00\ufffd a\u00a0b\u2003c\u3000d",
    "https://example.org/A?b=1_2-3 foo_bar(x) != 0xFF",
)


def follow_file(tokenizer: Any, path: Path, source: str) -> tuple[Any, tuple[str, ...]]:
    """Return a tokenizer that does what the tokenizer.json at `path` says, and sentences about what differs.

    It is `tokenizer`, which transformers has read, if that does the same. `source` is its name in the sentences. Raises
    PlanError for a file whose tokens are random.
    """
    document = read_document(path, TOKENIZER)
    if document["model"].get("dropout"):
        raise PlanError(
            f"model.dropout in the {TOKENIZER_FILE} of {source} is {document['model']['dropout']}, which makes tokens "
            "random. Set it to null."
        )
    document |= {"truncation": None, "padding": None}
    notes = []
    if is_roberta(tokenizer):
        for part, name, default in SETTINGS:
            wanted = tokenizer.init_kwargs.get(name, default)
            if (document.get(part) or {}).get(name, wanted) != wanted:
                document[part][name] = wanted
                notes.append(
                    f"{part}.{name} in {TOKENIZER_FILE} is overridden by {TOKENIZER_CONFIG}, as transformers does it: "
                    f"{str(wanted).lower()}."
                )
    backend = Tokenizer.from_str(json.dumps(document))
    known = {token.content for token in backend.get_added_tokens_decoder().values()}
    backend.add_tokens([token for token in tokenizer.added_tokens_decoder.values() if token.content not in known])
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    parts = tuple(_different_parts(tokenizer.backend_tokenizer, backend))
    types = TOKEN_TYPES in tokenizer.model_input_names
    # Settings of the model may show in words alone that no text here has.
    if "model" not in parts and same_tokens(tokenizer.backend_tokenizer, backend, types=types):
        return tokenizer, tuple(notes)
    notes.append(
        f"transformers {transformers_version} does not take the {', '.join(parts)} of {source} from {TOKENIZER_FILE}, "
        "and the bundle does."
    )
    return _tokenizer_from_backend(backend, tokenizer), tuple(notes)


def is_roberta(tokenizer: Any) -> bool:
    """Return whether transformers has read a tokenizer as a RobertaTokenizer or RobertaTokenizerFast."""
    return type(tokenizer).__name__.startswith("RobertaTokenizer")


def same_tokens(one: Tokenizer, other: Tokenizer, *, types: bool = True) -> bool:
    """Return whether two tokenizers give the same ids, offsets, words and decoded texts, and with `types` token types.

    They are compared on texts of many scripts, with all kinds of spaces and with every added token, and on pairs.
    """
    added = {token.content for each in (one, other) for token in each.get_added_tokens_decoder().values()}
    texts = [*_TEXTS, "".join(f"A {token} b{token}{token}  " for token in sorted(added))]
    return all(
        _encoded(one, pair, types=types) == _encoded(other, pair, types=types)
        for pair in ([(text, None) for text in texts] + [(text, " The Second") for text in texts])
    )


def _encoded(tokenizer: Tokenizer, pair: tuple[str, str | None], *, types: bool) -> tuple[Any, ...]:
    found = tokenizer.encode(*pair)
    columns = (found.ids, found.offsets, found.word_ids, found.sequence_ids, found.type_ids if types else None)
    return *columns, tokenizer.decode(found.ids, skip_special_tokens=False)


def _different_parts(one: Tokenizer, other: Tokenizer) -> Iterator[str]:
    """Yield the parts of a tokenizer.json in which two tokenizers differ."""
    left, right = json.loads(one.to_str()), json.loads(other.to_str())
    for part in _PARTS:
        if part == "model":
            # An empty affix of a model is none.
            left[part], right[part] = ({key: side[part][key] or None for key in side[part]} for side in (left, right))
        if left[part] != right[part]:
            yield part


def _tokenizer_from_backend(backend: Tokenizer, like: Any) -> Any:
    """Return a tokenizer of transformers around `backend`, with the special tokens and the limits of `like`."""
    prefix = (json.loads(backend.to_str())["pre_tokenizer"] or {}).get("add_prefix_space", False)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        add_prefix_space=prefix,
        model_max_length=like.model_max_length,
        model_input_names=list(like.model_input_names),
        padding_side=like.padding_side,
        truncation_side=like.truncation_side,
        clean_up_tokenization_spaces=False,
        **{name: getattr(like, name) for name in _SPECIAL if getattr(like, name) is not None},
    )
