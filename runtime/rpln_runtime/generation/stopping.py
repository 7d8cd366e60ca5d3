"""When a sequence ends: at a stop token, or when its new text holds a stop string."""

from collections.abc import Sequence

from rpln_runtime.tokenization import Tokenizer


class Stopping:
    """The ends of a generation's sequences.

    Attributes:
        tokens: the stop tokens.
    """

    def __init__(self, tokens: Sequence[int], strings: Sequence[str], tokenizer: Tokenizer) -> None:
        self.tokens = frozenset(tokens)
        self._strings = strings
        self._tokenizer = tokenizer
        # A token is a byte or more, so that as many of them hold the longest string, wherever the last one ends.
        self._window = max((len(text.encode()) for text in strings), default=0)

    def ends(self, new_tokens: Sequence[int]) -> bool:
        """Whether the last of a sequence's new tokens ends it."""
        if new_tokens[-1] in self.tokens:
            return True
        if not self._strings:
            return False
        text = self._tokenizer.decode(new_tokens[-self._window :])
        return any(string in text for string in self._strings)
