"""Compares text generation on OpenVINO with ONNX Runtime: `python -m benchmarks.openvino_decoding BUNDLE...`.

Each bundle of a decoder is opened by `rpln_runtime.generator` on ONNX Runtime and in three ways on OpenVINO, which all
take turns: greedy search, with random prompts, and no token ends a sequence. A call with one new token is the prompt's
time; what a longer call takes besides is the steps'. Processor time is that of all threads. It writes
openvino-decoding.md to benchmarks/results.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from benchmarks.machine import describe_machine, versions_of
from rpln_runtime import Generator, generator
from rpln_runtime.generation import Generated
from rpln_runtime.generation.decoder import Decoder
from rpln_runtime.generation.request import Sources
from rpln_runtime.manifest import read_manifest
from rpln_runtime.session import open_session
from rpln_runtime.tokenization import Tokenizer

RESULTS: Final = Path(__file__).with_name("results") / "openvino-decoding.md"
WAYS: Final = ("inputs and outputs", "state", "state in 8 bits")
"""The ways in which OpenVINO has keys and values. The runtime takes the second unless it is told otherwise."""
BATCHES: Final = (1, 8)
PROMPT: Final = 32
STEPS: Final = 16
PAUSE: Final = 0.05
"""Seconds before a run. Idle threads may still spin and slow it down."""


class Times(NamedTuple):
    """Seconds of the processor for a prompt and for the steps after it, and seconds that pass for both together."""

    prompt: float
    steps: float
    elapsed: float


def main() -> None:
    """Measure every bundle, and write and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="+", type=Path, metavar="BUNDLE")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    rows = [row for bundle in arguments.bundles for row in _rows(bundle, arguments.threads, arguments.rounds)]
    machine = describe_machine(threads=arguments.threads)
    versions = ", ".join(f"{name} {version}" for name, version in versions_of(("onnxruntime", "openvino")).items())
    page = f"""# Text generation on OpenVINO

`python -m benchmarks.openvino_decoding BUNDLE...`: the speed of OpenVINO relative to ONNX Runtime on the
same bundle (2 is twice as fast): the median of the ratios of {arguments.rounds} rounds, and their range. Prompts of
{PROMPT} tokens, and {STEPS} steps after them. "Equal tokens" is the share of new tokens that both choose alike: with
quantized weights, each rounds activations in its own way. On OpenVINO, keys and values are inputs and outputs of the
graph in memory that is bound to it, or a state, in fp32 or in 8 bits (`int8_cache=True`). The prompt and the steps are
compared by processor time, the whole by the time that passes.

{machine["processor"]}, threads: {machine["threads"]}, {machine["system"]}; {versions}.

| bundle | batch | keys and values | prompt | steps | whole, elapsed | equal tokens |
|---|---|---|---|---|---|---|
{chr(10).join(rows)}
"""
    RESULTS.write_text(page, encoding="utf-8")
    print(page)


def _rows(bundle: Path, threads: int, rounds: int) -> list[str]:
    """Return the rows of the table for a bundle."""
    opened = _opened(bundle, threads)
    rows = []
    for batch in BATCHES:
        prompts = np.random.default_rng(0).integers(5, opened[0].manifest.vocab_size, (batch, PROMPT)).tolist()
        tokens = [np.array([one[0].tokens for one in _written(generate, prompts, 1 + STEPS)]) for generate in opened]
        rounds_of_times = [[_times(generate, prompts) for generate in opened] for _ in range(rounds)]
        for place, name in enumerate(WAYS, start=1):
            pairs = [(times[0], times[place]) for times in rounds_of_times]
            equal = f"{np.mean(tokens[0] == tokens[place]):.1%}"
            cells = [bundle.name, str(batch), name, *(_ratio(pairs, part) for part in range(len(Times._fields))), equal]
            rows.append(f"| {' | '.join(cells)} |")
            print(rows[-1], flush=True)
    return rows


def _opened(bundle: Path, threads: int) -> list[Generator]:
    """Return the generator on ONNX Runtime, and those on OpenVINO in the order of WAYS."""
    options: dict[str, Any] = {"threads": threads, "stop_token_ids": (), "verify": False}
    return [
        generator(bundle, provider="cpu", **options),
        _bound(bundle, threads),
        generator(bundle, provider="openvino", **options),
        generator(bundle, provider="openvino", int8_cache=True, **options),
    ]


def _bound(bundle: Path, threads: int) -> Generator:
    """Return a generator on OpenVINO whose keys and values are inputs and outputs."""
    manifest = read_manifest(bundle, verify=False)
    assert manifest.generation is not None  # of a decoder
    session = open_session(bundle, manifest, provider="openvino", threads=threads, variant="with-past")
    return Generator(
        manifest=manifest,
        decoder=Decoder(session, session),
        sources=Sources(generation=manifest.generation, encoder=None, cross=None),
        tokenizer=Tokenizer.from_bundle(bundle, manifest),
        batch_size=max(BATCHES),
        options={"stop_token_ids": ()},
    )


def _times(generate: Generator, prompts: list[list[int]]) -> Times:
    """Return the times of a generation."""
    busy, elapsed = [], 0.0
    for new in (1, 1 + STEPS):
        time.sleep(PAUSE)
        processor, started = time.process_time(), time.perf_counter()
        _written(generate, prompts, new)
        busy.append(time.process_time() - processor)
        elapsed = time.perf_counter() - started
    return Times(busy[0], busy[1] - busy[0], elapsed)


def _written(generate: Generator, prompts: list[list[int]], new: int) -> list[list[Generated]]:
    return generate.tokens(prompts, max_new_tokens=new)


def _ratio(pairs: Sequence[Sequence[Times]], part: int) -> str:
    """Return the cell for a part of the times: that of the first of each pair, divided by that of the second."""
    ratios = sorted(one[part] / other[part] for one, other in pairs)
    return f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"


if __name__ == "__main__":
    main()
