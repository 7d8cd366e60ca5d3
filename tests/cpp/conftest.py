"""The build of the C++ runtime, and bundles of the embedded checkpoints, each made once a run."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.cpp.building import Build, build
from tests.embedded import embedded_bundle


@pytest.fixture(scope="session")
def built(kept_folder: Path) -> Iterator[Build]:
    """Return the build: the installed runtime and the tests' programs."""
    made = build(kept_folder / "cpp")
    yield made
    made.stop_drivers()


@pytest.fixture(scope="session")
def demo(built: Build, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:  # comes first
    """Return a function that makes a bundle of a task's embedded checkpoint. Without the tools none is made."""
    return partial(embedded_bundle, tmp_path_factory)
