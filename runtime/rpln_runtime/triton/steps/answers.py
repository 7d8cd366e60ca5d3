"""The last step of the ensemble: outputs of the model in, answers out."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from rpln_runtime.batching import rows_from_outputs
from rpln_runtime.postprocess.base import FinishedItem, FinishedRow
from rpln_runtime.tasks import TASKS
from rpln_runtime.triton.interfaces import INTERFACES
from rpln_runtime.triton.response import arrays_from_answers
from rpln_runtime.triton.steps.bundle import StepBundle
from rpln_runtime.triton.steps.rows import ITEMS, TOKENS, encodings_from_rows, items_from_rows


class AnswerStep:
    """Turns outputs of the model into the tensors of the response."""

    def __init__(self, folder: Path, parameters: Mapping[str, str]) -> None:
        self._bundle = StepBundle.read(folder, parameters)
        self._columns = INTERFACES[str(TASKS[self._bundle.manifest.task].postprocess)].columns

    def __call__(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the tensors of the response, which have a row for each item of the request."""
        manifest = self._bundle.manifest
        encodings = encodings_from_rows(arrays[TOKENS])
        outputs = {name: array for name, array in arrays.items() if name not in {TOKENS, ITEMS}}
        rows = list(rows_from_outputs(outputs, encodings, manifest.graphs[0], manifest))
        answers = []
        for asked, places in items_from_rows(arrays[ITEMS]):
            postprocess = self._bundle.with_options(asked.options)
            pairs = zip(encodings[places], rows[places], strict=True)
            scores = [postprocess.score(FinishedRow(encoding, row)) for encoding, row in pairs]
            answers.append(postprocess.answer(FinishedItem(asked.item, encodings[places], scores)))
        return arrays_from_answers(answers, self._columns)
