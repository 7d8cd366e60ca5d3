"""Bundles of every task, the environment with the server, and a server of them all."""

import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from rpln_runtime.tasks import TASKS
from rpln_runtime.triton import write_repository
from tests.triton.networks import ToyBundle, make_positions_bundle, make_toy_bundle, make_vectors_bundle
from tests.triton.repositories import BUCKETS, write_repositories
from tests.triton.server import Server, triton_server

ENVIRONMENT = Path(__file__).parents[2] / ".venv-triton"
STAMP = ENVIRONMENT / ".installed"
POSITIONS = "fill-mask-positions"
"""The name, in these tests, of fill-mask with a graph that is told where the mask tokens are."""
VECTORS = "vectors-of-texts"
"""The name of feature-extraction with a graph that gives one vector for each text."""
ENCODERS = (*(task for task, row in TASKS.items() if row.postprocess), POSITIONS, VECTORS)


@pytest.fixture(scope="session")
def bundle_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], ToyBundle]:
    """Return a function that makes one of ENCODERS, once."""

    @cache
    def bundle_of(name: str) -> ToyBundle:
        folder = tmp_path_factory.mktemp(name)
        special = {POSITIONS: make_positions_bundle, VECTORS: make_vectors_bundle}
        return special[name](folder) if name in special else make_toy_bundle(folder, name)

    return bundle_of


@pytest.fixture(scope="session")
def repositories(bundle_of: Callable[[str], ToyBundle], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of repositories without a mistake."""
    return write_repositories(bundle_of, tmp_path_factory.mktemp("bundles"), tmp_path_factory.mktemp("repositories"))


@pytest.fixture(scope="session")
def environment() -> Path:
    """Return the environment that has the server. Without it, tests of the server are skipped, or fail in CI."""
    if not STAMP.exists():
        reason = "no Triton server: make .venv-triton/.installed"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return ENVIRONMENT


@pytest.fixture(scope="session")
def encoders(
    environment: Path, bundle_of: Callable[[str], ToyBundle], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """Return a server of all ENCODERS."""
    repositories = tmp_path_factory.mktemp("repositories")
    for name in ENCODERS:
        write_repository(bundle_of(name).folder, repositories / name, name=name, buckets=BUCKETS)
    with triton_server(
        environment,
        sorted(repositories.iterdir()),
        tmp_path_factory.mktemp("server"),
        ["--cache-config=local,size=1048576"],
    ) as server:
        yield server
