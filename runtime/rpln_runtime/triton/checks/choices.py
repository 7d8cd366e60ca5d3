"""The choices that a repository was written with, as its configurations tell them."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rpln_runtime.errors import InputError
from rpln_runtime.triton.buckets import check_buckets, default_buckets
from rpln_runtime.triton.checks.fields import lengths_from_text
from rpln_runtime.triton.checks.model import Model
from rpln_runtime.triton.checks.reading import Config
from rpln_runtime.triton.plan import MOST_ROWS
from rpln_runtime.triton.request import options_from_text


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """The choices besides the bundle and the name.

    Attributes:
        batch_size: what most of the fields hold that must hold it.
        buckets: the text of the first step's parameter; empty if there is none.
        options: the options of the first step that has some that can be read.
    """

    batch_size: int
    buckets: str
    options: Mapping[str, Any]


def choices_of(models: Sequence[Model]) -> Choices:
    """Return the choices that the configurations of `models` tell."""
    configs = [config for model in models for config in model.configs.values()]
    sizes = Counter(size for config in configs for size in _sizes(config) if 1 <= size <= MOST_ROWS)
    options = [one for config in configs if (one := _options(config)) is not None]
    return Choices(
        batch_size=sizes.most_common(1)[0][0] if sizes else 1,
        buckets=next((text for config in configs if (text := parameter(config, "buckets"))), ""),
        options=options[0] if options else {},
    )


def buckets_of(choices: Choices, limit: int) -> tuple[int, ...]:
    """Return the buckets; the default ones where those of the repository are none for a model of `limit` tokens."""
    try:
        buckets = lengths_from_text(choices.buckets)
        check_buckets(buckets, limit)
    except InputError:
        return tuple(default_buckets(limit))
    return buckets


def parameter(config: Config, name: str) -> str | None:
    """Return a parameter of a configuration; None if it is not there or empty."""
    return config.values.get(("parameters", f'["{name}"]', "string_value"))


def _sizes(config: Config) -> Iterator[int]:
    yield config.values.get(("max_batch_size",), 0)
    for name in ("most_rows", "batch_size"):
        text = parameter(config, name) or ""
        yield int(text) if text.isdecimal() and len(text) < 20 else 0


def _options(config: Config) -> dict[str, Any] | None:
    text = parameter(config, "options")
    try:
        return None if text is None else options_from_text(text.encode())
    except InputError:
        return None
