"""Measures Triton with and without length buckets, on the CPU: `python -m benchmarks.serving`.

The tests' server (make .venv-triton/.installed) serves the embedded tagger with each set of buckets in turn. Texts have
lognormal lengths, with a median of 33 tokens and at most 256. Throughput is that of clients which keep 64 requests in
the server. Latency is that of requests that arrive at random times, as many per second for every contender. It writes
serving.json and serving.md to benchmarks/results.
"""

import argparse
import json
import os
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import tritonclient.grpc

from benchmarks.machine import describe_machine, versions_of
from rpln_export.pipeline import export
from rpln_export.plan.export_plan import make_plan
from rpln_runtime.manifest import read_manifest
from rpln_runtime.tokenization import Tokenizer
from rpln_runtime.triton import write_repository
from rpln_runtime.triton.buckets import default_buckets
from tests.triton.server import Server, triton_server

RESULTS: Final = Path(__file__).with_name("results")
ENVIRONMENT: Final = Path(__file__).parents[1] / ".venv-triton"
LIMIT: Final = 256
CONTENDERS: Final = {
    "no buckets": tuple(range(1, LIMIT + 1)),
    "multiples of 16": tuple(range(16, LIMIT + 1, 16)),
    "multiples of 64": tuple(range(64, LIMIT + 1, 64)),
    "powers of two": tuple(default_buckets(LIMIT)),
}
IN_FLIGHT: Final = 64
SHARE: Final = 0.6
"""The fixed load, as a share of the lowest throughput."""
PAUSE: Final = 1.0
SENTENCE: Final = "The old man walked to the boat and his crew watched the stars of a cold night"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Medians over the rounds. `rows` is how many requests a run of the model has; latencies are in milliseconds."""

    contender: str
    throughput: float
    rows: float
    padding: float
    p50: float
    p99: float


def main() -> None:
    """Measure every contender and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "bundle"
        export(make_plan(None, task="token-classification", destination=bundle, optimize="none"))
        texts, lengths = make_texts(bundle, arguments.requests)
        for name, buckets in CONTENDERS.items():
            write_repository(bundle, Path(folder) / "repositories" / key(name), name=key(name), buckets=buckets)
        repositories = sorted((Path(folder) / "repositories").iterdir())
        work = Path(folder) / "work"
        work.mkdir()
        with triton_server(ENVIRONMENT, repositories, work) as server:
            rows, load = measure(server, texts, lengths, rounds=arguments.rounds)
    write_results(rows, load, arguments.requests)


def make_texts(bundle: Path, count: int) -> tuple[list[str], list[int]]:
    """Return texts with as many tokens as drawn, or a few less, and their lengths."""
    tokenizer = Tokenizer.from_bundle(bundle, read_manifest(bundle))
    words = SENTENCE.split()
    drawn, texts, lengths = random.Random(0), [], []
    for tokens in np.exp(np.random.default_rng(0).normal(np.log(33), 0.8, count)).clip(4, LIMIT):
        text = " ".join(drawn.choices(words, k=int(tokens)))
        while len(tokenizer.encode(text)) > tokens:
            text = text.rpartition(" ")[0]
        texts.append(text)
        lengths.append(len(tokenizer.encode(text)))
    return texts, lengths


def measure(server: Server, texts: Sequence[str], lengths: Sequence[int], *, rounds: int) -> tuple[list[Row], float]:
    """Return a row for each contender, and the fixed load in requests per second."""
    throughputs: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    runs: dict[str, int] = dict.fromkeys(CONTENDERS, 0)
    for turn in range(rounds + 1):  # the first round is a warm-up
        for name in CONTENDERS:
            time.sleep(PAUSE)
            before = server.statistics(f"{key(name)}_model")["execution_count"]
            seconds = max(end for _, end in ask(server, name, texts, arrivals=None))
            if turn:
                throughputs[name].append(len(texts) / seconds)
                runs[name] += server.statistics(f"{key(name)}_model")["execution_count"] - before
    load = SHARE * min(map(statistics.median, throughputs.values()))
    latencies: dict[str, list[np.ndarray]] = {name: [] for name in CONTENDERS}
    gaps = np.random.default_rng(1).exponential(1 / load, len(texts))
    for _ in range(rounds):
        for name in CONTENDERS:
            time.sleep(PAUSE)
            times = ask(server, name, texts, arrivals=np.cumsum(gaps))
            latencies[name].append(np.array([end - start for start, end in times]) * 1000)
    return [
        Row(
            contender=name,
            throughput=statistics.median(throughputs[name]),
            rows=rounds * len(texts) / runs[name],
            padding=padding(lengths, CONTENDERS[name]),
            p50=statistics.median(float(np.percentile(one, 50)) for one in latencies[name]),
            p99=statistics.median(float(np.percentile(one, 99)) for one in latencies[name]),
        )
        for name in CONTENDERS
    ], load


