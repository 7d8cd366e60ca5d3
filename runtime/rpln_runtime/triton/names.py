"""The names of the models of a repository."""

import re
from dataclasses import dataclass
from typing import Final

from rpln_runtime.errors import InputError

_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


@dataclass(frozen=True, slots=True)
class Names:
    """The names of a repository's models. They begin with `served`, the name that clients ask for.

    Raises InputError for a name that cannot be a folder, or cannot stand in a URL.
    """

    served: str

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.served):
            raise InputError(
                f"the name {self.served!r} cannot be a model's, which is a folder and part of a URL: expected letters, "
                "digits, _, . and -. Choose another with --name."
            )

    @property
    def tokenizer(self) -> str:
        """The name of the first step, which makes rows of texts."""
        return f"{self.served}_tokenizer"

    @property
    def model(self) -> str:
        """The name of the graph or engine."""
        return f"{self.served}_model"

    @property
    def answers(self) -> str:
        """The name of the last step, which makes answers."""
        return f"{self.served}_answers"
