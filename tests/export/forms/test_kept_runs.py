"""Runs of a decoder whose engine keeps its cache."""

import numpy as np

from rpln_export.forms.kept_runs import kept_runs
from rpln_graphs.feeds import Feeds
from rpln_runtime.engines.base import ROWS


class RecordedBinding:
    """A binding that writes down the shapes of what is bound in each run."""

    def __init__(self, log: list[dict[str, tuple[int, ...]]]) -> None:
        self._log = log
        self._bound: dict[str, tuple[int, ...]] = {}

    def bind_cpu_input(self, name: str, array: np.ndarray) -> None:
        self._bound[name] = array.shape

    def run(self) -> None:
        self._log.append(dict(self._bound))


def feeds_of(rows: int, *, new: int, past: int) -> Feeds:
    return {
        "input_ids": np.zeros((rows, new), np.int64),
        "attention_mask": np.ones((rows, past + new), np.int64),
        "past_key_values.0.key": np.zeros((rows, 2, past, 4), np.float32),
    }


def test_steps_continue_what_their_prompt_began() -> None:
    bindings: list[list[dict[str, tuple[int, ...]]]] = []

    def keeping() -> RecordedBinding:
        bindings.append([])
        return RecordedBinding(bindings[-1])

    batches = [(feeds_of(2, new=5, past=0), 1), (feeds_of(2, new=1, past=4), 3)]
    # The prompt has as many tokens as the network takes: those of the step are one fewer.
    prompt, steps = kept_runs(keeping, batches)  # type: ignore[arg-type] # no other methods are called
    for _ in range(2):
        prompt()
        steps()

    begun = {"input_ids": (2, 5), "attention_mask": (2, 5), ROWS: (2,)}
    continued = [{"input_ids": (2, 1), "attention_mask": (2, 6 + step), ROWS: (2,)} for step in range(3)]
    assert bindings == [[begun, *continued]] * 2
