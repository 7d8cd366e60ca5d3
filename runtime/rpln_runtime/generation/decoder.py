"""The decoder of a bundle: its graphs, which of them a generation runs, and how much they take.

Shapes: R rows, S tokens of the longest prompt.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from rpln_runtime.batching import rows_within
from rpln_runtime.errors import InputError, ManifestError
from rpln_runtime.generation.cache import CROSS, PAST
from rpln_runtime.generation.cross_attention import CrossAttention
from rpln_runtime.generation.positions import FORWARD, Positions
from rpln_runtime.generation.steps import CachedSteps, FullSteps, GenerationSteps
from rpln_runtime.manifest import Manifest
from rpln_runtime.session import Session

ENGINES: Final = (("with-past", "with-past"), ("prefill", "decode"), ("full", "full"))
"""Graphs for the prompt and for the steps after it, the best first: the last one computes every step from the start."""

ENCODERS: Final = ("encoder", "cross")
"""Graphs that run once, before the steps, the best first: on texts, or on hidden states that the caller brings."""

_FROM_TOKENS: Final = {"input_ids", "attention_mask", "position_ids", "token_type_ids", "encoder_attention_mask"}


def decoder_variants(manifest: Manifest, *, takes_empty: bool) -> tuple[str, str]:
    """Return the variants that serve the prompt and the steps; where no axis may be empty, those without with-past.

    Raises InputError for a bundle without such a decoder.
    """
    found = [graph.variant for graph in manifest.graphs]
    expected = ENGINES if takes_empty else ENGINES[1:]
    for engine in expected:
        if set(engine) <= set(found):
            return engine
    *names, last = (" and ".join(dict.fromkeys(engine)) for engine in expected)
    raise InputError(
        f"the bundle holds {', '.join(found)}, no decoder: expected {', '.join(names)}, or {last}. Export the "
        f"checkpoint again with one of them{'' if takes_empty else ': this provider cannot begin with an empty past'}."
    )


def encoder_variants(manifest: Manifest) -> Sequence[str]:
    """Return the variant that serves the encoder, alone in a list that is empty where there is none."""
    found = {graph.variant for graph in manifest.graphs}
    return [variant for variant in ENCODERS if variant in found][:1]


@dataclass(frozen=True, slots=True)
class Decoder:
    """The graphs for the prompt and for the steps, which may be one. Threads may share it."""

    prompt: Session
    step: Session

    @classmethod
    def from_sessions(cls, sessions: Mapping[str, Session], variants: tuple[str, str]) -> "Decoder":
        """Take the decoder's graphs, those of `variants`.

        Raises InputError for one that takes more than follows from tokens, ManifestError where the encoder is missing,
        ProviderError where no memory can be bound.
        """
        prompt, step = variants
        decoder = cls(sessions[prompt], sessions[step])
        for session in (decoder.prompt, decoder.step):
            session.bindable_engine()  # or a ProviderError now, and not in the first call
            for spec in session.graph.inputs:
                follows = spec.name in _FROM_TOKENS or spec.name.startswith((PAST, CROSS))
                if not follows and any(isinstance(axis, str) for axis in spec.shape):
                    raise InputError(
                        f"{session.graph.path} takes {spec.name!r}, which does not follow from tokens: use load() and "
                        "Session.run, or export without it."
                    )
        if decoder.has_cross_attention and sessions.keys().isdisjoint(ENCODERS):
            raise ManifestError(
                f"the decoder reads an encoder's output, and the bundle holds none of {', '.join(ENCODERS)} to make "
                "it. Export the checkpoint again."
            )
        return decoder

    @property
    def has_cross_attention(self) -> bool:
        """Whether it reads an encoder's output."""
        return any(spec.name.startswith(CROSS) for spec in self.step.graph.inputs)

    @property
    def limit(self) -> int:
        """How many tokens it takes, earlier ones and padding included."""
        graph = self.step.graph
        (mask,) = (spec for spec in graph.inputs if spec.name == "attention_mask")
        maximum = self.step.manifest.axes[str(mask.shape[1])].maximum
        if maximum is None:
            raise ManifestError(
                f"the manifest gives no maximum for the axis {mask.shape[1]!r} of {graph.path}: expected the number of "
                "positions. Export the checkpoint again."
            )
        parts = str(mask.shape[1]).split(" + ")
        built = [sum(profile[part].maximum for part in parts) for profile in self.step.profiles]
        return min(maximum, max(built, default=maximum))

    def rows_within(self, batch_size: int) -> int:
        """Return `batch_size`, or less where an engine takes fewer rows."""
        return min(rows_within(session.profiles, batch_size) for session in (self.prompt, self.step))

    def begin(self, mask_RS: np.ndarray, *, positions: Positions, cross: CrossAttention | None) -> GenerationSteps:
        """Return the steps of one generation from prompts behind `mask_RS`, padded on the left."""
        if self.step.graph.variant == "full":
            return FullSteps(self.step, mask_RS, positions, cross)
        return CachedSteps(self.prompt, self.step, mask_RS, positions, cross)

    def check_positions(self, scheme: str) -> None:
        """Raise InputError when another `scheme` is asked for than the one by which a graph counts itself."""
        if scheme != FORWARD and "position_ids" not in {spec.name for spec in self.step.graph.inputs}:
            raise InputError(
                f"positions is {scheme!r}, but {self.step.graph.path} takes no position_ids: expected {FORWARD!r}. "
                "Export the checkpoint with a cache, or with the input position_ids."
            )
