"""Settings for tests of models: torch uses one thread, and some files are collected only with transformers 4.57."""

import pytest
import torch

from tests.model.lines import TRANSFORMERS_4

collect_ignore = [] if TRANSFORMERS_4 else ["test_only_457.py"]


def pytest_report_header() -> list[str]:
    return [] if TRANSFORMERS_4 else ["tests/model/test_only_457.py is skipped: it runs with transformers 4.57"]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
