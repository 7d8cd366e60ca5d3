"""The runtimes of graphs: ONNX Runtime and OpenVINO, both in fp32 where the graph does not round."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray

Feeds = Mapping[str, NDArray[Any]]

OPENVINO: Final = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
"""OpenVINO's settings. It would compute in bf16 on some CPUs."""


def onnxruntime_session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    """Open a graph in ONNX Runtime; its threads do not spin between the runs of others."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def openvino_request(model: Any, threads: int) -> Any:
    """Compile a file or a model in OpenVINO, and return a request, which runs it."""
    import openvino

    settings = OPENVINO | {"INFERENCE_NUM_THREADS": threads}
    return openvino.Core().compile_model(model, "CPU", settings).create_infer_request()


def logits_of(request: Any, feeds: Feeds) -> NDArray[Any]:
    """Run a request of OpenVINO, and return its logits in an array that the next run leaves as it is."""
    return np.array(request.infer(dict(feeds), share_inputs=True)["logits"])
