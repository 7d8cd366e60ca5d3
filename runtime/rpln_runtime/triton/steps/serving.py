"""Connects a step to Triton: requests become arrays, and arrays or an error become responses.

The module triton_python_backend_utils exists only inside Triton's python backend.
"""

import json
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import triton_python_backend_utils as triton

from rpln_runtime.errors import InputError
from rpln_runtime.request_limits import cut_sentence, ignore_warnings

Step: TypeAlias = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]


class StepModel:
    """Base class of a step's TritonPythonModel. `make_step` makes the step from its version folder and parameters."""

    make_step: Callable[[Path, Mapping[str, str]], Step]

    def initialize(self, args: Mapping[str, str]) -> None:
        """Make the step. Triton calls this once, with the configuration."""
        ignore_warnings()
        self._names = input_names(args)
        self._step = type(self).make_step(version_folder(args), parameters(args))

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Return a response for each request. An error in one request does not affect the others."""
        return [self._response(request) for request in requests]

    def _response(self, request: Any) -> Any:
        try:
            arrays = self._step(arrays_from_request(request, self._names))
        except Exception as error:  # noqa: BLE001  # a failure of one request must not fail the others
            return triton.InferenceResponse(error=triton_error(error))
        return response_from_arrays(arrays)


def arrays_from_request(request: Any, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the inputs of a request, without optional ones that were left out."""
    tensors = {name: triton.get_input_tensor_by_name(request, name) for name in names}
    return {name: tensor.as_numpy() for name, tensor in tensors.items() if tensor is not None}


def response_from_arrays(arrays: Mapping[str, np.ndarray]) -> Any:
    """Return the response that holds `arrays`."""
    return triton.InferenceResponse([triton.Tensor(name, array) for name, array in arrays.items()])


def triton_error(error: Exception) -> Any:
    """Return the error for a client.

    An InputError says what is wrong with the request. Any other error is the server's: the client learns its type, and
    the server's log gets the traceback.
    """
    if isinstance(error, InputError):
        return triton.TritonError(cut_sentence(str(error)), triton.TritonError.INVALID_ARG)
    triton.Logger.log_error("".join(traceback.format_exception(error)))
    sentence = f"the server failed ({type(error).__name__}); its log has the reason."
    return triton.TritonError(sentence, triton.TritonError.INTERNAL)


def version_folder(args: Mapping[str, str]) -> Path:
    """Return the folder of the version that Triton loads."""
    return Path(args["model_repository"]) / args["model_version"]


def parameters(args: Mapping[str, str]) -> dict[str, str]:
    """Return the parameters of the model's configuration."""
    values = json.loads(args["model_config"])["parameters"]
    return {name: value["string_value"] for name, value in values.items()}


def input_names(args: Mapping[str, str]) -> list[str]:
    """Return the names of the model's inputs."""
    return [tensor["name"] for tensor in json.loads(args["model_config"])["input"]]
