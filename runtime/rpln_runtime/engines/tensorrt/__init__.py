"""TensorRT engines of a bundle, run by NVIDIA's own runtime: `tensorrt`, or `tensorrt_rtx` for GeForce RTX.

The runtime's Python packages and `cuda.bindings` are imported when an engine is opened. They have run here with no GPU:
what a device does with them is taken from NVIDIA's documentation, and tests/gpu shows it where there is one.
"""

from rpln_runtime.engines.tensorrt.engine import TensorRtEngine, open_tensorrt

__all__ = ["TensorRtEngine", "open_tensorrt"]
