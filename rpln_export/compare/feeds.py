"""The inputs that two graphs are compared on: the arrays of a file, texts, or random tokens.

Arrays end in their shape: B batch, S sequence.
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
"""The numbers of tokens in the rows of the random batch. Two rows are padded, and few other axes are as long."""
PAST_LENGTH: Final = 3
"""The number of tokens in the random cache of a decoder."""


def feeds_from_file(path: Path) -> Feeds:
    """Return the arrays in the .npz file `path`, by name. Raises InputError for any other file."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, BadZipFile, ValueError, TypeError) as error:
        raise InputError(
            f"{path} cannot be read ({error}). Expected an .npz file with an array for each input."
        ) from error


def feeds_from_texts(texts: Sequence[str], files: Sequence[GraphFile]) -> Feeds:
    """Return the inputs for `texts`, one in each row, by the tokenizer of the first bundle among `files`.

    Raises InputError where no file lies in a bundle and for a text that is too long, and ManifestError for a bundle
    without a tokenizer.
    """
    for file in files:
        if file.manifest is not None:
            break
    else:
        raise InputError(
            "--text needs a tokenizer, but neither graph lies in a bundle. Name a bundle, or give the inputs with "
            "--feeds."
        )
    tokenizer = Tokenizer.from_bundle(file.path.parent, file.manifest)
    rows = [tokenizer.encode(text).ids for text in texts]
    longest, limit = max(map(len, rows)), _usable_length(files)
    if longest > limit:
        raise InputError(f"a text has {longest} tokens, but these graphs take at most {limit}. Shorten it.")
    return _feeds_from_rows(rows, files, past=0)


def random_feeds(files: Sequence[GraphFile]) -> Feeds | None:
    """Return random tokens with padding, the same on every call; None where no bundle says what the graphs take."""
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
    """Return the inputs of the graphs, as the bundles among `files` describe them."""
    return [spec for file in files if file.graph is not None for spec in file.graph.inputs]


def _feeds_from_rows(rows: Sequence[NDArray[np.int64]], files: Sequence[GraphFile], *, past: int) -> Feeds:
    """Return all inputs of the graphs for rows of ids, padded on the right. What ids do not determine is random."""
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

    # Axes of other names, such as choices, have the size 1.
    wanted = (
        WantedInput(
            spec.name, spec.dtype, tuple(axis if isinstance(axis, int) else sizes.get(axis, 1) for axis in spec.shape)
        )
        for spec in specs.values()
    )
    return build_feeds(wanted, values)
