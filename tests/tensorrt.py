"""Helpers for tests of TensorRT: they skip where it is missing, and read the targets from a plan."""

import importlib.util
import os
import struct
from typing import Final

import pytest

from rpln_graphs.tensorrt.backends import BACKENDS

_RTX: Final = BACKENDS["tensorrt-rtx"]

NEEDS_TENSORRT_RTX: Final = pytest.mark.skipif(
    importlib.util.find_spec(_RTX.module) is None and os.environ.get("CI") != "true",
    reason=f"{_RTX.module} builds engines, with or without a GPU, and is not installed: {_RTX.install}",
)
"""A mark for tests that build engines. Without TensorRT-RTX they are skipped, or fail in CI."""

_MAGIC: Final = b"vtrt"
_BIT_OF_TARGET: Final = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")


def targets_of_plan(plan: bytes) -> tuple[str, ...]:
    """Return the compute capabilities that a plan of TensorRT-RTX 1.7 was built for.

    They are a bit mask in its header. The header is not documented; this is where plans differ that were built for one
    target each.
    """
    assert plan[: len(_MAGIC)] == _MAGIC
    (bits,) = struct.unpack_from("<I", plan, 32)
    assert bits < 1 << len(_BIT_OF_TARGET)
    return tuple(target for index, target in enumerate(_BIT_OF_TARGET) if bits >> index & 1)
