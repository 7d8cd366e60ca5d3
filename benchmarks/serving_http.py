"""Measures `rpln serve` beside sentence-transformers behind the same server: `python -m benchmarks.serving_http`.

Both serve the same weights for feature extraction, with mean pooling, by one thread of one process each; only what
makes vectors of texts differs. The servers get the same texts, of lognormal lengths, from the same clients in turn.
Their vectors are compared first. It writes serving_http.json and serving_http.md to benchmarks/results.
"""

import argparse
import asyncio
import http.client
import json
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.machine import describe_machine, versions_of
from rpln_export import export
from rpln_runtime.serve import ServeSettings, bundles_from_arguments, run_server
from rpln_runtime.serve.refusals import Outcome
from rpln_runtime.serve.replicas import deployment
from rpln_runtime.triton.request import Asked

RESULTS: Final = Path(__file__).with_name("results")
CHECKPOINT: Final = Path(__file__).parents[1] / "rpln_export" / "default_checkpoints" / "feature-extraction"
OURS, PEER = "rpln serve", "sentence-transformers"
PEER_FILE: Final = "checkpoint_of_the_peer"
"""The file in the bundle that tells the peer where the checkpoint is."""
CLIENTS: Final = (1, 16)
TOLERANCE: Final = 1e-4
PAUSE: Final = 1.0
SENTENCE: Final = "The old man walked to the boat and his crew watched the stars of a cold night"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Medians over the rounds: requests a second, and latencies in milliseconds."""

    contender: str
    clients: int
    throughput: float
    p50: float
    p95: float


class PeerReplica:
    """A process with sentence-transformers, in the place of `rpln_runtime.serve.replicas.Replica`."""

    def __init__(self, folder: Path, _: Asked, settings: ServeSettings, batch_size: int) -> None:
        import sentence_transformers
        import torch

        torch.set_num_threads(settings.threads or 1)
        checkpoint = json.loads((folder / PEER_FILE).read_text(encoding="utf-8"))
        self._model = sentence_transformers.SentenceTransformer(
            checkpoint, device="cpu", model_kwargs={"dtype": torch.float32}
        )
        self._batch_size = batch_size

    async def answer(self, asked: Sequence[Asked]) -> list[Outcome]:
        """Return a vector for each text."""
        texts = [one.item for one in asked]
        vectors = await asyncio.to_thread(self._model.encode, texts, batch_size=self._batch_size)
        return [Outcome(answer=vector) for vector in vectors]

    async def check_health(self) -> None:
        """Answer a text."""
        await self.answer([Asked("a", {})])


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT, help="the folder of the checkpoint")
    parser.add_argument("--seconds", type=float, default=8.0, help="how long each run lasts")
    parser.add_argument("--rounds", type=int, default=3, help="how often each contender runs")
    parser.add_argument("--serve", nargs=2, metavar=("CONTENDER", "BUNDLE"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.serve:
        serve(*chosen.serve)
    else:
        measure(chosen.checkpoint.absolute(), seconds=chosen.seconds, rounds=chosen.rounds)


def serve(contender: str, bundle: str) -> None:
    """Run the server of a contender."""
    run_server(
        bundles_from_arguments([f"model={bundle}"]),
        ServeSettings(provider="cpu", threads=1),
        host="127.0.0.1",
        port=0,
        on_ready=partial(print, flush=True),
        deploy=partial(deployment, kind=PeerReplica) if contender == PEER else deployment,
    )


def measure(checkpoint: Path, *, seconds: float, rounds: int) -> None:
    """Measure both contenders, and write the results."""
    with tempfile.TemporaryDirectory() as work:
        bundle = Path(work) / "bundle"
        export(checkpoint, task="feature-extraction", pooling=["mean"], output=bundle, progress=False)
        (bundle / PEER_FILE).write_text(json.dumps(str(checkpoint)), encoding="utf-8")
        with server(OURS, bundle) as ours, server(PEER, bundle) as peer:
            addresses = {OURS: ours, PEER: peer}
            check_vectors(addresses)
            found: dict[tuple[str, int], list[list[float]]] = {}
            for _ in range(rounds):
                for clients in CLIENTS:
                    for name, address in addresses.items():
                        time.sleep(PAUSE)
                        found.setdefault((name, clients), []).append(latencies(address, clients, seconds))
    rows = [row_from_runs(name, clients, runs, seconds) for (name, clients), runs in found.items()]
    write(rows, checkpoint, seconds=seconds, rounds=rounds)


@contextmanager
def server(contender: str, bundle: Path) -> Iterator[str]:
    """Yield the address of a server that runs."""
    command = [sys.executable, "-m", "benchmarks.serving_http", "--serve", contender, str(bundle)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603  # this script
        assert process.stdout is not None
        try:
            address = next(line.strip() for line in process.stdout if re.fullmatch(r"[\d.]+:\d+\n", line))
            yield address
        finally:
            process.terminate()


def check_vectors(addresses: dict[str, str]) -> None:
    """Check that both contenders make the same vectors."""
    for text in texts(20, seed=1):
        ours, peer = (ask(http.client.HTTPConnection(address), text) for address in addresses.values())
        np.testing.assert_allclose(ours, peer, atol=TOLERANCE)


def ask(connection: http.client.HTTPConnection, text: str) -> Any:
    """Return the vector of a text."""
    body = json.dumps({"model": "model", "input": text})
    connection.request("POST", "/v1/embeddings", body, {"content-type": "application/json"})
    response = connection.getresponse()
    document = json.loads(response.read())
    assert response.status == 200, document
    return document["data"][0]["embedding"]


def latencies(address: str, clients: int, seconds: float) -> list[float]:
    """Return the seconds that each request took of `clients` that ask one after the other."""
    end = time.monotonic() + seconds

    def client(place: int) -> list[float]:
        connection, found = http.client.HTTPConnection(address), []
        for text in texts(1 << 30, seed=place):
            start = time.monotonic()
            if start > end:
                break
            ask(connection, text)
            found.append(time.monotonic() - start)
        return found

    with ThreadPoolExecutor(clients) as pool:
        return [one for found in pool.map(client, range(clients)) for one in found]


def texts(count: int, *, seed: int) -> Iterator[str]:
    """Yield texts with a median of 20 words and at most 70."""
    drawn, words = random.Random(seed), SENTENCE.split()
    for _ in range(count):
        yield " ".join(drawn.choices(words, k=max(1, min(70, round(drawn.lognormvariate(3.0, 0.6))))))


def row_from_runs(name: str, clients: int, runs: Sequence[Sequence[float]], seconds: float) -> Row:
    """Return the medians of several runs."""
    return Row(
        contender=name,
        clients=clients,
        throughput=statistics.median(len(run) / seconds for run in runs),
        p50=1000 * statistics.median(np.percentile(run, 50) for run in runs),
        p95=1000 * statistics.median(np.percentile(run, 95) for run in runs),
    )


def write(rows: Sequence[Row], checkpoint: Path, *, seconds: float, rounds: int) -> None:
    """Write the results as JSON and as a table."""
    machine = describe_machine(threads=1)
    versions = versions_of(["ray", "onnxruntime", "sentence-transformers", "torch", "transformers"])
    document = {
        "machine": machine,
        "versions": versions,
        "checkpoint": checkpoint.name,
        "seconds": seconds,
        "rounds": rounds,
        "rows": [asdict(row) for row in rows],
    }
    (RESULTS / "serving_http.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    lines = [
        "# rpln serve beside sentence-transformers behind the same server",
        "",
        f"{machine['processor']}, {machine['cores']} cores, one thread for each contender. "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
        + f". {rounds} rounds of {seconds:g} seconds in turn, {checkpoint.name}; made by benchmarks/serving_http.py.",
        "",
        "| clients | contender | requests a second | p50, ms | p95, ms |",
        "|---|---|---|---|---|",
        *(
            f"| {row.clients} | {row.contender} | {row.throughput:.0f} | {row.p50:.1f} | {row.p95:.1f} |"
            for row in sorted(rows, key=lambda row: row.clients)
        ),
        "",
    ]
    text = "\n".join(lines)
    (RESULTS / "serving_http.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
