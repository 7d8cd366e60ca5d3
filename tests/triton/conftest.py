"""Bundles of every task, the environment with the server, and repositories."""

import os
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
import torch

from rpln_runtime.tasks import TASKS
from rpln_runtime.triton import write_repository
from tests.runtime.bundles import Bundle, make_bundle
from tests.triton.server import Server, triton_server

ENVIRONMENT = Path(__file__).parents[2] / ".venv-triton"
STAMP = ENVIRONMENT / ".installed"


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def bundle_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Bundle]:
    """The bundle of a task, made once."""

    @cache
    def bundle_of(task: str) -> Bundle:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's exporter warns of its own internals
            return make_bundle(tmp_path_factory.mktemp(task), TASKS[task])

    return bundle_of


@pytest.fixture(scope="session")
def environment() -> Path:
    """The environment that the server is in. CI has it; elsewhere tests of the server may be left out."""
    if not STAMP.exists():
        reason = "no Triton server: make .venv-triton/.installed"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return ENVIRONMENT


@pytest.fixture(scope="session")
def encoders(
    environment: Path, bundle_of: Callable[[str], Bundle], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A server of every task that does not generate; each is called after its task."""
    repositories = tmp_path_factory.mktemp("repositories")
    for task in (task for task, row in TASKS.items() if row.postprocess):
        write_repository(bundle_of(task).folder, repositories / task, name=task, buckets=(16, 32, 64))
    with triton_server(
        environment,
        sorted(repositories.iterdir()),
        tmp_path_factory.mktemp("server"),
        ["--cache-config=local,size=1048576"],
    ) as server:
        yield server
