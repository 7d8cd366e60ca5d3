"""Runs graphs that take texts, in ONNX Runtime with the operators of onnxruntime-extensions."""

import importlib.util
import os
from collections.abc import Sequence
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
    """A graph that is ready to run; its input is `text`."""

    def __init__(self, model: Path | bytes) -> None:
        import onnxruntime as ort
        from onnxruntime_extensions import get_library_path

        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        options.register_custom_ops_library(get_library_path())
        self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.inputs = [value.name for value in self._session.get_inputs()]
        self.outputs = [value.name for value in self._session.get_outputs()]

    def __call__(self, texts: Sequence[str]) -> dict[str, Any]:
        found = self._session.run(self.outputs, {"text": np.array(texts, dtype=object)})
        return dict(zip(self.outputs, found, strict=True))

    def ids(self, text: str) -> list[int]:
        """Return the ids of a text."""
        found: list[int] = self([text])["input_ids"][0].tolist()
        return found
