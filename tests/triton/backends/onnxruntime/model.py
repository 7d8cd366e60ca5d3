"""Stands for Triton's onnxruntime backend, which no wheel has. It takes the same configurations and models.

It runs in the server's python backend, and refuses what the real one refuses. States, ragged inputs, and parameters
that are not listed here are not supported, although the real backend takes them. One parameter is the stand-in's own:
`stand_in_seconds` is how long each batch takes besides, for tests of queues.
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import triton_python_backend_utils as triton

TYPES = {
    "TYPE_FP32": "tensor(float)",
    "TYPE_FP16": "tensor(float16)",
    "TYPE_INT64": "tensor(int64)",
    "TYPE_INT32": "tensor(int32)",
    "TYPE_STRING": "tensor(string)",
    "TYPE_BOOL": "tensor(bool)",
}


class TritonPythonModel:
    """A session of onnxruntime for each instance."""

    @staticmethod
    def auto_complete_config(config: Any) -> Any:
        """Leave the configuration as it is written."""
        return config

    def initialize(self, args: dict[str, str]) -> None:
        """Open the graph, and compare its signature with the configuration."""
        config = json.loads(args["model_config"])
        if args["model_instance_kind"] != "CPU":
            raise triton.TritonModelException(f"instances of {args['model_instance_kind']}: this stand-in has no GPU")
        folder = Path(args["model_repository"]) / args["model_version"]
        options = onnxruntime.SessionOptions()
        parameters = {name: value["string_value"] for name, value in config.get("parameters", {}).items()}
        # The instances, the server and its clients share two cores.
        options.intra_op_num_threads = int(parameters.get("intra_op_thread_count", 1))
        self.seconds = float(parameters.get("stand_in_seconds", 0))
        path = folder / (config.get("default_model_filename") or "model.onnx")
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.batches = config.get("max_batch_size", 0) > 0
        check_side("input", config["input"], self.session.get_inputs(), batches=self.batches)
        check_side("output", config["output"], self.session.get_outputs(), batches=self.batches)
        if {one["name"] for one in config["input"]} != {one.name for one in self.session.get_inputs()}:
            raise triton.TritonModelException("the configuration does not name every input of the model")
        self.inputs = [one["name"] for one in config["input"]]
        self.outputs = [one["name"] for one in config["output"]]

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Run all requests as one batch, as the real backend does."""
        time.sleep(self.seconds)
        arrays = [
            {name: triton.get_input_tensor_by_name(request, name).as_numpy() for name in self.inputs}
            for request in requests
        ]
        if not self.batches:
            results = [self.session.run(self.outputs, feeds) for feeds in arrays]
        else:
            ends = np.cumsum([len(feeds[self.inputs[0]]) for feeds in arrays])[:-1]
            joined = {name: np.concatenate([feeds[name] for feeds in arrays]) for name in self.inputs}
            columns = [np.split(output, ends) for output in self.session.run(self.outputs, joined)]
            results = list(zip(*columns, strict=True))
        return [
            triton.InferenceResponse(
                [
                    triton.Tensor(name, value)
                    for name, value in zip(self.outputs, result, strict=True)
                    if name in request.requested_output_names()
                ]
            )
            for request, result in zip(requests, results, strict=True)
        ]


def check_side(side: str, tensors: Sequence[Any], nodes: Sequence[Any], *, batches: bool) -> None:
    """Refuse names, types and shapes that are not those of the graph."""
    found = {node.name: node for node in nodes}
    for tensor in tensors:
        if tensor["name"] not in found:
            raise triton.TritonModelException(f"unexpected {side} {tensor['name']!r}: the model has {sorted(found)}")
        node = found[tensor["name"]]
        if TYPES.get(tensor["data_type"]) != node.type:
            raise triton.TritonModelException(
                f"{side} {tensor['name']!r} is {tensor['data_type']} in the configuration, {node.type} in the model"
            )
        dims = [*([-1] if batches else []), *(int(size) for size in tensor["dims"])]
        fixed = [size if isinstance(size, int) else -1 for size in node.shape]
        if len(dims) != len(fixed) or any(a != b and -1 not in {a, b} for a, b in zip(dims, fixed, strict=True)):
            raise triton.TritonModelException(
                f"{side} {tensor['name']!r} has the shape {dims} in the configuration, {fixed} in the model"
            )
