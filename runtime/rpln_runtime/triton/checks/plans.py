"""What a repository was written from: the manifests beside its versions, and choices that its configurations tell."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rpln_runtime.errors import InputError
from rpln_runtime.manifest import Manifest
from rpln_runtime.tasks import TASKS
from rpln_runtime.triton.buckets import check_buckets, default_buckets, lengths_from_text
from rpln_runtime.triton.checks.marker import Marker
from rpln_runtime.triton.checks.model import Model
from rpln_runtime.triton.checks.reading import Config
from rpln_runtime.triton.contents import manifest_bytes
from rpln_runtime.triton.digits import number_from_text
from rpln_runtime.triton.plan import MOST_ROWS, RepositoryPlan, default_text_bytes
from rpln_runtime.triton.request import options_from_text


@dataclass(frozen=True, slots=True, kw_only=True)
class _Choices:
    """The choices besides the bundle and the name.

    Attributes:
        batch_size: what most of the fields hold that must hold it.
        buckets: the text of the first step's parameter; empty if there is none.
        max_text_bytes: the first number of bytes that texts may have; None if there is none.
        options: the options of the first step that has some that can be read.
    """

    batch_size: int
    buckets: str
    max_text_bytes: int | None
    options: Mapping[str, Any]


def plans_of(marker: Marker, models: Sequence[Model]) -> dict[int, RepositoryPlan]:
    """Return what each version is written from. Its manifest is the one that was written, or that most steps have."""
    choices, plans = _choices_of(models), {}
    for version in sorted({version for model in models for version in model.manifests}):
        found = [(model, model.manifests[version]) for model in models if version in model.manifests]
        texts = [manifest_bytes(manifest) for _, manifest in found]
        best = max(texts, key=lambda text: (marker.tells_of(version, text), texts.count(text)))
        plans[version] = _plan(marker, choices, version, found[texts.index(best)][1], models)
    return plans


def _plan(
    marker: Marker, choices: _Choices, version: int, manifest: Manifest, models: Sequence[Model]
) -> RepositoryPlan:
    steps = [model.folder / str(version) for model in models if model.role == "tokenizer"]
    engines = [model.engines[version] for model in models if version in model.engines]
    return RepositoryPlan(
        folder=steps[0] if steps else Path(),
        manifest=manifest,
        names=marker.names,
        batch_size=choices.batch_size,
        buckets=() if TASKS[manifest.task].generates else _buckets_of(choices, manifest.usable_length),
        max_text_bytes=choices.max_text_bytes or default_text_bytes(manifest.usable_length, choices.batch_size),
        options=choices.options,
        engine=engines[0] if engines else None,
    )


def _choices_of(models: Sequence[Model]) -> _Choices:
    """Return the choices that the configurations of `models` tell."""
    configs = [config for model in models for config in model.configs.values()]
    sizes = Counter(size for config in configs for size in _sizes(config) if 1 <= size <= MOST_ROWS)
    options = [one for config in configs if (one := _options(config)) is not None]
    return _Choices(
        batch_size=sizes.most_common(1)[0][0] if sizes else 1,
        buckets=next((text for config in configs if (text := _parameter(config, "buckets"))), ""),
        max_text_bytes=next(filter(None, (_number(config, "max_text_bytes") for config in configs)), None),
        options=options[0] if options else {},
    )


def _buckets_of(choices: _Choices, limit: int) -> tuple[int, ...]:
    """Return the buckets; the default ones where those of the repository are none for a model of `limit` tokens."""
    try:
        buckets = lengths_from_text(choices.buckets)
        check_buckets(buckets, limit)
    except InputError:
        return tuple(default_buckets(limit))
    return buckets


def _parameter(config: Config, name: str) -> str | None:
    """Return a parameter of a configuration; None if it is not there or empty."""
    return config.values.get(("parameters", f'["{name}"]', "string_value"))


def _sizes(config: Config) -> Iterator[int]:
    yield config.values.get(("max_batch_size",), 0)
    for name in ("most_rows", "batch_size"):
        yield _number(config, name)


def _number(config: Config, name: str) -> int:
    """Return a parameter of a configuration as a number; 0 if it is none."""
    return number_from_text(_parameter(config, name) or "") or 0


def _options(config: Config) -> dict[str, Any] | None:
    text = _parameter(config, "options")
    try:
        return None if text is None else options_from_text(text.encode())
    except InputError:
        return None
