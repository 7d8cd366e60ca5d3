"""What two graphs are both fed so that their values can be compared: a file's arrays, texts, or random tokens.

Shapes: B batch, S sequence, P past.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from rpln_export.compare.graph_files import GraphFile
from rpln_graphs.feeds import Feeds, WantedInput, build_feeds
from rpln_graphs.stress import arrays_from_mask
from rpln_runtime.errors import InputError
from rpln_runtime.manifest import TensorSpec
from rpln_runtime.tasks import BATCH, ENCODER_SEQUENCE, INT64, PAST, SEQUENCE, TOTAL
from rpln_runtime.tokenization import Tokenizer

LENGTHS: Final = (11, 5, 8)
"""Tokens in each row of the random batch: two rows are padded, and hardly another axis is as long."""
PAST_LENGTH: Final = 3
"""Tokens in the random cache of a decoder."""


def feeds_from_file(path: Path) -> Feeds:
    """The arrays in the .npz file `path`, by name. Raises InputError for what is no such file."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, BadZipFile, ValueError, TypeError) as error:
        expected = "an .npz file with an array for each input"
        raise InputError(f"{path} cannot be read ({error}): expected {expected}.") from error


def feeds_from_texts(texts: Sequence[str], files: Sequence[GraphFile]) -> Feeds:
    """Feeds for `texts`, one a row, by the tokenizer of the first bundle among `files`.

    Raises InputError where none lies in a bundle or for a text beyond its limit, ManifestError without a tokenizer.
    """
    for file in files:
        if file.manifest is not None:
            break
    else:
        raise InputError(
            "a text needs a tokenizer, and neither graph lies in a bundle: name a bundle, or give --feeds."
        )
    tokenizer = Tokenizer.from_bundle(file.path.parent, file.manifest)
    rows = [tokenizer.encode(text).ids for text in texts]
    longest, limit = max(map(len, rows)), _usable_length(files)
    if longest > limit:
        raise InputError(f"a text has {longest} tokens, the limit of this model is {limit}. Cut it.")
    return _feeds_from_rows(rows, files, past=0)


def random_feeds(files: Sequence[GraphFile]) -> Feeds | None:
    """Random tokens with padding, the same on every call; None where no bundle says what the graphs are fed."""
    specs = _specs(files)
    if not specs:
        return None
    rng = np.random.default_rng(0)
    tokens = min((spec.values for spec in specs if spec.name == "input_ids" and spec.values), default=1)
    past = min(PAST_LENGTH, _usable_length(files) - 1) if any(PAST in spec.shape for spec in specs) else 0
    rows = [rng.integers(0, tokens, min(length, _usable_length(files) - past)) for length in LENGTHS]
    return _feeds_from_rows(rows, files, past=past)


def _usable_length(files: Sequence[GraphFile]) -> int:
    return min(file.manifest.usable_length for file in files if file.manifest is not None)


def _specs(files: Sequence[GraphFile]) -> list[TensorSpec]:
    """What the bundles among `files` say of their graphs' inputs."""
    return [spec for file in files if file.graph is not None for spec in file.graph.inputs]


def _feeds_from_rows(rows: Sequence[NDArray[np.int64]], files: Sequence[GraphFile], *, past: int) -> Feeds:
    """Feeds for all inputs of the graphs, padded on the right; what does not follow from tokens is random."""
    pad = next(file.manifest.pad_token_id for file in files if file.manifest is not None)
    batch, sequence = len(rows), max(map(len, rows))
    sizes = {BATCH: batch, SEQUENCE: sequence, ENCODER_SEQUENCE: sequence, PAST: past, TOTAL: past + sequence}
    real_BS = np.arange(sequence) < np.array([[len(row)] for row in rows])
    ids_BS = np.full((batch, sequence), pad)
    ids_BS[real_BS] = np.concatenate(rows)
    known = {"input_ids": ids_BS, **arrays_from_mask(real_BS, pad=pad, past=past)}
    rng = np.random.default_rng(0)
    specs = {spec.name: spec for spec in _specs(files)}

    def values(name: str, shape: tuple[int, ...]) -> NDArray[Any]:
        if name in known:
            return known[name]
        if specs[name].dtype == INT64:
            return rng.integers(0, specs[name].values or 1, shape)
        return rng.standard_normal(shape)

    # Axes of other names, such as the choices for an item, are one long.
    wanted = (
        WantedInput(
            spec.name, spec.dtype, tuple(axis if isinstance(axis, int) else sizes.get(axis, 1) for axis in spec.shape)
        )
        for spec in specs.values()
    )
    return build_feeds(wanted, values)
