"""What the commands `rpln triton` and `python -m rpln_runtime.triton` do. Each function returns what to print."""

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
    max_text_bytes: int | None,
    options: Sequence[str],
    engine: str | None,
) -> str:
    """Write `repository`. `buckets` are lengths separated by commas, and each of `options` is NAME=VALUE."""
    replaced = repository.exists()
    models = write_repository(
        folder,
        repository,
        name=name,
        batch_size=batch_size,
        buckets=None if buckets is None else _lengths(buckets),
        max_text_bytes=max_text_bytes,
        options=dict(map(option_from_text, options)),
        engine=engine,
    )
    return "\n".join(
        [
            *(["The repository that was there is replaced, with whatever was edited in it."] if replaced else []),
            f"{repository} has the models {', '.join(models)}. Serve it, in its folder:",
            f"  {_line_of_readme(repository, 'tritonserver ')}",
            f"Ask {models[0]}:",
            f"  {_line_of_readme(repository, 'curl ')}",
            f"{repository / 'README.md'} says what to install on the server, what its limits are, and how to watch it.",
        ]
    )


def _line_of_readme(repository: Path, start: str) -> str:
    """Return the command of the repository's README that begins with `start`."""
    lines = (repository / "README.md").read_text(encoding="utf-8").splitlines()
    return next(line for line in lines if line.startswith(start))


def check(repository: Path) -> str:
    """Check `repository`. Raises RepositoryError for the problems that were found."""
    return f"{repository} has no problems: {', '.join(check_repository(repository))}."


def _lengths(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"buckets are {text!r}, expected lengths in tokens, such as 32,64,128.") from error
