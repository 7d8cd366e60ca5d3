"""Streams of text: tokens in, pieces of text out. Joined, the pieces are the text of all tokens."""

from collections.abc import Callable
from typing import Final

from rpln_runtime.tokenization import Tokenizer

_INCOMPLETE: Final = "\N{REPLACEMENT CHARACTER}"
"""What the tokenizer decodes to where the bytes of a character are incomplete."""


class TextStream:
    """The text of one sequence. A character that consists of several tokens is given with the last of them."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._tokens: list[int] = []  # from the last token that is given on: the text of the next may depend on it
        self._given = 0  # how many characters of their text are given

    def push(self, token: int) -> str:
        """Add a token and return the text that it completes, which may be empty."""
        self._tokens.append(token)
        text = self._text()
        complete = len(text) - text.endswith(_INCOMPLETE)
        piece = text[self._given : complete]
        self._given = max(self._given, complete)
        if complete == len(text):
            self._tokens = [token]
            self._given = len(self._text())
        return piece

    def close(self) -> str:
        """Return the rest of the text: a character that was not completed."""
        return self._text()[self._given :]

    def _text(self) -> str:
        return self._tokenizer.decode(self._tokens, skip_special_tokens=True)


class TextStreams:
    """The texts of many sequences, each of which is given to `callback` in pieces.

    The arguments of `callback` are the place of the prompt, the place of the sequence there, and the piece.
    """

    def __init__(self, tokenizer: Tokenizer, callback: Callable[[int, int, str], None]) -> None:
        self._tokenizer = tokenizer
        self._callback = callback
        self._streams: dict[tuple[int, int], TextStream] = {}

    def push(self, prompt: int, sequence: int, token: int) -> None:
        """Add a token to a sequence."""
        stream = self._streams.setdefault((prompt, sequence), TextStream(self._tokenizer))
        if piece := stream.push(token):
            self._callback(prompt, sequence, piece)

    def close(self) -> None:
        """Give the rest of each text."""
        for (prompt, sequence), stream in self._streams.items():
            if rest := stream.close():
                self._callback(prompt, sequence, rest)
