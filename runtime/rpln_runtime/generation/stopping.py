"""What ends a sequence: a stop token, or a stop string in its new text."""

from collections.abc import Sequence

from rpln_runtime.tokenization import Tokenizer


class Stopping:
    """What ends the sequences of a generation.

    Attributes:
        tokens: the ids of the stop tokens.
    """

    def __init__(self, tokens: Sequence[int], strings: Sequence[str], tokenizer: Tokenizer) -> None:
        self.tokens = frozenset(tokens)
        self._strings = strings
        self._tokenizer = tokenizer
        # A token is one byte or more, so this many tokens contain every stop string that the last one completes.
        self._window = max((len(text.encode()) for text in strings), default=0)

    def ends(self, new_tokens: Sequence[int]) -> bool:
        """Return whether the last one of `new_tokens` ends their sequence."""
        if new_tokens[-1] in self.tokens:
            return True
        if not self._strings:
            return False
        text = self._tokenizer.decode(new_tokens[-self._window :])
        return any(string in text for string in self._strings)
