"""Connects the generator to Triton as a decoupled model, which sends a response for each piece of text."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import triton_python_backend_utils as triton

from rpln_runtime.errors import InputError, RplnError
from rpln_runtime.triton.request import OPTIONS, check_text_bytes, options_from_text, text_from_bytes
from rpln_runtime.triton.steps.generator import GeneratorStep, Send
from rpln_runtime.triton.steps.serving import (
    arrays_from_request,
    input_names,
    internal_error,
    parameters,
    response_from_arrays,
    triton_error,
    version_folder,
)


class AllCancelledError(Exception):
    """Raised when the clients of a whole batch have gone."""


@dataclass(frozen=True, slots=True)
class Call:
    """A request that was read, and the sender of its responses."""

    text: str
    options: dict[str, Any]
    sender: Any


class GeneratorModel:
    """Base class of the TritonPythonModel of a bundle that generates text."""

    make_step: type[GeneratorStep]

    def initialize(self, args: Mapping[str, str]) -> None:
        """Make the generator. Triton calls this once, with the configuration."""
        if args["model_instance_kind"] == "GPU":
            # Every instance is a process of its own. This way it sees only the GPU that Triton assigned to it.
            os.environ["CUDA_VISIBLE_DEVICES"] = args["model_instance_device_id"]
        self._names = input_names(args)
        self._max_text_bytes = int(parameters(args)["max_text_bytes"])
        self._step = type(self).make_step(version_folder(args), parameters(args))

    def execute(self, requests: Sequence[Any]) -> None:
        """Answer all requests. Those with equal options run in one batch."""
        calls = [call for request in requests if (call := self._call(request))]
        while calls:
            together = [call for call in calls if call.options == calls[0].options]
            calls = [call for call in calls if call.options != calls[0].options]
            self._generate(together)

    def _call(self, request: Any) -> Call | None:
        sender = request.get_response_sender()
        try:
            arrays = arrays_from_request(request, self._names)
            options = options_from_text(arrays[OPTIONS][0, 0]) if OPTIONS in arrays else {}
            if len(arrays["text"]) != 1:
                raise InputError(
                    f"a request has {len(arrays['text'])} prompts, expected one: the server joins requests."
                )
            text = arrays["text"][0, 0]
            check_text_bytes(len(text), self._max_text_bytes)
            return Call(text_from_bytes(text, "text"), options, sender)
        except RplnError as error:
            _close(sender, triton_error(error))
            return None

    def _generate(self, calls: Sequence[Call]) -> None:
        error = None
        try:
            self._step([call.text for call in calls], calls[0].options, _send_to([call.sender for call in calls]))
        except AllCancelledError:
            pass
        except RplnError as refusal:
            # A wrong prompt is refused before the first piece, so the others can still be answered, each alone.
            if len(calls) > 1:
                for call in calls:
                    self._generate([call])
                return
            error = triton_error(refusal)
        except Exception as failure:  # noqa: BLE001  # a failure of one batch must not fail the next one
            error = internal_error(failure)
        for call in calls:
            _close(call.sender, error)


def _send_to(senders: Sequence[Any]) -> Send:
    """Return a function that sends pieces to clients. It raises AllCancelledError when all of them have gone."""

    def send(prompt: int, sequence: int, piece: str) -> None:
        if not senders[prompt].is_cancelled():
            arrays = {"text": np.array([[piece.encode()]], np.object_), "sequence": np.array([[sequence]])}
            senders[prompt].send(response_from_arrays(arrays))
        elif all(sender.is_cancelled() for sender in senders):
            raise AllCancelledError

    return send


def _close(sender: Any, error: Any = None) -> None:
    """End a request, either after its last piece or with an error."""
    flags = triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL
    if error is None:
        sender.send(flags=flags)
    else:
        sender.send(triton.InferenceResponse(error=error), flags=flags)
