"""Settings for tests of graphs: torch uses one thread, and traces that many tests look at are made once."""

from collections.abc import Callable
from functools import cache

import pytest
import torch

from tests.graphs.networks import Network, trace_task

Traced = Callable[[str], Network]


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def traced() -> Traced:
    """Return a function that traces the network of a task once: `traced("fill-mask")`. Tests may only change a copy."""
    return cache(trace_task)
