"""TensorRT engines of a bundle, run by NVIDIA's own runtime: the module `tensorrt`, or `tensorrt_rtx` for GeForce RTX.

NVIDIA's packages and `cuda.bindings` are imported when an engine is opened. What this does with a GPU follows NVIDIA's
documentation. It is tested with a stand-in that computes on the CPU, and by tests/gpu on a machine that has a GPU.
"""

from rpln_runtime.engines.tensorrt.engine import open_tensorrt

__all__ = ["open_tensorrt"]
