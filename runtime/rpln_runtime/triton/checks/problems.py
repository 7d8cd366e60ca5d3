"""A problem of a repository, as a sentence with its place."""

from typing import NamedTuple


class Problem(NamedTuple):
    """What is wrong, in which file of the repository, and in which line of it if there is one."""

    file: str
    text: str
    line: int | None = None

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}, line {self.line}"
        return f"{place}: {self.text}"
