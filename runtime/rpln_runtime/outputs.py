"""Checks of the arrays that a graph gives: an array of another shape than the manifest's would give wrong answers."""

from collections.abc import Mapping

import numpy as np

from rpln_runtime.errors import ManifestError
from rpln_runtime.manifest import Graph, Manifest
from rpln_runtime.tasks import BATCH, BATCH_CHOICES, CHOICES, MASKED_TOKENS


def check_outputs(
    outputs: Mapping[str, np.ndarray], feeds: Mapping[str, np.ndarray], graph: Graph, manifest: Manifest
) -> None:
    """Check the shapes of `outputs`, which `graph` made of `feeds`.

    Raises ManifestError for one that is not as the manifest says.
    """
    sizes = _sizes_from_feeds(feeds, graph, manifest)
    for spec in graph.outputs:
        if (array := outputs.get(spec.name)) is None:
            continue
        expected = [sizes.get(axis, axis) for axis in spec.shape]
        fits = len(expected) == array.ndim and all(
            isinstance(size, str) or size == found for size, found in zip(expected, array.shape, strict=True)
        )
        if not fits:
            raise ManifestError(
                f"{graph.path} gave {spec.name!r} the shape {list(array.shape)}, but by the manifest it is {expected}. "
                "Export the checkpoint again."
            )


def _sizes_from_feeds(feeds: Mapping[str, np.ndarray], graph: Graph, manifest: Manifest) -> dict[str | int, int]:
    """Return the size of each dynamic axis that the inputs determine."""
    sizes: dict[str | int, int] = {
        axis: size
        for spec in graph.inputs
        for axis, size in zip(spec.shape, feeds[spec.name].shape, strict=True)
        if isinstance(axis, str)
    }
    if BATCH in sizes and CHOICES in sizes:
        sizes[BATCH_CHOICES] = sizes[BATCH] * sizes[CHOICES]
    if manifest.mask_token_id is not None and "input_ids" in feeds:
        sizes[MASKED_TOKENS] = int(np.count_nonzero(feeds["input_ids"] == manifest.mask_token_id))
    return sizes
