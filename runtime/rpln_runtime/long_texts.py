"""Long texts for a byte-level BPE: where they can be cut without changing a token, and how many tokens they have.

The tokenizers library works with some 300 bytes of memory for each byte of a text. Cut into pieces, a text with
spaces or punctuation needs this memory for one piece at a time, and takes half the time.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import tokenizers

PIECE: Final = 1 << 14
"""The least characters of a piece, the last one excepted."""
LEAD: Final = "x"
"""A word to put before each piece but the first, because a tokenizer treats the start of a text in its own way."""

_LETTER: Final = r"[A-Za-z\u3041-\u3096\u30a1-\u30fa\u4e00-\u9fa5\uac00-\ud7a3]"
_CUT: Final = re.compile(rf"(?<=\S) |(?<={_LETTER})[\t\r\n.,:;!?\u3001\u3002\uff01\uff0c\uff1a\uff1b\uff1f]")
"""A character that begins a word after the character before it, whatever else is in a text.

RoBERTa's words (Radford et al., 2019) are runs of letters, of numbers, of spaces or of other characters. So a word
begins where a space follows another character, and where one of these marks follows one of these letters.
"""
_ENDS_IN_LETTER: Final = re.compile(rf"{_LETTER}\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pieces:
    """What is known of a tokenizer's tokens.

    Attributes:
        longest: the most bytes of a text that a token stands for, spaces around an added token left aside; None if
            there is no limit.
        absorbing: the added tokens that take spaces around them along, as many as there are.
        cuttable: whether pieces of a text have the tokens that they have in the text.
    """

    longest: int | None
    absorbing: tuple[str, ...]
    cuttable: bool

    @classmethod
    def of(cls, backend: "tokenizers.Tokenizer") -> "Pieces":
        """Return what is known of `backend`: nothing, unless it is a byte-level BPE that knows every byte."""
        added = list(backend.get_added_tokens_decoder().values())
        vocabulary = backend.get_vocab(with_added_tokens=False)
        known = _is_byte_level(backend) and not _letters() - vocabulary.keys()
        lengths = [*map(len, vocabulary), *(len(token.content.encode()) for token in added)]
        return cls(
            longest=max(lengths) if known else None,
            absorbing=tuple(token.content for token in added if token.lstrip or token.rstrip),
            cuttable=known and backend.pre_tokenizer.use_regex and not any(map(_alters_pieces, added)),
        )

    def least_tokens(self, text: str) -> int:
        """Return how many tokens `text` has at least, special tokens left aside, by its length; 0 if there is no limit.

        It needs a small part of the time that tokenizing takes.
        """
        if self.longest is None:
            return 0
        if any(token in text for token in self.absorbing):
            parts = (text[at : at + PIECE] for at in range(0, len(text), PIECE))
            size = sum(len("".join(part.split()).encode()) for part in parts)
        else:
            size = len(text.encode())
        return -(-size // self.longest)

    def cut(self, text: str) -> Iterator[tuple[int, int]]:
        """Yield where each piece of `text` begins and ends, in characters."""
        begin = 0
        while begin < len(text):
            found = _CUT.search(text, begin + PIECE)
            end = found.start() if found else len(text)
            yield begin, end
            begin = end


def _is_byte_level(backend: "tokenizers.Tokenizer") -> bool:
    """Return whether every byte of a text is in exactly one token, and tokens depend on nothing but their word."""
    import tokenizers

    model = backend.model
    return (
        backend.normalizer is None
        and isinstance(backend.pre_tokenizer, tokenizers.pre_tokenizers.ByteLevel)
        and isinstance(model, tokenizers.models.BPE)
        and not (model.dropout or model.continuing_subword_prefix or model.end_of_word_suffix)
    )


def _letters() -> set[str]:
    """Return the letters that stand for the 256 bytes."""
    import tokenizers

    return set(tokenizers.pre_tokenizers.ByteLevel.alphabet())


def _alters_pieces(token: Any) -> bool:
    """Return whether an added token could reach over a cut, or change what is beside one.

    After an added token, the text begins anew, as a tokenizer with add_prefix_space shows unless a space follows.
    """
    content = token.content
    beside = content.startswith(LEAD) or _ENDS_IN_LETTER.search(content)
    return bool(token.rstrip or token.single_word or beside or _CUT.search(content))
