"""Text to token ids by the `tokenizer.json` of a bundle, with character offsets, and windows over long texts."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final, overload

import numpy as np

from rpln_runtime.errors import InputError, ManifestError
from rpln_runtime.facts import LEFT, RIGHT
from rpln_runtime.limits import DOCUMENTS, TOKENIZER
from rpln_runtime.long_texts import LEAD, PIECE, Pieces
from rpln_runtime.manifest import Manifest
from rpln_runtime.options import shown_kind

if TYPE_CHECKING:
    import tokenizers

_TOKENIZER_NAME: Final = "tokenizer.json"
"""The file of the tokenizer in a bundle."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """The tokens of a text, of a pair of texts, or of a window over one.

    Every array is int64 and has a row for each token.

    Attributes:
        ids: the ids of the tokens, (tokens).
        type_ids: the token types, (tokens).
        offsets: the first character of each token and the one after its last, in its own text, (tokens, 2).
        words: the number of the word that the token is part of, -1 for special tokens, (tokens).
        sequences: 0 for tokens of the text, 1 for those of its pair, -1 for the special tokens around them, (tokens).
        positions: the place of the token in the encoding of the whole text, from which windows are cut, (tokens).
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
        """Return an encoding of only the tokens at `indices`."""
        return Encoding(*(getattr(self, field.name)[indices] for field in fields(self)))


def join_encodings(encodings: Sequence[Encoding]) -> Encoding:
    """Return one encoding of the tokens of all `encodings`, in order."""
    columns = ([getattr(encoding, field.name) for encoding in encodings] for field in fields(Encoding))
    return Encoding(*(np.concatenate(column) for column in columns))


