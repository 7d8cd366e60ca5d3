"""The steps of a generation: tokens in, logits out, with a cache or by computing all tokens again.

Shapes: R rows, S new tokens, T earlier and new tokens, V vocabulary.
"""

from abc import ABC, abstractmethod

import numpy as np

from rpln_runtime.generation.binding import BoundGraph
from rpln_runtime.generation.cache import Cache, KeptCache
from rpln_runtime.generation.cross_attention import CrossAttention
from rpln_runtime.generation.positions import Positions


class GenerationSteps(ABC):
    """A batch of sequences that grow token by token. The next step overwrites the logits of this one."""

    def __init__(self, mask_RS: np.ndarray, positions: Positions, cross: CrossAttention | None) -> None:
        self._mask_RT = mask_RS
        self._counted_RT = mask_RS
        self._positions = positions
        self._cross = cross

    @abstractmethod
    def start(self, ids_RS: np.ndarray) -> np.ndarray:
        """Run the prompts and return the logits of their next tokens, (R, V), fp32."""

    @abstractmethod
    def step(self, tokens_R: np.ndarray) -> np.ndarray:
        """Add a token to each row and return the logits of the next tokens, (R, V), fp32."""

    def select(self, rows: np.ndarray) -> None:
        """Keep these rows, in this order. A row may be taken several times."""
        if np.array_equal(rows, np.arange(len(self._mask_RT))):
            return
        self._mask_RT = self._mask_RT[rows]
        self._counted_RT = self._counted_RT[rows]
        if self._cross is not None:
            self._cross.select(rows)
        self._select(rows)

    @abstractmethod
    def _select(self, rows: np.ndarray) -> None:
        """Keep these rows of what the subclass holds."""

    def _extend(self, tokens_R: np.ndarray) -> None:
        """Add the new tokens to the masks."""
        ones_R1 = np.ones((len(tokens_R), 1), np.int64)
        counted_R1 = self._positions.counted(tokens_R[:, None], ones_R1)
        self._mask_RT = np.concatenate([self._mask_RT, ones_R1], axis=1)
        self._counted_RT = np.concatenate([self._counted_RT, counted_R1], axis=1)

    def _run(self, graph: BoundGraph, ids_RS: np.ndarray) -> np.ndarray:
        """Feed `ids_RS` to the graph, run it, and return the logits after the last token, (R, V), fp32."""
        rows, new = ids_RS.shape
        graph.feed("input_ids", ids_RS)
        graph.feed("attention_mask", self._mask_RT)
        graph.feed("position_ids", np.ascontiguousarray(self._positions.of(self._counted_RT)[:, -new:]))
        graph.feed("token_type_ids", np.zeros_like(ids_RS))
        if self._cross is not None:
            self._cross.bind(graph)
        return graph.run(rows=rows, new=new)


class CachedSteps(GenerationSteps):
    """Steps with a cache: each computes only its new tokens, and reads the keys and values of earlier ones."""

    def __init__(
        self,
        prompt: BoundGraph,
        step: BoundGraph,
        cache: Cache | KeptCache,
        *,
        mask_RS: np.ndarray,
        positions: Positions,
        cross: CrossAttention | None,
    ) -> None:
        super().__init__(mask_RS, positions, cross)
        self._prompt_graph = prompt
        self._step_graph = step
        self._cache = cache

    def start(self, ids_RS: np.ndarray) -> np.ndarray:
        """Run the prompts through their graph, and return the logits of their next tokens, (R, V), fp32."""
        self._counted_RT = self._positions.counted(ids_RS, self._mask_RT)
        return self._run_cached(self._prompt_graph, ids_RS)

    def step(self, tokens_R: np.ndarray) -> np.ndarray:
        """Run the new tokens, and return the logits of the next tokens, (R, V), fp32."""
        self._extend(tokens_R)
        return self._run_cached(self._step_graph, tokens_R[:, None])

    def _select(self, rows: np.ndarray) -> None:
        self._cache.select(rows)

    def _run_cached(self, graph: BoundGraph, ids_RS: np.ndarray) -> np.ndarray:
        rows, new = ids_RS.shape
        self._cache.bind(graph.binding, rows=rows, new=new, reads=graph.takes_past)
        logits_RV = self._run(graph, ids_RS)
        self._cache.turn()
        return logits_RV


class FullSteps(GenerationSteps):
    """Steps without a cache: each computes all tokens again, which is slow."""

    def __init__(
        self, graph: BoundGraph, mask_RS: np.ndarray, positions: Positions, cross: CrossAttention | None
    ) -> None:
        super().__init__(mask_RS, positions, cross)
        self._graph = graph
        self._ids_RT = np.empty((len(mask_RS), 0), np.int64)

    def start(self, ids_RS: np.ndarray) -> np.ndarray:
        """Run the prompts, and return the logits of their next tokens, (R, V), fp32."""
        self._counted_RT = self._positions.counted(ids_RS, self._mask_RT)
        self._ids_RT = ids_RS
        return self._run(self._graph, ids_RS)

    def step(self, tokens_R: np.ndarray) -> np.ndarray:
        """Run all tokens with the new ones, and return the logits of the next tokens, (R, V), fp32."""
        self._extend(tokens_R)
        self._ids_RT = np.concatenate([self._ids_RT, tokens_R[:, None]], axis=1)
        return self._run(self._graph, self._ids_RT)

    def _select(self, rows: np.ndarray) -> None:
        self._ids_RT = self._ids_RT[rows]
