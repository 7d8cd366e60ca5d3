"""The work of one call: its prompts in batches, the steps of each batch, and the choice of tokens.

Shapes: P prompts of a batch, R rows, S tokens of the longest prompt, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from rpln_runtime.batching import OnRows, batches, token_budget
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
    """Prompts that run together.

    Attributes:
        places: the places of the prompts in the request.
        limit: the most new tokens of each sequence.
    """

    places: Sequence[int]
    limit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """The work of one call.

    Attributes:
        decoder: the decoder.
        generation: what the bundle says about generating.
        request: the prompts.
        batches: the batches that the prompts are divided into.
        options: the options of the call.
        stop: what ends a sequence.
        on_rows: is told after each batch how many prompts are done.
    """

    decoder: Decoder
    generation: Generation
    request: Request
    batches: Sequence[Batch]
    options: GenerationOptions
    stop: Stopping
    on_rows: OnRows | None = None

    def grow(self) -> Iterator[GrowingSequence]:
        """Run greedy search or sampling, and yield a sequence whenever it has a new token."""
        count = self.options.num_return_sequences
        entropy = np.random.SeedSequence(self.options.seed).entropy
        for batch in self._counted_batches():
            rows = [self._row(place, sequence, entropy) for place in batch.places for sequence in range(count)]
            steps, logits_PV = self._start(batch)
            prompts_R = np.repeat(np.arange(len(batch.places)), count)
            steps.select(prompts_R)
            yield from sample(
                steps, logits_PV[prompts_R], rows, limit=batch.limit, options=self.options, stop=self.stop
            )

    def search(self) -> list[list[Generated]]:
        """Run beam search, and return the sequences of each prompt, best first."""
        found: dict[int, list[Generated]] = {}
        for batch in self._counted_batches():
            steps, logits_PV = self._start(batch)
            contexts = [self.request.contexts[place] for place in batch.places]
            sequences = search(steps, logits_PV, contexts, limit=batch.limit, options=self.options, stop=self.stop)
            found.update(zip(batch.places, sequences, strict=True))
        return [found[place] for place in range(len(found))]

    def _counted_batches(self) -> Iterator[Batch]:
        """Yield the batches. After each, `on_rows` is told."""
        done = 0
        for batch in self.batches:
            yield batch
            done += len(batch.places)
            if self.on_rows is not None:
                self.on_rows(done, len(self.request.contexts))

    def _start(self, batch: Batch) -> tuple[GenerationSteps, np.ndarray]:
        """Run the prompts of a batch, and return its steps and the logits after each prompt, (P, V)."""
        contexts = [self.request.contexts[place] for place in batch.places]
        # Not pad_token_id, which generation_config.json may change: a graph that counts positions takes the id
        # pad_position for padding.
        ids_PS, mask_PS = pad_left(contexts, self.generation.pad_position)
        positions = positions_from_scheme(self.options.positions, self.generation)
        steps = self.decoder.begin(mask_PS, positions=positions, cross=self.request.encode(batch.places))
        return steps, steps.start(ids_PS)

    def _row(self, place: int, sequence: int, entropy: int | Sequence[int] | None) -> GrowingSequence:
        """Return a new sequence of the prompt at `place`, with random numbers of its own."""
        # With a seed, the random numbers depend on the place among the sequences of the prompt only, so that the
        # other prompts of the call change nothing.
        key = (sequence, place) if self.options.seed is None else (sequence,)
        random = np.random.default_rng(np.random.SeedSequence(entropy, spawn_key=key))
        return GrowingSequence(prompt=place, sequence=sequence, context=self.request.contexts[place], random=random)


def plan_batches(
    request: Request, decoder: Decoder, options: GenerationOptions, generation: Generation, *, batch_size: int
) -> list[Batch]:
    """Return the prompts of `request` in batches, in each of which about `batch_size` sequences grow at a time.

    All sequences of a prompt are in one batch. Raises InputError for a prompt that leaves too little room for new
    tokens.
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