class Tokenizer:
    """The tokenizer of a bundle. It never pads or truncates, even where its file asks for that.

    Attributes:
        marks_subwords: whether the model marks tokens that continue a word, as WordPiece does. Byte-level BPE marks
            none.
        unknown_id: the id of the token for unknown text; None if there is none.
    """

    def __init__(self, backend: "tokenizers.Tokenizer") -> None:
        backend.no_padding()
        backend.no_truncation()
        self._backend = backend
        self.marks_subwords = bool(getattr(backend.model, "continuing_subword_prefix", None))
        self.unknown_id = backend.token_to_id(getattr(backend.model, "unk_token", None) or "<unk>")

    @classmethod
    def from_bundle(cls, folder: Path, manifest: Manifest) -> "Tokenizer":
        """Return the tokenizer of the bundle in `folder`. Raises ManifestError if it is missing or cannot be read."""
        import tokenizers

        if _TOKENIZER_NAME not in {file.path for file in manifest.files}:
            raise ManifestError(
                f"{folder} has no {_TOKENIZER_NAME}: export the checkpoint with a fast tokenizer (--tokenizer)."
            )
        path, most = folder / _TOKENIZER_NAME, DOCUMENTS[TOKENIZER].size
        try:
            size = path.stat().st_size
        except OSError as error:
            raise ManifestError(f"cannot read {path} ({error}). Export the checkpoint again.") from error
        if size > most:
            raise ManifestError(f"{path} has {size:,} bytes, expected at most {most:,}. Export the checkpoint again.")
        try:
            return cls(tokenizers.Tokenizer.from_file(str(path)))
        except BaseException as error:
            if not _is_of_tokenizers(error):
                raise
            raise ManifestError(
                f"tokenizers {tokenizers.__version__} cannot read {path} ({error}). Export the checkpoint again, or "
                "run: pip install --upgrade tokenizers"
            ) from error

    def encode(self, text: str, pair: str | None = None) -> Encoding:
        """Return the tokens of `text`, or of `text` and its `pair`, with special tokens.

        Raises InputError for a value that is not a str, and for one that is not valid Unicode.
        """
        texts = (text,) if pair is None else (text, pair)
        for part in texts:
            _check_text(part)
        if max(map(len, texts)) > PIECE and self._pieces.cuttable:
            return self._encoding_by_pieces(texts)
        return self._encoding(text, pair)

    def encode_words(self, words: Sequence[str], *, delimiter: str) -> Encoding:
        """Return the tokens of each of the `words`, with special tokens, as transformers does it for split words.

        Offsets are those in the text of the words with the `delimiter` between them. Raises InputError as `encode`.
        """
        for word in words:
            _check_text(word)
        encoding = self._encoding(list(words), None, is_pretokenized=True)
        lengths = [len(word) + len(delimiter) for word in words]
        # The place of each word in the text. Special tokens, whose word is -1, have none: the last entry is theirs.
        starts = np.array([*itertools.accumulate(lengths, initial=0)])
        starts[-1] = 0
        return replace(encoding, offsets=encoding.offsets + starts[encoding.words][:, np.newaxis])

    def check_bytes(self, text: str, most: int, *, advice: str) -> None:
        """Raise InputError for a long text whose bytes alone show that it has more than `most` tokens.

        This costs almost no time, where tokenizing a text of 10 MB takes seconds. Raises InputError as `encode`, too.
        """
        _check_text(text)
        if len(text) > PIECE and (least := self._pieces.least_tokens(text)) > most:
            raise InputError(f"a text has {least} tokens or more, but the limit of this model is {most}: {advice}")

    @cached_property
    def takes_words(self) -> bool:
        """Whether words that are given one by one become the tokens that they have in a text with spaces."""
        return np.array_equal(self.encode("a a").ids, self.encode_words(["a", "a"], delimiter=" ").ids)

    @cached_property
    def _pieces(self) -> Pieces:
        return Pieces.of(self._backend)

    def _encoding_by_pieces(self, texts: Sequence[str]) -> Encoding:
        """Return what `_encoding` returns for a text or a pair, in less time and memory for long ones."""
        # What surrounds texts does not depend on them: here it surrounds short ones, whose tokens are replaced.
        frame = self._encoding(LEAD, None if len(texts) == 1 else LEAD)
        parts = []
        for sequence, places in itertools.groupby(range(len(frame)), lambda place: int(frame.sequences[place])):
            part = frame.take(np.array([*places]))
            if sequence >= 0:
                own = self._encoding_of_pieces(texts[sequence])
                columns = {"sequences": part.sequences, "type_ids": part.type_ids}
                part = replace(own, **{name: np.repeat(column[:1], len(own)) for name, column in columns.items()})
            parts.append(part)
        joined = join_encodings(parts)
        return replace(joined, positions=np.arange(len(joined)))

    def _encoding_of_pieces(self, text: str) -> Encoding:
        """Return the tokens of a text without special tokens around it."""
        lead = len(self._encoding(LEAD, None, add_special_tokens=False))
        parts: list[Encoding] = []
        for begin, end in self._pieces.cut(text):
            if not parts:
                parts.append(self._encoding(text[:end], None, add_special_tokens=False))
                continue
            part = self._encoding(LEAD + text[begin:end], None, add_special_tokens=False)
            part = part.take(np.arange(lead, len(part)))
            # The lead is a character and a word that the text does not have.
            words = part.words + parts[-1].words[-1]
            parts.append(replace(part, offsets=part.offsets + begin - len(LEAD), words=words))
        return join_encodings(parts) if parts else self._encoding(text, None, add_special_tokens=False)

    def _encoding(
        self,
        text: str | list[str],
        pair: str | None,
        *,
        is_pretokenized: bool = False,
        add_special_tokens: bool = True,
    ) -> Encoding:
        """Return the tokens of a text or of words. Raises ManifestError where tokenizers fails."""
        encoding = self._backend_encoding(
            text, pair, is_pretokenized=is_pretokenized, add_special_tokens=add_special_tokens
        )
        return Encoding(
            ids=np.array(encoding.ids, np.int64),
            type_ids=np.array(encoding.type_ids, np.int64),
            offsets=np.array(encoding.offsets, np.int64).reshape(-1, 2),
            words=_int64_from_optional(encoding.word_ids),
            sequences=_int64_from_optional(encoding.sequence_ids),
            positions=np.arange(len(encoding.ids)),
        )

    def _backend_encoding(
        self, text: str | list[str], pair: str | None, *, is_pretokenized: bool, add_special_tokens: bool
    ) -> "tokenizers.Encoding":
        """Return the encoding of tokenizers. Raises ManifestError where it fails, which is not for a text's sake."""
        try:
            return self._backend.encode(
                text, pair, is_pretokenized=is_pretokenized, add_special_tokens=add_special_tokens
            )
        except BaseException as error:
            if not _is_of_tokenizers(error):
                raise
            raise ManifestError(
                f"the tokenizer of the bundle fails to encode a text ({error}). Export the checkpoint again."
            ) from error

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """Return the text of the tokens `ids`, with special tokens or without them."""
        return self._backend.decode(list(ids), skip_special_tokens=skip_special_tokens)

    def join(self, tokens: Sequence[str]) -> str:
        """Return the text of tokens that are given by their names in the vocabulary."""
        decoder = self._backend.decoder
        return " ".join(tokens) if decoder is None else decoder.decode(list(tokens))

    def token(self, token_id: int) -> str:
        """Return the name of the token with this id; "" if there is none."""
        return self._backend.id_to_token(token_id) or ""

    def token_id(self, token: str) -> int | None:
        """Return the id of the token with this name; None if there is none."""
        return self._backend.token_to_id(token)


