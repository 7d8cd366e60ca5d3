"""What the models of a repository are called."""

import re
from dataclasses import dataclass
from typing import Final

from rpln_runtime.errors import InputError

_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


@dataclass(frozen=True, slots=True)
class Names:
    """The names of a repository's models, after what clients ask for: the ensemble, or the generator.

    Raises InputError for what is no name of a folder and of a URL's part.
    """

    served: str

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.served):
            raise InputError(
                f"the name {self.served!r} is no folder's that stands in a URL as it is: expected letters, digits, "
                "_, . and -. Choose another with --name."
            )

    @property
    def tokenizer(self) -> str:
        """The first step."""
        return f"{self.served}_tokenizer"

    @property
    def model(self) -> str:
        """The graph, or the engine."""
        return f"{self.served}_model"

    @property
    def answers(self) -> str:
        """The last step."""
        return f"{self.served}_answers"
