"""Text to tokens by the bundle's tokenizer.json, with character offsets, and windows over what is too long."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from rpln_runtime.errors import InputError, ManifestError
from rpln_runtime.manifest import Manifest

if TYPE_CHECKING:
    import tokenizers

_TOKENIZER_NAME: Final = "tokenizer.json"


@dataclass(frozen=True, slots=True)
class Encoding:
    """The tokens of one text or pair, or a window of them; each field has one row a token, all int64.

    Attributes:
        ids: ids in the vocabulary.
        type_ids: the token types that the tokenizer gives.
        offsets: first character and the one past the last, in the text that the token comes from, (tokens, 2).
        words: the word of the text that the token is part of, -1 for special tokens.
        sequences: 0 for tokens of the text, 1 for those of its pair, -1 for special tokens put around them.
        positions: the place of the token in the whole encoding, before any window was cut.
    """

    ids: np.ndarray
    type_ids: np.ndarray
    offsets: np.ndarray
    words: np.ndarray
    sequences: np.ndarray
    positions: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, indices: np.ndarray) -> "Encoding":
        """Return the encoding of the tokens at `indices` alone."""
        return Encoding(*(getattr(self, field.name)[indices] for field in fields(self)))


def join_encodings(encodings: Sequence[Encoding]) -> Encoding:
    """Return the tokens of `encodings`, one after the other."""
    columns = ([getattr(encoding, field.name) for encoding in encodings] for field in fields(Encoding))
    return Encoding(*(np.concatenate(column) for column in columns))


class Tokenizer:
    """The tokenizer of a bundle. Padding and truncation that its file may ask for are off: nothing is cut silently."""

    def __init__(self, backend: "tokenizers.Tokenizer") -> None:
        backend.no_padding()
        backend.no_truncation()
        self._backend = backend
        # A word-piece model marks the pieces that continue a word; byte-level BPE marks nothing.
        self.marks_subwords = bool(getattr(backend.model, "continuing_subword_prefix", None))
        self.unknown_id = backend.token_to_id(getattr(backend.model, "unk_token", None) or "<unk>")

    @classmethod
    def from_bundle(cls, folder: Path, manifest: Manifest) -> "Tokenizer":
        """Read the tokenizer of the bundle in `folder`. Raises ManifestError when there is none that can be read."""
        import tokenizers

        if _TOKENIZER_NAME not in {file.path for file in manifest.files}:
            raise ManifestError(f"{folder} lists no {_TOKENIZER_NAME}: export a checkpoint that has a fast tokenizer.")
        try:
            return cls(tokenizers.Tokenizer.from_file(str(folder / _TOKENIZER_NAME)))
        except Exception as error:  # the only class that tokenizers raises
            raise ManifestError(
                f"tokenizers {tokenizers.__version__} cannot read {folder / _TOKENIZER_NAME} ({error}). "
                "Run: pip install --upgrade tokenizers"
            ) from error

    def encode(self, text: str, pair: str | None = None) -> Encoding:
        """Encode `text`, or `text` and its `pair`, with special tokens. Raises InputError for what is no valid text."""
        for part in (text,) if pair is None else (text, pair):
            _check_text(part)
        encoding = self._backend.encode(text, pair)
        return Encoding(
            ids=np.array(encoding.ids, np.int64),
            type_ids=np.array(encoding.type_ids, np.int64),
            offsets=np.array(encoding.offsets, np.int64).reshape(-1, 2),
            words=_int64_from_optional(encoding.word_ids),
            sequences=_int64_from_optional(encoding.sequence_ids),
            positions=np.arange(len(encoding.ids)),
        )

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """Return the text of `ids`."""
        return self._backend.decode(list(ids), skip_special_tokens=skip_special_tokens)

    def join(self, tokens: Sequence[str]) -> str:
        """Return the text of tokens given by name."""
        decoder = self._backend.decoder
        return " ".join(tokens) if decoder is None else decoder.decode(list(tokens))

    def token(self, token_id: int) -> str:
        """Return the name of the token `token_id`, "" when it has none."""
        return self._backend.id_to_token(token_id) or ""

    def token_id(self, token: str) -> int | None:
        """Return the id of the token named `token`, None when there is none."""
        return self._backend.token_to_id(token)


def windows(encoding: Encoding, *, max_length: int, stride: int, sequence: int = 0) -> list[Encoding]:
    """Split the tokens of `sequence` into windows of `max_length` tokens in all; two neighbours share `stride`.

    Special tokens and the other sequence stand in every window. What is short enough stays whole.
    Raises InputError when the other tokens leave no room, or no more than `stride`.
    """
    if len(encoding) <= max_length:
        return [encoding]
    inside = np.flatnonzero(encoding.sequences == sequence)
    others = len(encoding) - len(inside)
    room = max_length - others
    if room <= stride:
        raise InputError(
            f"windows of {max_length} tokens leave {max(room, 0)} for the text, as {others} others stand in each: "
            f"expected more than the stride of {stride}. Lower the stride, or shorten the other text."
        )
    before, after = np.arange(inside[0]), np.arange(inside[-1] + 1, len(encoding))
    return [
        encoding.take(np.concatenate([before, inside[start : start + room], after]))
        for start in range(0, len(inside) - stride, room - stride)
    ]


def truncate(encoding: Encoding, max_length: int) -> Encoding:
    """Cut `encoding` to `max_length` tokens: from the end of the longer sequence, special tokens stay.

    The lengths of a pair are those of the "longest first" strategy of the tokenizers library.
    """
    if len(encoding) <= max_length:
        return encoding
    first, second = (np.flatnonzero(encoding.sequences == sequence) for sequence in (0, 1))
    special = np.flatnonzero(encoding.sequences < 0)
    room = max_length - len(special)
    if len(second) == 0:
        kept = [first[:room]]
    else:
        lengths = _longest_first(len(first), len(second), room)
        kept = [first[: lengths[0]], second[: lengths[1]]]
    return encoding.take(np.sort(np.concatenate([special, *kept])))


def _longest_first(first: int, second: int, room: int) -> tuple[int, int]:
    shorter = min(first, second, room // 2)
    longer = room - shorter
    return (shorter, longer) if first <= second else (longer, shorter)


def _check_text(text: object) -> None:
    if not isinstance(text, str):
        raise InputError(f"a text is a {type(text).__name__}, expected str.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"a text is not valid Unicode at character {error.start} ({error.reason}): replace it, for example with "
            'text.encode("utf-8", "replace").decode().'
        ) from error


def _int64_from_optional(values: Sequence[int | None]) -> np.ndarray:
    return np.array([-1 if value is None else value for value in values], np.int64)
