"""How many GPUs CUDA finds, asked of the driver itself, which needs no package."""

import ctypes
import sys

_DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"


def count_gpus() -> int:
    """Return how many of NVIDIA's GPUs this process may use: 0 without a driver. CUDA_VISIBLE_DEVICES counts."""
    try:
        driver = ctypes.CDLL(_DRIVER)
    except OSError:
        return 0
    count = ctypes.c_int()
    failed = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    return 0 if failed else count.value
