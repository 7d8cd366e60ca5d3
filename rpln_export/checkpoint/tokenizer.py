"""The checkpoint's tokenizer: found, checked against the network, and saved."""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer
from transformers import AutoTokenizer
from transformers.utils.hub import cached_file

from rpln_export.checkpoint.tokenizer_file import (
    TOKEN_TYPES,
    TOKENIZER_CONFIG,
    TOKENIZER_FILE,
    follow_file,
    is_roberta,
    same_tokens,
)
from rpln_export.errors import PlanError, ValidationError
from rpln_model.hub import uses_cache_only
from rpln_model.json_files import LFS_POINTER


def load_tokenizer(
    source: str, *, revision: str | None, vocab_size: int, type_vocab_size: int = 1
) -> tuple[Any, tuple[str, ...]]:
    """Return the fast tokenizer of a folder or hub id, and sentences about what transformers reads otherwise.

    `vocab_size` and `type_vocab_size` are the numbers of embeddings of the network. Raises PlanError when there is no
    tokenizer, when it makes ids that the network has no embedding for, and when nothing says whether the network gets
    the token types that it makes.
    """
    notes: tuple[str, ...] = ()
    try:
        options = {"revision": revision, "local_files_only": not Path(source).is_dir() and uses_cache_only()}
        tokenizer = AutoTokenizer.from_pretrained(source, use_fast=True, **options, **_mask_token(source))
        _check_token_types(tokenizer, source, type_vocab_size)
        file = cached_file(source, TOKENIZER_FILE, _raise_exceptions_for_missing_entries=False, **options)
        if file is not None and getattr(tokenizer, "is_fast", False):
            tokenizer, notes = follow_file(tokenizer, Path(file), source)
    except PlanError:
        raise
    except BaseException as error:
        # A tokenizer.json that is damaged raises a plain Exception, an AttributeError, or what Rust calls a panic.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        _check_pointers(source)
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
    return tokenizer, notes


def _check_pointers(source: str) -> None:
    """Raise PlanError for a file of a tokenizer that git has put a pointer in the place of."""
    paths = (Path(source) / name for name in (TOKENIZER_FILE, TOKENIZER_CONFIG, "vocab.json", "merges.txt"))
    for path in filter(Path.is_file, paths):
        with path.open("rb") as file:
            if file.read(len(LFS_POINTER)) == LFS_POINTER:
                raise PlanError(f"{path} is a Git LFS pointer, not the file; run `git lfs pull` in its folder.")


def _check_token_types(tokenizer: Any, source: str, type_vocab_size: int) -> None:
    """Refuse token types that transformers 4.57 gives the network and transformers 5 does not.

    The two have different defaults for `model_input_names`, but for the classes of RoBERTa, whose types are left out.
    """
    if type_vocab_size < 2 or _states_token_types(tokenizer):
        return
    if any(tokenizer.backend_tokenizer.encode("a", "b").type_ids):
        raise PlanError(
            f"the tokenizer of {source} gives pairs of texts token types, but {TOKENIZER_CONFIG} has no "
            "model_input_names, so that transformers 4.57 gives them to the network and transformers 5 does not. Add "
            f'"model_input_names" to it: ["input_ids", "attention_mask"], and "{TOKEN_TYPES}" if the network was '
            "trained with them."
        )


def feeds_token_types(tokenizer: Any) -> bool:
    """Return whether the network gets the token types of `tokenizer`; otherwise they are 0.

    Where versions of transformers disagree, there are only zeros, or the export was refused.
    """
    return TOKEN_TYPES in tokenizer.model_input_names or not _states_token_types(tokenizer)


def _states_token_types(tokenizer: Any) -> bool:
    return is_roberta(tokenizer) or "model_input_names" in tokenizer.init_kwargs


def _mask_token(source: str) -> dict[str, AddedToken]:
    """Return the mask token as RoBERTa has it, which takes the space before it, where transformers does not know that.

    transformers 5 forgets it for folders without a tokenizer.json.
    """
    folder = Path(source)
    if not folder.is_dir() or (folder / TOKENIZER_FILE).is_file() or not (folder / "vocab.json").is_file():
        return {}
    return {"mask_token": AddedToken("<mask>", lstrip=True, normalized=False, special=True)}


def save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json and special_tokens_map.json.

    transformers 5 no longer writes the last one by itself.
    """
    with _system_errors():
        tokenizer.save_pretrained(folder)
    _name_class_for_all_versions(tokenizer, folder)
    if not same_tokens(Tokenizer.from_file(str(folder / TOKENIZER_FILE)), tokenizer.backend_tokenizer):
        raise ValidationError(
            f"{TOKENIZER_FILE} gives other tokens in the bundle than in the checkpoint. Please report it, with what "
            "rpln doctor shows."
        )
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n", encoding="utf-8")


def _name_class_for_all_versions(tokenizer: Any, folder: Path) -> None:
    """Let transformers 4.57 and 5 read a tokenizer of no special class as it is: 4.57 does not know 5's name for it."""
    path = folder / TOKENIZER_CONFIG
    fields = json.loads(path.read_text(encoding="utf-8"))
    if fields["tokenizer_class"] not in {"TokenizersBackend", "PreTrainedTokenizerFast"}:
        return
    pre_tokenizer = json.loads(tokenizer.backend_tokenizer.to_str())["pre_tokenizer"] or {}
    fields |= {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": list(tokenizer.model_input_names),
        "add_prefix_space": pre_tokenizer.get("add_prefix_space", False),
    }
    path.write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")


@contextmanager
def _system_errors() -> Iterator[None]:
    """Turn an `Exception` of the tokenizers library that ends in "(os error 28)" into the OSError of that number."""
    try:
        yield
    except Exception as error:
        found = re.search(r"\(os error (\d+)\)", str(error))
        if type(error) is not Exception or found is None:
            raise
        raise OSError(int(found[1]), os.strerror(int(found[1])), TOKENIZER_FILE) from error
