"""One call's work: prompts shared out into batches, the steps of each, and how tokens are chosen.

Shapes: P prompts of a batch, R rows, S tokens of the longest prompt, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from rpln_runtime.batching import batches, token_budget
from rpln_runtime.generation.beam import search
from rpln_runtime.generation.decoder import Decoder
from rpln_runtime.generation.options import GenerationOptions
from rpln_runtime.generation.positions import positions_from_scheme
from rpln_runtime.generation.prompts import new_tokens, pad_left
from rpln_runtime.generation.request import Request
from rpln_runtime.generation.sampling import sample
from rpln_runtime.generation.sequences import Generated, GrowingSequence
from rpln_runtime.generation.steps import GenerationSteps
from rpln_runtime.generation.stopping import Stopping
from rpln_runtime.manifest import Generation


@dataclass(frozen=True, slots=True)
class Batch:
    """Prompts that run together, by their places in the request, and how many tokens each may get."""

    places: Sequence[int]
    limit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A request, and all that it takes to run it."""

    decoder: Decoder
    generation: Generation
    request: Request
    batches: Sequence[Batch]
    options: GenerationOptions
    stop: Stopping

    def grow(self) -> Iterator[GrowingSequence]:
        """Run greedy search or sampling; yield a row whenever it got a token."""
        count = self.options.num_return_sequences
        entropy = np.random.SeedSequence(self.options.seed).entropy
        for batch in self.batches:
            rows = [self._row(place, sequence, entropy) for place in batch.places for sequence in range(count)]
            steps, logits_PV = self._start(batch)
            prompts_R = np.repeat(np.arange(len(batch.places)), count)
            steps.select(prompts_R)
            yield from sample(
                steps, logits_PV[prompts_R], rows, limit=batch.limit, options=self.options, stop=self.stop
            )

    def search(self) -> list[list[Generated]]:
        """Run beam search and return each prompt's sequences."""
        found: dict[int, list[Generated]] = {}
        for batch in self.batches:
            steps, logits_PV = self._start(batch)
            contexts = [self.request.contexts[place] for place in batch.places]
            sequences = search(steps, logits_PV, contexts, limit=batch.limit, options=self.options, stop=self.stop)
            found.update(zip(batch.places, sequences, strict=True))
        return [found[place] for place in range(len(found))]

    def _start(self, batch: Batch) -> tuple[GenerationSteps, np.ndarray]:
        contexts = [self.request.contexts[place] for place in batch.places]
        # Not pad_token_id, which a checkpoint may choose anew: a graph that counts positions knows padding by this id.
        ids_PS, mask_PS = pad_left(contexts, self.generation.pad_position)
        positions = positions_from_scheme(self.options.positions, self.generation)
        steps = self.decoder.begin(mask_PS, positions=positions, cross=self.request.encode(batch.places))
        return steps, steps.start(ids_PS)

    def _row(self, place: int, sequence: int, entropy: int | Sequence[int] | None) -> GrowingSequence:
        # With a seed, a row draws by its place among its prompt's alone, whatever else the call holds.
        key = (sequence, place) if self.options.seed is None else (sequence,)
        random = np.random.default_rng(np.random.SeedSequence(entropy, spawn_key=key))
        return GrowingSequence(prompt=place, sequence=sequence, context=self.request.contexts[place], random=random)


def plan_batches(
    request: Request, decoder: Decoder, options: GenerationOptions, generation: Generation, *, batch_size: int
) -> list[Batch]:
    """Share out the prompts of `request` so that about `batch_size` sequences grow at a time.

    A prompt's own sequences are never parted. Raises InputError for a prompt that leaves too little room.
    """
    limits: dict[int, list[int]] = {}
    for place, context in enumerate(request.contexts):
        limit = new_tokens(context, options.max_new_tokens, decoder.limit, generation)
        limits.setdefault(limit, []).append(place)
    rows = decoder.rows_within(batch_size)
    size = max(rows // max(options.num_beams, options.num_return_sequences), 1)
    logits = [spec for spec in decoder.prompt.graph.outputs if spec.name == "logits"]
    budget = token_budget(logits, decoder.limit)
    return [
        Batch([places[index] for index in batch], limit)
        for limit, places in limits.items()
        for batch in batches([request.lengths[place] for place in places], batch_size=size, batch_tokens=budget)
    ]
