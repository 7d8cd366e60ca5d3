"""Finds the TensorRT engine of a bundle that Triton serves, and the lengths and batches that its profiles allow."""

from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Final

from rpln_runtime.engines.manifest import EngineManifest, Profile, read_engines
from rpln_runtime.errors import InputError, ManifestError
from rpln_runtime.manifest import Manifest
from rpln_runtime.tasks import BATCH, SEQUENCE
from rpln_runtime.triton.buckets import default_buckets

BUILDER: Final = "tensorrt"
"""The builder whose plans Triton's backend runs. TensorRT-RTX has plans of another format."""


def engine_from_name(folder: Path, manifest: Manifest, name: str) -> EngineManifest:
    """Return the engine of engines/`name`.plan. Raises InputError where there is none that Triton runs."""
    engines = {PurePosixPath(engine.plan.path).stem: engine for engine in read_engines(folder, manifest)}
    if name not in engines:
        known = ", ".join(engines) or "none"
        raise InputError(
            f"the bundle has no engine {name!r}, it has {known}. Build one with rpln build --engine tensorrt."
        )
    engine = engines[name]
    if engine.builder != BUILDER:
        raise InputError(
            f"the engine {name!r} was built by {engine.builder}, and Triton runs engines of {BUILDER}. Build one on "
            "the GPU of the server with rpln build --engine tensorrt."
        )
    if engine.stripped:
        raise InputError(f"the engine {name!r} holds no weights, and Triton does not add them. Build one with weights.")
    if engine.variant != manifest.graphs[0].variant:
        raise InputError(
            f"the engine {name!r} runs the variant {engine.variant}, expected {manifest.graphs[0].variant}."
        )
    if not any(_starts_at_one(profile) for profile in engine.profiles):
        raise InputError(
            f"the engine {name!r} takes no batch of 1. Build one with a profile whose axes, besides sequence, start "
            "at 1."
        )
    return engine


def longest_row(engine: EngineManifest, usable_length: int) -> int:
    """Return how many tokens a row of the engine may have."""
    return min(usable_length, max(profile[SEQUENCE].maximum for profile in engine.profiles))


def most_rows(engine: EngineManifest, buckets: Iterable[int]) -> int:
    """Return how many rows the engine takes in every one of `buckets`; 0 where a bucket fits no profile."""
    return min(max((profile[BATCH].maximum for profile in _fitting(engine, length)), default=0) for length in buckets)


def engine_buckets(engine: EngineManifest, limit: int) -> list[int]:
    """Return the default buckets that fit the engine. Raises ManifestError where there are none."""
    buckets = [length for length in default_buckets(limit) if any(_fitting(engine, length))]
    if not buckets:
        raise ManifestError("the engine's profiles take none of the default buckets: choose them with --buckets.")
    return buckets


def check_fit(engine: EngineManifest, buckets: Sequence[int], batch_size: int) -> None:
    """Raise InputError unless the engine takes 1 to `batch_size` rows of each of `buckets`."""
    if (most := most_rows(engine, buckets)) < batch_size:
        ranges = "; ".join(f"batch={profile[BATCH]},sequence={profile[SEQUENCE]}" for profile in engine.profiles)
        raise InputError(
            f"the engine takes {most} rows of every bucket ({', '.join(map(str, buckets))}), the batch size is "
            f"{batch_size}: its profiles are {ranges}. Lower --batch-size, or choose other --buckets."
        )


def _fitting(engine: EngineManifest, length: int) -> list[Profile]:
    return [
        profile
        for profile in engine.profiles
        if _starts_at_one(profile) and profile[SEQUENCE].minimum <= length <= profile[SEQUENCE].maximum
    ]


def _starts_at_one(profile: Profile) -> bool:
    """Return whether the profile takes a single row, of one choice or one mask."""
    return all(sizes.minimum == 1 for axis, sizes in profile.items() if axis != SEQUENCE)
