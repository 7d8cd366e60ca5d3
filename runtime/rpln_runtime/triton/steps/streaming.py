"""Connects the generator to Triton as a decoupled model, which sends a response for each piece of text."""

import json
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import triton_python_backend_utils as triton

from rpln_runtime.errors import InputError
from rpln_runtime.triton.request import OPTIONS, check_text_bytes, options_from_text, text_from_bytes
from rpln_runtime.triton.steps.bundle import number_parameter
from rpln_runtime.triton.steps.generator import GeneratorStep, Send
from rpln_runtime.triton.steps.serving import (
    arrays_from_request,
    input_names,
    parameters,
    response_from_arrays,
    triton_error,
    version_folder,
)


class AllCancelledError(Exception):
    """Raised when the clients of a whole batch have gone."""


@dataclass(slots=True, eq=False)
class Call:
    """A request that was read.

    Attributes:
        text: the prompt.
        options: the options of the request.
        sender: the sender of its responses.
        begun: whether a piece of text was sent, which cannot be taken back.
    """

    text: str
    options: dict[str, Any]
    sender: Any
    begun: bool = False

    def send(self, sequence: int, piece: str) -> None:
        """Send a piece of the text of a sequence."""
        arrays = {"text": np.array([[piece.encode()]], np.object_), "sequence": np.array([[sequence]])}
        self.begun = True
        self.sender.send(response_from_arrays(arrays))

    def close(self, error: Any = None) -> None:
        """End the request, either after its last piece or with an error."""
        _close(self.sender, error)

    @property
    def gone(self) -> bool:
        """Whether the client has left."""
        return bool(self.sender.is_cancelled())


class GeneratorModel:
    """Base class of the TritonPythonModel of a bundle that generates text."""

    make_step: type[GeneratorStep]

    def initialize(self, args: Mapping[str, str]) -> None:
        """Make the generator. Triton calls this once, with the configuration."""
        if args["model_instance_kind"] == "GPU":
            # Every instance is a process of its own. This way it sees only the GPU that Triton assigned to it.
            os.environ["CUDA_VISIBLE_DEVICES"] = args["model_instance_device_id"]
        self._names = input_names(args)
        self._max_text_bytes = number_parameter(parameters(args), "max_text_bytes")
        self._step = type(self).make_step(version_folder(args), parameters(args))

    def execute(self, requests: Sequence[Any]) -> None:
        """Answer all requests. Those with equal options run in one batch."""
        batches: dict[str, list[Call]] = defaultdict(list)
        for request in requests:
            if call := self._call(request):
                # As JSON, because 1, 1.0 and True are equal in Python, and not all of them may be right.
                batches[json.dumps(call.options, sort_keys=True)].append(call)
        for calls in batches.values():
            self._generate(calls)

    def _call(self, request: Any) -> Call | None:
        sender = request.get_response_sender()
        try:
            return self._read(arrays_from_request(request, self._names), sender)
        except Exception as error:  # noqa: BLE001  # a failure of one request must not fail the others
            _close(sender, triton_error(error))
            return None

    def _read(self, arrays: Mapping[str, np.ndarray], sender: Any) -> Call:
        """Return the call that the inputs of a request are. Raises InputError for a request that is wrong."""
        if len(arrays["text"]) != 1:
            raise InputError(f"a request has {len(arrays['text'])} prompts, expected one: the server joins requests.")
        text, options = arrays["text"][0, 0], arrays[OPTIONS][0, 0] if OPTIONS in arrays else b""
        check_text_bytes(len(text) + len(options), self._max_text_bytes)
        return Call(text_from_bytes(text, "text"), options_from_text(options), sender)

    def _generate(self, calls: Sequence[Call]) -> None:
        """Answer calls with equal options together. Where one of them is wrong, answer each alone."""
        try:
            self._step([call.text for call in calls], calls[0].options, _send_to(calls))
        except AllCancelledError:
            pass
        except InputError as error:
            if len(calls) > 1:
                self._generate_each(calls)
            else:
                calls[0].close(triton_error(error))
            return
        except Exception as error:  # noqa: BLE001  # a failure of one batch must not fail the next one
            failure = triton_error(error)
            for call in calls:
                call.close(failure)
            return
        for call in calls:
            call.close()

    def _generate_each(self, calls: Sequence[Call]) -> None:
        """Answer each call of a batch that was wrong, alone.

        Nothing is generated for a client that has left. A client that has got a part of its text is told to ask again:
        another run might begin with another text.
        """
        for call in calls:
            if call.gone:
                call.close()
            elif call.begun:
                call.close(triton.TritonError(_CUT_SHORT, triton.TritonError.UNAVAILABLE))
            else:
                self._generate([call])


_CUT_SHORT: Final = (
    "the text ended early, because with these options a text of the same batch could not go on: send the request again."
)


def _send_to(calls: Sequence[Call]) -> Send:
    """Return a function that sends pieces to clients. It raises AllCancelledError when all of them have gone."""

    def send(prompt: int, sequence: int, piece: str) -> None:
        if not calls[prompt].gone:
            calls[prompt].send(sequence, piece)
        elif all(call.gone for call in calls):
            raise AllCancelledError

    return send


def _close(sender: Any, error: Any = None) -> None:
    flags = triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL
    if error is None:
        sender.send(flags=flags)
    else:
        sender.send(triton.InferenceResponse(error=error), flags=flags)
