"""Bundles of every task, each made once a run."""

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from rpln_runtime.tasks import TASKS
from tests.runtime.bundles import Bundle, make_bundle


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def bundle_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Bundle]:
    made: dict[str, Bundle] = {}

    def bundle_of(task: str, **fields: Any) -> Bundle:
        key = f"{task} {fields}"
        if key not in made:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch's exporter warns of its own internals
                made[key] = make_bundle(tmp_path_factory.mktemp(task), TASKS[task], **fields)
        return made[key]

    return bundle_of
