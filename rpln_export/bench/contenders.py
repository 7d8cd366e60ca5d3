"""Contenders: bundles on a provider with a number of threads, and eager torch."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rpln_export.bench.cases import BenchCase, case_feeds, case_prompts
from rpln_export.bench.rounds import Clock, Run, Sample
from rpln_export.validation.decoding import eager_run
from rpln_runtime.errors import InputError
from rpln_runtime.manifest import Manifest

TORCH: Final = "torch"
"""The name of the reference, and of what takes the place of its provider."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchContender:
    """What is measured.

    Attributes:
        name: the name in tables, which no other contender has.
        provider: the provider that runs the graphs; "torch" for eager torch.
        threads: the most threads of an operator; None for the bundle's own choice, and torch's.
        prepare: makes a run of a case, with all its inputs at hand.
    """

    name: str
    provider: str
    threads: int | None
    prepare: Callable[[BenchCase], Run]


def contender_from_bundle(
    folder: Path, manifest: Manifest, *, name: str, provider: str, threads: int | None, new_tokens: int, rows: int
) -> BenchContender:
    """Open the bundle in `folder`, whose files were compared with `manifest`. `rows` is the largest batch.

    Raises ProviderError where the provider cannot run it here, and InputError for a decoder that cannot generate.
    """
    prepare: Callable[[BenchCase], Run]
    if manifest.generation is None:
        prepare = _encoder(folder, manifest, provider, threads)
    else:
        prepare = _decoder(folder, manifest, provider, threads, new_tokens=new_tokens, rows=rows)
    return BenchContender(name=name, provider=provider, threads=threads, prepare=prepare)


@contextmanager
def torch_contender(
    folder: Path, manifest: Manifest, checkpoint: str | None, *, threads: int | None, new_tokens: int
) -> Iterator[BenchContender]:
    """Give the checkpoint of the bundle in `folder` in eager torch, in fp32.

    `checkpoint` is found, and its errors are raised, as `rpln_export.validation.revalidate.revalidate` does.
    """
    import torch

    from rpln_export.checkpoint.planned_graphs import planned_graphs_from_model
    from rpln_export.validation.revalidate import original_model

    with original_model(folder, manifest, checkpoint) as (plan, model):
        before = torch.get_num_threads()
        wanted = threads or before
        if manifest.generation is None:
            planned = planned_graphs_from_model(plan, model, mask_token_id=manifest.mask_token_id)
            run = eager_run(planned[0])

            def prepare(case: BenchCase) -> Run:
                feeds = case_feeds(case, manifest.graphs[0], manifest)
                return lambda clock: _timed_encoder(run, feeds, clock, lambda: torch.set_num_threads(wanted))
        else:
            settings = model.generation_config
            settings.max_length, settings.do_sample, settings.num_beams = None, False, 1
            settings.max_new_tokens = settings.min_new_tokens = new_tokens + 1

            def prepare(case: BenchCase) -> Run:
                batches = [_torch_batch(prompts, manifest) for prompts in case_prompts(case, manifest)]
                return lambda clock: _timed_torch_decoder(model, batches, new_tokens, clock, wanted)

        try:
            yield BenchContender(name=TORCH, provider=TORCH, threads=threads, prepare=prepare)
        finally:
            torch.set_num_threads(before)


def _encoder(folder: Path, manifest: Manifest, provider: str, threads: int | None) -> Callable[[BenchCase], Run]:
    from rpln_runtime.session import open_session

    session = open_session(folder, manifest, provider=provider, threads=threads, verify=False)

    def prepare(case: BenchCase) -> Run:
        feeds = case_feeds(case, session.graph, manifest)
        return lambda clock: _timed_encoder(session.run, feeds, clock)

    return prepare


def _timed_encoder(
    run: Callable[[Any], object], feeds: Sequence[Any], clock: Clock, before: Callable[[], object] = lambda: None
) -> Sample:
    before()
    started = clock()
    for batch in feeds:
        run(batch)
    return Sample(total=clock() - started)


def _decoder(
    folder: Path, manifest: Manifest, provider: str, threads: int | None, *, new_tokens: int, rows: int
) -> Callable[[BenchCase], Run]:
    from rpln_runtime.generation.generator import open_generator

    if any(graph.variant == "cross" for graph in manifest.graphs):
        raise InputError(
            f"{folder} has no encoder of its own, so that its decoder is not measured. Name another bundle."
        )
    generate = open_generator(
        folder,
        manifest,
        provider=provider,
        threads=threads,
        batch_size=rows,
        verify=False,
        stop_token_ids=(),
        max_new_tokens=new_tokens + 1,
        do_sample=False,
        num_beams=1,
    )

    def prepare(case: BenchCase) -> Run:
        prompts = case_prompts(case, manifest)
        return lambda clock: timed_decoder(
            lambda batch, on_token: generate.tokens(batch, callback=lambda *_: on_token()), prompts, new_tokens, clock
        )

    return prepare


def timed_decoder(
    generate: Callable[[Any, Callable[[], None]], object], batches: Sequence[Any], new_tokens: int, clock: Clock
) -> Sample:
    """Run all batches. The first new token ends the time of a prompt, and `new_tokens` more follow it."""
    prompt = later = 0.0
    for batch in batches:
        seen: list[float] = []

        def on_token(seen: list[float] = seen) -> None:
            if not seen:
                seen.append(clock())

        started = clock()
        generate(batch, on_token)
        ended = clock()
        prompt += seen[0] - started
        later += ended - seen[0]
    return Sample(total=prompt + later, prompt=prompt, token=later / (new_tokens * len(batches)))


def _torch_batch(prompts: Sequence[Sequence[int]], manifest: Manifest) -> dict[str, Any]:
    """Return the prompts as tensors, with padding on the left for decoders and on the right for encoders."""
    import torch

    from rpln_runtime.generation.prompts import pad_left

    assert manifest.generation is not None
    ids, mask = pad_left(prompts, manifest.pad_token_id)
    if manifest.generation.start_token_id is not None:
        ids, mask = ids[:, ::-1].copy(), mask[:, ::-1].copy()
    return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}


def _timed_torch_decoder(
    model: Any, batches: Sequence[dict[str, Any]], new_tokens: int, clock: Clock, threads: int
) -> Sample:
    import torch
    from transformers.generation.streamers import BaseStreamer

    torch.set_num_threads(threads)

    class FirstToken(BaseStreamer):
        """Tells when the first new token comes: `generate` first puts the prompt."""

        def __init__(self, on_token: Callable[[], None]) -> None:
            self.calls, self.on_token = 0, on_token

        def put(self, value: object) -> None:  # noqa: ARG002 # transformers passes it
            self.calls += 1
            if self.calls > 1:
                self.on_token()

        def end(self) -> None:
            pass

    def generate(batch: dict[str, Any], on_token: Callable[[], None]) -> None:
        with torch.inference_mode():
            model.generate(**batch, streamer=FirstToken(on_token))

    return timed_decoder(generate, batches, new_tokens, clock)
