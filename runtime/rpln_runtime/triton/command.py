"""What the commands `rpln triton` and `python -m rpln_runtime.triton` do. Each function returns what to print."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rpln_runtime.command_line import option_from_text
from rpln_runtime.triton.buckets import lengths_from_text
from rpln_runtime.triton.checking import check_repository
from rpln_runtime.triton.plan import make_plan
from rpln_runtime.triton.readme import ask_command, serve_command
from rpln_runtime.triton.writer import write_plan


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
    plan = make_plan(
        folder,
        name=name,
        batch_size=batch_size,
        buckets=None if buckets is None else lengths_from_text(buckets),
        max_text_bytes=max_text_bytes,
        options=dict(map(option_from_text, options)),
        engine=engine,
    )
    models = write_plan(plan, repository)
    return "\n".join(
        [
            *(["The repository that was there is replaced, with whatever was edited in it."] if replaced else []),
            f"{repository} has the models {', '.join(models)}. Serve it, in its folder:",
            f"  {serve_command(plan)}",
            f"Ask {models[0]}:",
            f"  {ask_command(plan)}",
            f"{repository / 'README.md'} says what to install on the server, what its limits are, and how to watch it.",
        ]
    )


def idle_with_check(given: Mapping[str, object]) -> str | None:
    """Return why options that were given beside --check are refused. None and an empty list stand for none given."""
    names = [f"--{name.replace('_', '-')}" for name, value in given.items() if value not in (None, (), [])]
    if not names:
        return None
    return (
        f"{', '.join(names)} {'has' if len(names) == 1 else 'have'} no effect with --check, which reads the choices "
        "from the repository: leave out --check, or what it does not take."
    )


def check(repository: Path) -> str:
    """Check `repository`. Raises RepositoryError for the problems that were found."""
    return f"{repository} has no problems: {', '.join(check_repository(repository))}."
