"""Text as it comes: tokens in, pieces of text out, which joined are the text of all tokens."""

from collections.abc import Callable
from typing import Final

from rpln_runtime.tokenization import Tokenizer

_INCOMPLETE: Final = "\N{REPLACEMENT CHARACTER}"


class TextStream:
    """The text of one sequence. A character that several tokens spell is given when the last of them is there."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._tokens: list[int] = []  # from one that was given completely: what follows may depend on it, as a space
        self._given = 0  # characters of their text

    def push(self, token: int) -> str:
        """Return the text that `token` completes, which may be none."""
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
        """Return what is left: a character that was never completed."""
        return self._text()[self._given :]

    def _text(self) -> str:
        return self._tokenizer.decode(self._tokens, skip_special_tokens=True)


class TextStreams:
    """The texts of many sequences, each given to `callback` in pieces, after its prompt's place and its own."""

    def __init__(self, tokenizer: Tokenizer, callback: Callable[[int, int, str], None]) -> None:
        self._tokenizer = tokenizer
        self._callback = callback
        self._streams: dict[tuple[int, int], TextStream] = {}

    def push(self, prompt: int, sequence: int, token: int) -> None:
        """Take a sequence's next token."""
        stream = self._streams.setdefault((prompt, sequence), TextStream(self._tokenizer))
        if piece := stream.push(token):
            self._callback(prompt, sequence, piece)

    def close(self) -> None:
        """Give what is left."""
        for (prompt, sequence), stream in self._streams.items():
            if rest := stream.close():
                self._callback(prompt, sequence, rest)
