"""TensorRT in tests: where it may be missing, and what a plan itself says it is for."""

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
"""For tests that build engines: skipped where that is not installed, and failing there in CI."""

_MAGIC: Final = b"vtrt"
_BIT_OF_TARGET: Final = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")


def targets_of_plan(plan: bytes) -> tuple[str, ...]:
    """The compute capabilities that a plan of TensorRT-RTX 1.7 is for, by a bit mask in its header.

    The header is not documented: this is what differs between plans that are built for one target each.
    """
    assert plan[: len(_MAGIC)] == _MAGIC
    (bits,) = struct.unpack_from("<I", plan, 32)
    assert bits < 1 << len(_BIT_OF_TARGET)
    return tuple(target for index, target in enumerate(_BIT_OF_TARGET) if bits >> index & 1)
