"""Triton's side of the generator: a decoupled model, which answers a request as often as there is something to say."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import triton_python_backend_utils as triton

from rpln_runtime.errors import InputError, RplnError
from rpln_runtime.triton.request import OPTIONS, options_from_text, text_from_bytes
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
    """Nobody waits for the batch any more."""


@dataclass(frozen=True, slots=True)
class Call:
    """A request that was understood, and where its pieces go."""

    text: str
    options: dict[str, Any]
    sender: Any


class GeneratorModel:
    """TritonPythonModel of a bundle that generates."""

    make_step: type[GeneratorStep]

    def initialize(self, args: Mapping[str, str]) -> None:
        """Called once, with the configuration."""
        if args["model_instance_kind"] == "GPU":
            # An instance is a process of its own, which then sees one device: that of its instance group.
            os.environ["CUDA_VISIBLE_DEVICES"] = args["model_instance_device_id"]
        self._names = input_names(args)
        self._step = type(self).make_step(version_folder(args), parameters(args))

    def execute(self, requests: Sequence[Any]) -> None:
        """Generate for all requests; those with equal options grow together."""
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
            return Call(text_from_bytes(arrays["text"][0, 0], "text"), options, sender)
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
            # Before the first piece: who is not at fault gets an answer, apart from who is.
            if len(calls) > 1:
                for call in calls:
                    self._generate([call])
                return
            error = triton_error(refusal)
        except Exception as failure:  # noqa: BLE001  # the next batch gets its answers, whatever this one ran into
            error = internal_error(failure)
        for call in calls:
            _close(call.sender, error)


def _send_to(senders: Sequence[Any]) -> Send:
    """Pass pieces on to those who still wait. What is sent raises AllCancelledError when nobody does."""

    def send(prompt: int, sequence: int, piece: str) -> None:
        if not senders[prompt].is_cancelled():
            arrays = {"text": np.array([[piece.encode()]], np.object_), "sequence": np.array([[sequence]])}
            senders[prompt].send(response_from_arrays(arrays))
        elif all(sender.is_cancelled() for sender in senders):
            raise AllCancelledError

    return send


def _close(sender: Any, error: Any = None) -> None:
    """End a request, with an error or after its last piece."""
    flags = triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL
    if error is None:
        sender.send(flags=flags)
    else:
        sender.send(triton.InferenceResponse(error=error), flags=flags)
