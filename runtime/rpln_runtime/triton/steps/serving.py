"""Triton's side of a step: requests to arrays, arrays or an error to responses.

triton_python_backend_utils exists inside Triton's python backend alone.
"""

import json
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import triton_python_backend_utils as triton

from rpln_runtime.errors import RplnError

Step: TypeAlias = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]


class StepModel:
    """Base of a step's TritonPythonModel; `make_step` makes the step from its version folder and its parameters."""

    make_step: Callable[[Path, Mapping[str, str]], Step]

    def initialize(self, args: Mapping[str, str]) -> None:
        """Called once, with the configuration."""
        self._names = input_names(args)
        self._step = type(self).make_step(version_folder(args), parameters(args))

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """One response to each request: what is wrong with one is said to that one alone."""
        return [self._response(request) for request in requests]

    def _response(self, request: Any) -> Any:
        try:
            arrays = self._step(arrays_from_request(request, self._names))
        except RplnError as error:
            return triton.InferenceResponse(error=triton_error(error))
        except Exception as error:  # noqa: BLE001  # whatever one request runs into, its neighbours get their answers
            return triton.InferenceResponse(error=internal_error(error))
        return response_from_arrays(arrays)


def arrays_from_request(request: Any, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The inputs that a request has; some may be optional."""
    tensors = {name: triton.get_input_tensor_by_name(request, name) for name in names}
    return {name: tensor.as_numpy() for name, tensor in tensors.items() if tensor is not None}


def response_from_arrays(arrays: Mapping[str, np.ndarray]) -> Any:
    """The response that holds `arrays`."""
    return triton.InferenceResponse([triton.Tensor(name, array) for name, array in arrays.items()])


def triton_error(error: RplnError) -> Any:
    """What a client is told: the request, not the server, is wrong."""
    return triton.TritonError(str(error), triton.TritonError.INVALID_ARG)


def internal_error(error: Exception) -> Any:
    """What a client is told of an error that is nobody's but ours; the server's log has where it comes from."""
    triton.Logger.log_error("".join(traceback.format_exception(error)))
    return triton.TritonError(f"{type(error).__name__}: {error}", triton.TritonError.INTERNAL)


def version_folder(args: Mapping[str, str]) -> Path:
    """Where a model's files are."""
    return Path(args["model_repository"]) / args["model_version"]


def parameters(args: Mapping[str, str]) -> dict[str, str]:
    """The parameters of its configuration."""
    values = json.loads(args["model_config"])["parameters"]
    return {name: value["string_value"] for name, value in values.items()}


def input_names(args: Mapping[str, str]) -> list[str]:
    """The names of its inputs."""
    return [tensor["name"] for tensor in json.loads(args["model_config"])["input"]]
