"""Bundles of every task, each made once a run."""

import functools
import warnings
from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import settings

from rpln_runtime.tasks import TASKS
from tests.runtime.bundles import Bundle, copy_with_prefix_space, make_bundle

# A shared machine may be slow for a moment: no example is timed.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def bundle_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Bundle]:
    @functools.cache
    def bundle_of(task: str, *, add_prefix_space: bool = False, labels: tuple[str, ...] | None = None) -> Bundle:
        folder = tmp_path_factory.mktemp(task)
        if add_prefix_space:
            return copy_with_prefix_space(bundle_of(task), folder)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's exporter warns of its own internals
            return make_bundle(folder, TASKS[task], labels=labels)

    return bundle_of
