"""The checkpoint's tokenizer: found, checked against the network, and saved."""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from transformers import AutoTokenizer

from rpln_export.errors import PlanError
from rpln_model.hub import uses_cache_only


def load_tokenizer(source: str, *, revision: str | None, vocab_size: int) -> Any:
    """Return the fast tokenizer of a folder or hub id.

    Raises PlanError when there is none, or when it makes ids that the network has no embedding for.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            source,
            revision=revision,
            use_fast=True,
            local_files_only=not Path(source).is_dir() and uses_cache_only(),
            **_mask_token(source),
        )
    except BaseException as error:
        # A tokenizer.json that is damaged raises a plain Exception, an AttributeError, or what Rust calls a panic.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise PlanError(
            f"no tokenizer could be read from {source} ({error}). Expected tokenizer.json, or vocab.json and "
            "merges.txt. Name another folder or hub id with --tokenizer."
        ) from error
    if not getattr(tokenizer, "is_fast", False):
        raise PlanError(
            f"{source} has only a slow tokenizer, but a tokenizer.json is needed. Name another with --tokenizer."
        )
    vocabulary = tokenizer.get_vocab()
    if vocabulary.keys() <= set(tokenizer.all_special_tokens):
        # This is what transformers 5 returns for a folder without any tokenizer.
        raise PlanError(
            f"no tokenizer could be read from {source} (it knows special tokens only). Expected tokenizer.json, or "
            "vocab.json and merges.txt. Name another folder or hub id with --tokenizer."
        )
    largest = max(vocabulary.values())
    if largest >= vocab_size:
        raise PlanError(
            f"the tokenizer of {source} makes ids up to {largest}, but the network has embeddings for 0 to "
            f"{vocab_size - 1}. Name the checkpoint's own tokenizer with --tokenizer."
        )
    return tokenizer


def _mask_token(source: str) -> dict[str, AddedToken]:
    """Return the mask token as RoBERTa has it, which takes the space before it, where transformers does not know that.

    transformers 5 forgets it for folders without a tokenizer.json.
    """
    folder = Path(source)
    if not folder.is_dir() or (folder / "tokenizer.json").is_file() or not (folder / "vocab.json").is_file():
        return {}
    return {"mask_token": AddedToken("<mask>", lstrip=True, normalized=False, special=True)}


def save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json and special_tokens_map.json.

    transformers 5 no longer writes the last one by itself.
    """
    with _system_errors():
        tokenizer.save_pretrained(folder)
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n", encoding="utf-8")


@contextmanager
def _system_errors() -> Iterator[None]:
    """Turn an `Exception` of the tokenizers library that ends in "(os error 28)" into the OSError of that number."""
    try:
        yield
    except Exception as error:
        found = re.search(r"\(os error (\d+)\)", str(error))
        if type(error) is not Exception or found is None:
            raise
        raise OSError(int(found[1]), os.strerror(int(found[1])), "tokenizer.json") from error
