"""How many GPUs there are is what CUDA's driver says, and none without a driver or where it fails."""

import ctypes
from typing import Any

import pytest

from rpln_runtime.engines.gpus import count_gpus

NO_DEVICE = 100
"""CUDA_ERROR_NO_DEVICE of CUDA's driver API."""


class Driver:
    """A stand-in for CUDA's driver, with three GPUs."""

    def __init__(self, status: int) -> None:
        self._status = status

    def cuInit(self, flags: int) -> int:  # noqa: N802  # CUDA's name
        assert flags == 0
        return self._status

    def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802  # CUDA's name
        count._obj.value = 3
        return 0


@pytest.mark.parametrize(("status", "gpus"), [(0, 3), (NO_DEVICE, 0)])
def test_the_driver_counts(monkeypatch: pytest.MonkeyPatch, status: int, gpus: int) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: Driver(status))
    assert count_gpus() == gpus


def test_without_a_driver_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert count_gpus() == 0