def ask(server: Server, name: str, texts: Sequence[str], *, arrivals: np.ndarray | None) -> list[tuple[float, float]]:
    """Send all texts, when they arrive or as soon as there is room; return when each was due and answered."""
    begin = time.perf_counter()
    room, done = threading.Semaphore(IN_FLIGHT), threading.Semaphore(0)
    starts, ends = [0.0] * len(texts), [0.0] * len(texts)

    failures: list[Any] = []

    def answered(place: int, *, result: object, error: Any) -> None:  # the server calls them by these names
        failures.extend([error] if result is None else [])
        ends[place] = time.perf_counter() - begin
        room.release()
        done.release()

    with tritonclient.grpc.InferenceServerClient(server.grpc) as client:
        for place, text in enumerate(texts):
            if arrivals is None:
                room.acquire()
                starts[place] = time.perf_counter() - begin
            else:
                starts[place] = float(arrivals[place])
                time.sleep(max(0.0, starts[place] - (time.perf_counter() - begin)))
            tensor = tritonclient.grpc.InferInput("text", [1, 1], "BYTES")
            tensor.set_data_from_numpy(np.array([[text.encode()]], np.object_))
            client.async_infer(key(name), [tensor], partial(answered, place))
        for _ in texts:
            done.acquire()
    if failures:
        raise failures[0]
    return list(zip(starts, ends, strict=True))


def padding(lengths: Sequence[int], buckets: Sequence[int]) -> float:
    """Return the share of tokens that are padding."""
    padded = sum(next(bucket for bucket in buckets if bucket >= length) for length in lengths)
    return 1 - sum(lengths) / padded


def key(name: str) -> str:
    """Return the name of a contender as the name of a model."""
    return name.replace(" ", "_")


def write_results(rows: Sequence[Row], load: float, requests: int) -> None:
    """Write serving.json and serving.md."""
    machine = describe_machine(threads=1)
    versions = versions_of(["rpln-runtime", "tokenizers", "tritonclient"])
    document = {
        "machine": machine,
        "versions": versions,
        "server": "Triton 2.51.0 of nvidia-pytriton 0.7.0, ONNX Runtime 1.32.0 in a Python-based backend, one thread",
        "requests": requests,
        "load": load,
        "rows": [asdict(row) for row in rows],
    }
    RESULTS.joinpath("serving.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    RESULTS.joinpath("serving.md").write_text("\n".join(_lines(rows, load, document)) + "\n", encoding="utf-8")


def _lines(rows: Sequence[Row], load: float, document: dict[str, Any]) -> Iterator[str]:
    machine = ", ".join(f"{name}: {value}" for name, value in document["machine"].items())
    yield "# Triton with length buckets and without"
    yield ""
    yield f"{document['server']}. {machine}. The embedded tagger, {document['requests']} texts of lognormal lengths,"
    yield "median 33 tokens, over gRPC through the ensemble; the client, the server and its steps share the cores."
    yield ""
    yield f"| buckets | requests/s at {IN_FLIGHT} in flight | rows in a run | padding | p50 at {load:.0f}/s | p99 |"
    yield "|---|---|---|---|---|---|"
    for row in rows:
        yield (
            f"| {row.contender} | {row.throughput:.0f} | {row.rows:.1f} | {row.padding:.0%} "
            f"| {row.p50:.1f} ms | {row.p99:.1f} ms |"
        )


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
