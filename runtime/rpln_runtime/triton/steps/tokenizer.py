"""The first step of the ensemble: texts in, padded rows for the model out.

Shapes: R rows, S tokens of the bucket, M masks.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from rpln_runtime.batching import feeds_from_encodings
from rpln_runtime.errors import InputError
from rpln_runtime.manifest import TensorSpec
from rpln_runtime.request_limits import check_decoded
from rpln_runtime.tasks import MASK_AXIS
from rpln_runtime.triton.buckets import bucket_of, lengths_from_text, power_of_two
from rpln_runtime.triton.request import asked_from_arrays, check_rows
from rpln_runtime.triton.steps.bundle import StepBundle, number_parameter
from rpln_runtime.triton.steps.rows import rows_from_encodings


class TokenizerStep:
    """Turns texts into rows. All rows of a request are as long as the smallest bucket that holds the longest one."""

    def __init__(self, folder: Path, parameters: Mapping[str, str]) -> None:
        self._bundle = StepBundle.read(folder, parameters)
        self._buckets = lengths_from_text(parameters["buckets"])
        self._most_rows = number_parameter(parameters, "most_rows")
        self._max_text_bytes = number_parameter(parameters, "max_text_bytes")
        self._graph = self._bundle.manifest.graphs[0]

    def __call__(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the model's inputs, and what the answer step needs.

        Raises InputError for items and options that the bundle does not take.
        """
        fields = self._bundle.postprocess.fields
        check_rows(arrays, fields, self._most_rows)
        asked = asked_from_arrays(arrays, fields, max_text_bytes=self._max_text_bytes)
        tasks = [self._bundle.with_options(one.options) for one in asked]
        encodings = [task.encode(one.item) for task, one in zip(tasks, asked, strict=True)]
        # Windows that share most of their tokens may need a thousand times the memory of the text, and are not made.
        if (count := sum(map(len, encodings))) > self._most_rows:
            raise InputError(
                f"the texts of the request make {count} rows of up to {self._buckets[-1]} tokens, and the model "
                f"takes {self._most_rows} at a time: send fewer or shorter texts, or raise --batch-size."
            )
        check_decoded(
            sum(task.decoded_texts(row) for task, several in zip(tasks, encodings, strict=True) for row in several)
        )
        rows = [encoding for several in encodings for encoding in several]
        feeds = feeds_from_encodings(rows, self._graph, self._bundle.manifest)
        padded = {spec.name: self._padded(feeds[spec.name], spec) for spec in self._graph.inputs}
        length = bucket_of(max(map(len, rows)), self._buckets)
        return {**padded, **rows_from_encodings(encodings, asked, length)}

    def _padded(self, array: np.ndarray, spec: TensorSpec) -> np.ndarray:
        """Pad the last axis, which is over tokens or over masks."""
        width = array.shape[-1]
        target = power_of_two(width) if spec.shape[-1] == MASK_AXIS else bucket_of(width, self._buckets)
        fill = self._bundle.manifest.pad_token_id if spec.name in {"input_ids", "position_ids"} else 0
        return np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, target - width)], constant_values=fill)
