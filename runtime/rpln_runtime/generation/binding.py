"""A decoder's graph with its inputs and logits bound to memory, which is done once and not in every step.

Shapes: R rows, S new tokens, T earlier and new tokens, V vocabulary.
"""

import numpy as np

from rpln_runtime.engines.base import Binding
from rpln_runtime.generation.cache import PAST
from rpln_runtime.manifest import Graph


class BoundGraph:
    """A graph in one generation. Generations that run at the same time have bindings of their own.

    Attributes:
        binding: the binding of the graph's inputs and outputs.
        takes_past: whether the graph reads a cache of keys and values.
    """

    def __init__(self, graph: Graph, binding: Binding) -> None:
        self.binding = binding
        self._inputs = {spec.name for spec in graph.inputs}
        logits = next(spec for spec in graph.outputs if spec.name == "logits")
        self._last_only = logits.shape[1] == 1
        self._vocab_size = int(logits.shape[2])
        self._logits = np.empty((0, 0, 0), logits.dtype)
        self.takes_past = any(name.startswith(PAST) for name in self._inputs)
        for spec in graph.inputs:
            fixed = [size for size in spec.shape if isinstance(size, int)]
            if len(fixed) == len(spec.shape):  # a head mask: every head takes part
                self.feed(spec.name, np.ones(fixed, spec.dtype))

    def feed(self, name: str, array: np.ndarray) -> None:
        """Bind `array` to the input `name`, if the graph has it. It is read when the graph runs."""
        if name in self._inputs:
            self.binding.bind_cpu_input(name, array)

    def run(self, *, rows: int, new: int) -> np.ndarray:
        """Run the graph and return the logits after the last token: (R, V), fp32. The next run overwrites them."""
        shape = (rows, 1 if self._last_only else new, self._vocab_size)
        if self._logits.shape != shape:
            self._logits = np.empty(shape, self._logits.dtype)
            self.binding.bind_cpu_output("logits", self._logits)
        self.binding.run()
        return self._logits[:, -1].astype(np.float32, copy=False)