class Windows(Sequence[Encoding]):
    """Windows over an encoding. Each is made when it is taken: together they may be far larger than the encoding."""

    def __init__(self, encoding: Encoding, inside: np.ndarray, starts: range, room: int) -> None:
        """Cut windows of up to `room` tokens from those at the places `inside`, which begin at `starts` among them."""
        self._encoding, self._inside, self._starts, self._room = encoding, inside, starts, room

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, index: int) -> Encoding: ...

    @overload
    def __getitem__(self, index: slice) -> "Windows": ...

    def __getitem__(self, index: int | slice) -> "Encoding | Windows":
        if isinstance(index, slice):
            return Windows(self._encoding, self._inside, self._starts[index], self._room)
        start, inside = self._starts[index], self._inside
        places = inside[max(start, 0) : start + self._room]
        before, after = np.arange(inside[0]), np.arange(inside[-1] + 1, len(self._encoding))
        return self._encoding.take(np.concatenate([before, places, after]))


def windows(
    encoding: Encoding, *, max_length: int, stride: int, sequence: int = 0, truncation_side: str = RIGHT
) -> Sequence[Encoding]:
    """Return windows over `encoding`, of at most `max_length` tokens, of which two neighbours share `stride` tokens.

    Only the tokens of one sequence are cut: 0 for the text, 1 for its pair. The other tokens are in every window. An
    encoding that is short enough is its own only window. If `truncation_side` is "left", they begin with the window at
    the end of the text, as those of the tokenizers library do. Raises InputError if the other tokens leave room for no
    more than `stride` tokens.
    """
    if len(encoding) <= max_length:
        return [encoding]
    inside = np.flatnonzero(encoding.sequences == sequence)
    others = len(encoding) - len(inside)
    room = max_length - others
    if room <= stride:
        raise InputError(
            f"a window of {max_length} tokens has room for {max(room, 0)} tokens of the text beside {others} others: "
            f"expected more than the stride of {stride}. Lower the stride, or shorten the other text."
        )
    step = room - stride
    starts = range(0, len(inside) - stride, step)
    if truncation_side == LEFT:
        # The first window ends where the text ends, and the last one may begin before the text.
        starts = range(len(inside) - room, stride - room, -step)
    return Windows(encoding, inside, starts, room)


def truncate(encoding: Encoding, max_length: int, *, truncation_side: str = RIGHT) -> Encoding:
    """Return `encoding` cut to at most `max_length` tokens.

    Special tokens stay, and other tokens are cut from the end, or from the start if `truncation_side` is "left". Of a
    pair, the longer text is cut first, as the strategy "longest_first" of the tokenizers library does.
    """
    if len(encoding) <= max_length:
        return encoding
    first, second = (np.flatnonzero(encoding.sequences == sequence) for sequence in (0, 1))
    special = np.flatnonzero(encoding.sequences < 0)
    room = max_length - len(special)
    lengths = _longest_first(len(first), len(second), room) if len(second) else (min(len(first), room), 0)
    kept = [
        inside[len(inside) - length :] if truncation_side == LEFT else inside[:length]
        for inside, length in zip((first, second), lengths, strict=True)
    ]
    return encoding.take(np.sort(np.concatenate([special, *kept])))


def _longest_first(first: int, second: int, room: int) -> tuple[int, int]:
    """Return how many tokens stay of each text of a pair, where there is room for `room` tokens in all."""
    shorter = min(first, second, room // 2)
    longer = room - shorter
    return (shorter, longer) if first <= second else (longer, shorter)


def _is_of_tokenizers(error: BaseException) -> bool:
    """Whether the tokenizers library raised `error`: an Exception, or what Rust calls a panic, which is none."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def _check_text(text: object) -> None:
    if not isinstance(text, str):
        raise InputError(f"a text is {shown_kind(text)}, expected a str.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"a text is not valid Unicode at character {error.start} ({error.reason}): replace it, for example with "
            'text.encode("utf-8", "replace").decode().'
        ) from error


def _int64_from_optional(values: Sequence[int | None]) -> np.ndarray:
    return np.array([-1 if value is None else value for value in values], np.int64)
