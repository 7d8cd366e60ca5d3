"""Runs graphs that take texts, in ONNX Runtime with the operators of onnxruntime-extensions."""

import importlib.util
import multiprocessing
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from rpln_export.extras import EXTRAS

_ROW: Final = EXTRAS["tokenizer-op"]

needs_operators: Final = pytest.mark.skipif(
    importlib.util.find_spec(_ROW.module) is None and os.environ.get("CI") != "true",
    reason=f"{_ROW.distribution} is not installed: {_ROW.command}",
)


class TextGraph:
    """A graph that is ready to run; its input is `text`.

    It runs in a process of its own, since the operators of onnxruntime-extensions 0.15.2 crash now and then. A text is
    then given to a new process, once: one that crashes always is a failure.
    """

    def __init__(self, model: Path | bytes) -> None:
        self._model = model
        self._start()

    def _start(self) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._calls, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_serve, args=(theirs, self._model), daemon=True)
        self._process.start()
        theirs.close()
        self.inputs, self.outputs = self._calls.recv()

    def __call__(self, texts: Sequence[str]) -> dict[str, Any]:
        try:
            found = self._ask(texts)
        except (EOFError, OSError):
            self._start()
            found = self._ask(texts)
        return dict(zip(self.outputs, found, strict=True))

    def _ask(self, texts: Sequence[str]) -> list[Any]:
        self._calls.send(list(texts))
        found: list[Any] = self._calls.recv()
        return found

    def ids(self, text: str) -> list[int]:
        """Return the ids of a text."""
        found: list[int] = self([text])["input_ids"][0].tolist()
        return found


def _serve(calls: Any, model: Path | bytes) -> None:
    """Open the graph, send the names of its inputs and outputs, and answer calls until the other side is closed."""
    import onnxruntime as ort
    from onnxruntime_extensions import get_library_path

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.register_custom_ops_library(get_library_path())
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    outputs = [value.name for value in session.get_outputs()]
    calls.send(([value.name for value in session.get_inputs()], outputs))
    with suppress(EOFError):
        while True:
            calls.send(session.run(outputs, {"text": np.array(calls.recv(), dtype=object)}))
