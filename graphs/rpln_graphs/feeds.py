"""The arrays that a graph is fed, in the shapes and types that its inputs have."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rpln_runtime.tasks import INT64

Feeds = dict[str, NDArray[Any]]
"""Arrays by the names of the inputs."""


class WantedInput(NamedTuple):
    """An input to make an array for: its name, its type as the task tables spell it, and its sizes."""

    name: str
    dtype: str
    shape: tuple[int, ...]


def build_feeds(inputs: Iterable[WantedInput], values: Callable[[str, tuple[int, ...]], NDArray[Any]]) -> Feeds:
    """Return an array for each of `inputs`: what `values` makes for its name and shape, reshaped and in its type."""
    return {
        name: values(name, shape).reshape(shape).astype(np.int64 if dtype == INT64 else np.float32)
        for name, dtype, shape in inputs
    }
