"""One thread, and the traces that many tests look at: a trace takes seconds."""

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
    """The network of a task, traced once: `traced("fill-mask")`. Its graph is shared: change only a copy."""
    return cache(trace_task)
