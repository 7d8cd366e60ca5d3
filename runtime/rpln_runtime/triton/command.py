"""What `rpln triton` and `python -m rpln_runtime.triton` do with their arguments: texts in, a sentence out."""

from collections.abc import Sequence
from pathlib import Path

from rpln_runtime.command_line import option_from_text
from rpln_runtime.errors import InputError
from rpln_runtime.triton.checking import check_repository
from rpln_runtime.triton.writer import write_repository


def write(
    folder: Path,
    repository: Path,
    *,
    name: str | None,
    batch_size: int | None,
    buckets: str | None,
    options: Sequence[str],
    engine: str | None,
) -> str:
    """Write `repository` and say so. `buckets` are numbers between commas, `options` are each NAME=VALUE."""
    models = write_repository(
        folder,
        repository,
        name=name,
        batch_size=batch_size,
        buckets=None if buckets is None else _lengths(buckets),
        options=dict(map(option_from_text, options)),
        engine=engine,
    )
    return f"{repository}: {', '.join(models)}. How to serve and what to ask: {repository / 'README.md'}"


def check(repository: Path) -> str:
    """Check `repository` and say that nothing was found. Raises RepositoryError for what was."""
    return f"{repository}: {', '.join(check_repository(repository))} are as they should be."


def _lengths(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"buckets are {text!r}, expected lengths in tokens, such as 32,64,128.") from error
