"""The decoder of a bundle: its graphs, which of them serve a generation, and how many tokens they take.

Shapes: R rows, S tokens of the longest prompt.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from rpln_runtime.batching import rows_within
from rpln_runtime.engines.base import Binding
from rpln_runtime.errors import InputError, ManifestError, ProviderError
from rpln_runtime.generation.binding import BoundGraph
from rpln_runtime.generation.cache import CROSS, PAST, Cache, KeptCache, bindings_that_keep
from rpln_runtime.generation.cross_attention import CrossAttention
from rpln_runtime.generation.positions import FORWARD, Positions
from rpln_runtime.generation.steps import CachedSteps, FullSteps, GenerationSteps
from rpln_runtime.manifest import Manifest
from rpln_runtime.session import Session

GRAPH_PAIRS: Final = (("with-past", "with-past"), ("prefill", "decode"), ("full", "full"))
"""The variants for prompts and for steps, best first. The last pair computes all tokens again in each step."""

ENCODERS: Final = ("encoder", "cross")
"""The variants that run once, best first: an encoder of texts, or the projections of another encoder's hidden states.
"""

_FROM_TOKENS: Final = {"input_ids", "attention_mask", "position_ids", "token_type_ids", "encoder_attention_mask"}
"""The inputs that can be made from tokens."""


def decoder_variants(manifest: Manifest, *, takes_empty: bool) -> tuple[str, str]:
    """Return the variants that serve the prompt and the steps.

    With `takes_empty` False, the engine takes no axis of size 0, so it cannot begin with an empty cache: `with-past` is
    left out. Raises InputError for a bundle without such variants.
    """
    found = [graph.variant for graph in manifest.graphs]
    expected = GRAPH_PAIRS if takes_empty else GRAPH_PAIRS[1:]
    for pair in expected:
        if set(pair) <= set(found):
            return pair
    *names, last = (" and ".join(dict.fromkeys(pair)) for pair in expected)
    raise InputError(
        f"the bundle has the variants {', '.join(found)}, expected {', '.join(names)}, or {last}. Export the "
        f"checkpoint with these --variants{'' if takes_empty else ': this provider cannot begin with an empty cache'}."
    )


def encoder_variants(manifest: Manifest) -> Sequence[str]:
    """Return a list with the variant that runs once, before the steps; an empty list if there is none."""
    found = {graph.variant for graph in manifest.graphs}
    return [variant for variant in ENCODERS if variant in found][:1]


@dataclass(frozen=True, slots=True)
class Decoder:
    """The graphs that serve a generation. Threads may share them.

    Attributes:
        prompt: the graph for prompts.
        step: the graph for the tokens after them. It may be the same.
        keeping: returns a new binding of the one graph, whose engine keeps the cache; None where the cache is bound.
    """

    prompt: Session
    step: Session
    keeping: Callable[[], Binding] | None = None

    @classmethod
    def from_sessions(
        cls, sessions: Mapping[str, Session], variants: tuple[str, str], *, int8_cache: bool = False
    ) -> "Decoder":
        """Return the decoder with these two `variants` for prompt and steps, and with a cache in 8 bits if asked for.

        Raises InputError for a graph with an input that cannot be made from tokens, ManifestError if the decoder reads
        an encoder and the bundle has none, and ProviderError if the provider cannot bind memory, or has no such cache.
        """
        prompt, step = variants
        decoder = cls(sessions[prompt], sessions[step])
        for session in (decoder.prompt, decoder.step):
            session.bindable_engine()  # raises ProviderError now, not in the first call
            for spec in session.graph.inputs:
                follows = spec.name in _FROM_TOKENS or spec.name.startswith((PAST, CROSS))
                if not follows and any(isinstance(axis, str) for axis in spec.shape):
                    raise InputError(
                        f"{session.graph.path} takes {spec.name!r}, which cannot be made from tokens: use load() and "
                        "Session.run, or export the checkpoint without it."
                    )
        if decoder.has_cross_attention and sessions.keys().isdisjoint(ENCODERS):
            raise ManifestError(
                f"the decoder reads the output of an encoder, but the bundle has no graph {' or '.join(ENCODERS)}. "
                "Export the checkpoint again."
            )
        return dataclasses.replace(decoder, keeping=decoder._keeping(int8=int8_cache))

    def _keeping(self, *, int8: bool) -> Callable[[], Binding] | None:
        """Return a function that binds the one graph with a cache that its engine keeps; None if it keeps none."""
        keeping = None
        if self.prompt is self.step:
            inputs = {spec.name: spec.dtype for spec in self.step.graph.inputs}
            keeping = bindings_that_keep(self.step.bindable_engine(), inputs, int8=int8)
        if int8 and keeping is None:
            raise ProviderError(
                f"provider {self.step.provider!r} has no cache in 8 bits for {self.step.graph.path}. Leave int8_cache "
                "out, or choose provider='openvino' and a bundle whose graph with-past has a cache in fp32."
            )
        return keeping

    @property
    def has_cross_attention(self) -> bool:
        """Whether the decoder reads the output of an encoder."""
        return any(spec.name.startswith(CROSS) for spec in self.step.graph.inputs)

    @property
    def limit(self) -> int:
        """The most tokens that the decoder takes, earlier ones and padding included.

        Raises ManifestError if the manifest does not say.
        """
        graph = self.step.graph
        (mask,) = (spec for spec in graph.inputs if spec.name == "attention_mask")
        maximum = self.step.manifest.axes[str(mask.shape[1])].maximum
        if maximum is None:
            raise ManifestError(
                f"the manifest has no maximum for the axis {mask.shape[1]!r} of {graph.path}, expected the number of "
                "positions. Export the checkpoint again."
            )
        parts = str(mask.shape[1]).split(" + ")
        built = [sum(profile[part].maximum for part in parts) for profile in self.step.profiles]
        return min(maximum, max(built, default=maximum))

    @property
    def vocab_size(self) -> int:
        """The number of ids of tokens that the decoder chooses from."""
        (logits,) = (spec for spec in self.prompt.graph.outputs if spec.name == "logits")
        return int(logits.shape[-1])

    def rows_within(self, batch_size: int) -> int:
        """Return `batch_size`, or less if an engine takes fewer rows."""
        return min(rows_within(session.profiles, batch_size) for session in (self.prompt, self.step))

    def begin(self, mask_RS: np.ndarray, *, positions: Positions, cross: CrossAttention | None) -> GenerationSteps:
        """Return the steps of a generation from a batch of prompts.

        `mask_RS` is 1 for the tokens of the prompts and 0 for the padding on their left. `cross` is what the decoder
        reads from its encoder; None without an encoder.
        """
        if self.keeping is not None:
            graph = BoundGraph(self.step.graph, self.keeping())
            return CachedSteps(graph, graph, KeptCache(len(mask_RS)), mask_RS=mask_RS, positions=positions, cross=cross)
        step = _bound(self.step)
        if self.step.graph.variant == "full":
            return FullSteps(step, mask_RS, positions, cross)
        prompt = step if self.prompt is self.step else _bound(self.prompt)
        cache = Cache(self.step.graph, self.step.bindable_engine().allocate)
        return CachedSteps(prompt, step, cache, mask_RS=mask_RS, positions=positions, cross=cross)

    def check_positions(self, scheme: str) -> None:
        """Raise InputError if the graph cannot count positions by this `scheme`.

        A graph without the input `position_ids` counts by itself, as FORWARD does.
        """
        if scheme != FORWARD and "position_ids" not in {spec.name for spec in self.step.graph.inputs}:
            raise InputError(
                f"positions is {scheme!r}, but {self.step.graph.path} takes no position_ids: expected {FORWARD!r}. "
                "Export the checkpoint with a cache, or with the input position_ids."
            )


def _bound(session: Session) -> BoundGraph:
    """Return the graph of `session` with a binding of its own."""
    return BoundGraph(session.graph, session.bindable_engine().bind())
