"""What a decoder reads of its encoder: keys and values of every layer, computed once and bound once.

Shapes: R rows, E tokens of the longest encoder sequence, H heads, D head size.
"""

from collections.abc import Mapping

import numpy as np

from rpln_runtime.generation.binding import BoundGraph
from rpln_runtime.generation.cache import CROSS, KeyValues, kinds_from_graph
from rpln_runtime.session import Session


class CrossAttention:
    """Keys and values of a batch of encoder sequences, one for each row of the decoder's batch."""

    def __init__(self, session: Session, feeds: Mapping[str, np.ndarray], mask_RE: np.ndarray) -> None:
        """Run an `encoder` or `cross` graph on `feeds`, which have been checked. `mask_RE` marks the real tokens."""
        kinds = kinds_from_graph(session.graph, CROSS)
        rows, tokens = mask_RE.shape
        self._mask_RE = mask_RE
        self._sequences = np.arange(rows)  # which of them each row reads
        self._tensors, self._spare = (KeyValues(kinds, session.bindable_engine().allocate) for _ in range(2))
        self._tensors.reshape(rows=rows, tokens=tokens)
        self._bound: list[BoundGraph] = []
        binding = session.bindable_engine().bind()
        for name, array in feeds.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(array))
        self._tensors.bind_outputs(binding, CROSS)
        binding.run()

    def bind(self, graph: BoundGraph) -> None:
        """Have `graph` read it, unless it does so already."""
        if not any(graph is bound for bound in self._bound):
            graph.feed("encoder_attention_mask", self._mask_RE)
            self._tensors.bind_inputs(graph.binding, CROSS)
            self._bound.append(graph)

    def select(self, rows: np.ndarray) -> None:
        """Give the decoder's rows what these rows of it had. Beams of one sequence that change places cost nothing."""
        sequences = self._sequences[rows]
        if np.array_equal(sequences, self._sequences):
            return
        self._sequences = sequences
        self._mask_RE = self._mask_RE[rows]
        self._spare.gather(self._tensors, rows)
        self._tensors, self._spare = self._spare, self._tensors
        self._bound.clear()
