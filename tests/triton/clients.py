"""Clients of a server: KServe's protocol over HTTP written by hand, and tritonclient over gRPC, with arrays."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import tritonclient.grpc

from tests.triton.server import Server

Arrays: TypeAlias = dict[str, np.ndarray]
Infer: TypeAlias = Callable[[Server, str, Mapping[str, np.ndarray]], Arrays]

NAMES = {"object": "BYTES", "int64": "INT64", "float32": "FP32", "float16": "FP16"}
DTYPES: dict[str, Any] = {name: np.dtype(dtype) for dtype, name in NAMES.items()}


class RefusedError(Exception):
    """Raised when the server answers with an error."""


def texts(*rows: str | list[str]) -> np.ndarray:
    """Return a tensor of strings, (rows, strings of a row)."""
    listed = [[row] if isinstance(row, str) else row for row in rows]
    array = np.empty((len(listed), len(listed[0])), np.object_)
    for target, row in zip(array, listed, strict=True):
        target[:] = [text.encode() for text in row]
    return array


def request_body(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return the JSON of a request."""
    return {
        "inputs": [
            {
                "name": name,
                "datatype": NAMES[array.dtype.name],
                "shape": array.shape,
                "data": [one.decode() if isinstance(one, bytes) else one for one in array.ravel().tolist()],
            }
            for name, array in arrays.items()
        ]
    }


def infer_http(server: Server, model: str, arrays: Mapping[str, np.ndarray]) -> Arrays:
    status, document = server.post(f"models/{model}/infer", request_body(arrays))
    if status != 200:
        raise RefusedError(document["error"])
    return {
        output["name"]: np.array(
            [one.encode() if isinstance(one, str) else one for one in output["data"]], DTYPES[output["datatype"]]
        ).reshape(output["shape"])
        for output in document["outputs"]
    }


def infer_grpc(server: Server, model: str, arrays: Mapping[str, np.ndarray]) -> Arrays:
    with tritonclient.grpc.InferenceServerClient(server.grpc) as client:
        try:
            result = client.infer(model, grpc_inputs(arrays))
        except tritonclient.grpc.InferenceServerException as error:
            raise RefusedError(error.message()) from error
        names = [output.name for output in result.get_response().outputs]
        return {name: result.as_numpy(name) for name in names}


def grpc_inputs(arrays: Mapping[str, np.ndarray]) -> list[Any]:
    inputs = []
    for name, array in arrays.items():
        tensor = tritonclient.grpc.InferInput(name, array.shape, NAMES[array.dtype.name])
        tensor.set_data_from_numpy(array)
        inputs.append(tensor)
    return inputs
