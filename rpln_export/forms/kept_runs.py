"""Runs of a decoder whose engine keeps its cache: a prompt begins one, and steps continue it, as in a generation."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from rpln_export.forms.timing import Run
from rpln_graphs.feeds import Feeds
from rpln_runtime.engines.base import ROWS, Binding
from rpln_runtime.generation.cache import PAST


def kept_runs(keeping: Callable[[], Binding], batches: Sequence[tuple[Feeds, int]]) -> list[Run]:
    """Return a run for each of the `batches`, which are inputs and how often they are run in a row.

    Inputs without earlier tokens are those of a prompt, and others those of a step after the prompt before them. The
    runs are to be run in their order, because a step reads what was kept of its prompt.
    """
    runs: list[Run] = []
    generation = KeptGeneration(keeping)
    for feeds, times in batches:
        if any(name.startswith(PAST) and array.shape[2] for name, array in feeds.items()):
            runs.append(partial(generation.go_on, feeds, times))
        else:
            generation = KeptGeneration(keeping)
            runs.append(partial(generation.start, feeds))
    return runs


class KeptGeneration:
    """A generation from one batch of prompts, again and again."""

    def __init__(self, keeping: Callable[[], Binding]) -> None:
        self._keeping = keeping
        self._binding: Binding | None = None
        self._mask = np.empty((0, 0), np.int64)

    def start(self, feeds: Feeds) -> None:
        """Begin with an empty cache, and run a prompt."""
        self._binding = self._keeping()
        self._binding.bind_cpu_input(ROWS, np.arange(len(feeds["input_ids"]), dtype=np.int32))
        _bind(self._binding, feeds)
        self._mask = feeds["attention_mask"]
        self._binding.run()

    def go_on(self, feeds: Feeds, times: int) -> None:
        """Run a step so many times after the prompt, whose length counts: that of the step's own inputs may be less.

        Each adds a token to the cache, to which the next one looks, too.
        """
        assert self._binding is not None  # the prompt runs before its steps
        _bind(self._binding, feeds)
        one_more = np.ones((len(self._mask), 1), self._mask.dtype)
        mask = self._mask
        for _ in range(times):
            mask = np.concatenate([mask, one_more], axis=1)
            self._binding.bind_cpu_input("attention_mask", mask)
            self._binding.run()


def _bind(binding: Binding, feeds: Feeds) -> None:
    """Bind all inputs but those of the cache."""
    for name, array in feeds.items():
        if not name.startswith(PAST):
            binding.bind_cpu_input(name, array)
