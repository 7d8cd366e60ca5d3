"""What a decoder reads from its encoder: the keys and values of cross-attention, which are computed once for all steps.

Shapes: R rows, E tokens of the longest encoder sequence.
"""

from collections.abc import Mapping

import numpy as np

from rpln_runtime.generation.binding import BoundGraph
from rpln_runtime.generation.cache import CROSS, KeyValues, kinds_from_graph
from rpln_runtime.session import Session


class CrossAttention:
    """The keys and values of a batch of encoder sequences, one for each row of the decoder's batch."""

    def __init__(self, session: Session, feeds: Mapping[str, np.ndarray], mask_RE: np.ndarray) -> None:
        """Run a graph `encoder` or `cross`.

        `feeds` are its inputs, which have been checked. `mask_RE` is 1 for tokens and 0 for padding, int64.
        """
        kinds = kinds_from_graph(session.graph, CROSS)
        rows, tokens = mask_RE.shape
        self._mask_RE = mask_RE
        self._sequences = np.arange(rows)  # the encoder sequence that each row reads
        self._tensors, self._spare = (KeyValues(kinds, session.bindable_engine().allocate) for _ in range(2))
        self._tensors.reshape(rows=rows, tokens=tokens)
        self._bound: list[BoundGraph] = []
        binding = session.bindable_engine().bind()
        for name, array in feeds.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(array))
        self._tensors.bind_outputs(binding, CROSS)
        binding.run()

    def bind(self, graph: BoundGraph) -> None:
        """Bind the keys, the values and the mask as inputs of a decoder's graph, unless they are bound already."""
        if not any(graph is bound for bound in self._bound):
            graph.feed("encoder_attention_mask", self._mask_RE)
            self._tensors.bind_inputs(graph.binding, CROSS)
            self._bound.append(graph)

    def select(self, rows: np.ndarray) -> None:
        """Keep what these rows of the decoder's batch read, in this order. A row may be taken several times.

        Beams that read the same encoder sequence may change places without a copy.
        """
        sequences = self._sequences[rows]
        if np.array_equal(sequences, self._sequences):
            return
        self._sequences = sequences
        self._mask_RE = self._mask_RE[rows]
        self._spare.gather(self._tensors, rows)
        self._tensors, self._spare = self._spare, self._tensors
        self._bound.clear()
