"""The parts of the benchmark of load. Each measures something and returns the lines of its section."""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from benchmarks.load_clients import OK, Client, HttpClient
from benchmarks.load_malformed import MALFORMED
from benchmarks.load_runs import LOST, WRONG, Run, burst, closed_loop, open_loop
from benchmarks.load_target import Target

CLIENTS: Final = (1, 4, 16, 64)
MANY: Final = 16
SHARES: Final = (0.3, 0.6, 0.9)
"""The rates of the open loop, as shares of what MANY clients in a closed loop get answered."""
OVERLOAD: Final = 2.5
TIMEOUT_MS: Final = 500
BURST: Final = 96
GOOD: Final = 500
PAUSE: Final = 0.5


@dataclass(kw_only=True)
class Bench:
    """What is measured, the choices of the command line, and how many answers were compared.

    Attributes:
        texts: the texts of each kind.
        expected: the answer to each text.
        seconds: how long a run takes.
        overload_seconds: how long a server is asked too much.
        malformed: how many malformed requests are sent.
        compared: how many answers came.
        wrong: how many of these were not those of `pipeline`.
    """

    target: Target
    texts: Mapping[str, Sequence[str]]
    expected: Mapping[str, object]
    seconds: float
    overload_seconds: float
    malformed: int
    compared: int = 0
    wrong: int = 0

    async def closed(self, kind: str, *, clients: int, protocol: str = "", model: str = "") -> Run:
        """Run a closed loop."""
        async with self._client(protocol, model) as client:
            return self._counted(
                await closed_loop(client, self.texts[kind], self.expected, clients=clients, seconds=self.seconds)
            )

    async def open(
        self, kind: str, *, rate: float, seconds: float, protocol: str = "", model: str = "", timeout_us: int = 0
    ) -> Run:
        """Run an open loop."""
        async with self._client(protocol, model) as client:
            return self._counted(
                await open_loop(
                    client, self.texts[kind], self.expected, rate=rate, seconds=seconds, timeout_us=timeout_us
                )
            )

    async def burst(self, kind: str, *, requests: int, together: int, protocol: str = "", model: str = "") -> Run:
        """Send so many requests, with `together` of them open at a time."""
        async with self._client(protocol, model) as client:
            return self._counted(
                await burst(client, self.texts[kind], self.expected, requests=requests, together=together)
            )

    @contextlib.asynccontextmanager
    async def _client(self, protocol: str, model: str) -> AsyncIterator[Client]:
        await asyncio.sleep(PAUSE)
        async with self.target.client(protocol or self.target.protocol, model or self.target.model) as client:
            yield client

    def _counted(self, run: Run) -> Run:
        self.wrong += run.statuses[WRONG]
        self.compared += run.statuses[WRONG] + run.statuses[OK]
        return run


async def closed_part(bench: Bench) -> list[str]:
    """Clients that wait for their answers."""
    lines = ["Throughput and percentiles are ratios to one client; the row of one client has its own figures.", ""]
    for protocol in bench.target.addresses:
        lines += _head("texts", "clients", "throughput", "p50", "p95", "p99", "rows in a run", "not OK", title=protocol)
        for kind in bench.texts:
            one: Run | None = None
            for clients in CLIENTS:
                rows, runs = bench.target.batches(bench.target.model)
                run = await bench.closed(kind, clients=clients, protocol=protocol)
                rows_after, runs_after = bench.target.batches(bench.target.model)
                joined = f"{(rows_after - rows) / (runs_after - runs):.1f}" if runs_after > runs else ""
                lines.append(_row(kind, clients, *_beside(run, one), joined, _failures(run)))
                one = one or run
        lines.append("")
    return lines


async def open_part(bench: Bench) -> list[str]:
    """Requests that arrive at random times."""
    lines = [f"Rates are shares of what {MANY} waiting clients get answered, over {bench.target.protocol}.", ""]
    lines += _head("texts", "share", "requests/s", "p50", "p95", "p99", "not OK")
    for kind in bench.texts:
        most = (await bench.closed(kind, clients=MANY)).throughput
        for share in SHARES:
            run = await bench.open(kind, rate=share * most, seconds=bench.seconds)
            percentiles = (_milliseconds(run.percentile(percent)) for percent in (50, 95, 99))
            lines.append(_row(kind, share, f"{share * most:.0f}", *percentiles, _failures(run)))
    return lines


async def policies_part(bench: Bench) -> list[str]:
    """What limits to the queues cost."""
    lines = [f"Short texts over {bench.target.protocol}, medians of three rounds in which the repositories take turns."]
    lines += [f"A burst is {BURST} requests at once; there are eight.", ""]
    lines += _head("repository", f"{MANY} clients", "p99", "burst", "slowest burst")
    gains: dict[str, list[float]] = {name: [] for name in bench.target.models}
    tails: dict[str, list[float]] = {name: [] for name in bench.target.models}
    bursts: dict[str, list[float]] = {name: [] for name in bench.target.models}
    for _ in range(3):
        for name, model in bench.target.models.items():
            one = await bench.closed("short", clients=1, model=model)
            many = await bench.closed("short", clients=MANY, model=model)
            gains[name].append(many.throughput / one.throughput)
            tails[name].append(many.percentile(99))
    for _ in range(8):
        for name, model in bench.target.models.items():
            run = await bench.burst("short", requests=BURST, together=BURST, model=model)
            bursts[name].append(1000 * run.elapsed)
    for name in bench.target.models:
        gain, tail, usual, slowest = (
            float(np.median(gains[name])),
            float(np.median(tails[name])),
            float(np.median(bursts[name])),
            max(bursts[name]),
        )
        lines.append(_row(name, f"{gain:.1f} x one", *map(_milliseconds, (tail, usual, slowest))))
    return lines


async def overload_part(bench: Bench) -> list[str]:
    """More requests than the server can answer."""
    most = (await bench.closed("long", clients=MANY)).throughput
    lines = [f"Long texts, {OVERLOAD * most:.0f} requests/s for {bench.overload_seconds:.0f} s: {OVERLOAD} times what"]
    lines += [f"{MANY} waiting clients get answered.", ""]
    lines += _head("repository", "answered", "slowest answer", "refused", "median refusal", "most pending")
    for name, model in bench.target.models.items():
        async with _watched(bench.target, model) as pending:
            run = await bench.open("long", rate=OVERLOAD * most, seconds=bench.overload_seconds, model=model)
        longest = max(pending, default=0)
        lines.append(_row(name, *_refusals(run), "" if np.isnan(longest) else f"{longest:.0f}"))
    return lines


async def timeouts_part(bench: Bench) -> list[str]:
    """Clients with a timeout of their own."""
    most = (await bench.closed("long", clients=MANY)).throughput
    lines = [
        f"Long texts, {OVERLOAD} times what {MANY} waiting clients get answered, with a timeout of {TIMEOUT_MS} ms."
    ]
    lines += ["", *_head("protocol", "answered", "slowest answer", "refused", "median refusal")]
    for protocol in bench.target.addresses:
        run = await bench.open(
            "long", rate=OVERLOAD * most, seconds=2 * bench.seconds, protocol=protocol, timeout_us=1000 * TIMEOUT_MS
        )
        lines.append(_row(protocol, *_refusals(run)))
    return lines


async def malformed_part(bench: Bench) -> list[str]:
    """Malformed requests, and then good ones."""
    client = HttpClient(bench.target.addresses["http"], bench.target.model)
    answers: dict[str, Counter[str]] = {name: Counter() for name in MALFORMED}
    room = asyncio.Semaphore(MANY)

    async def send(name: str) -> None:
        request = MALFORMED[name]()
        async with room:
            try:
                status, _ = await client.post(request.body, request.path, request.headers)
            except OSError:
                answers[name][LOST] += 1
            else:
                answers[name][str(status)] += 1

    await asyncio.gather(*map(send, random.Random(0).choices(list(MALFORMED), k=bench.malformed)))
    await client.close()
    lines = [
        f"After {bench.malformed} requests of {len(MALFORMED)} kinds over http, {GOOD} good ones over each protocol:"
    ]
    for protocol in bench.target.addresses:
        run = await bench.burst("mixed", requests=GOOD, together=MANY, protocol=protocol)
        counted = ", ".join(f"{count} {status}" for status, count in run.statuses.items())
        lines.append(f"{protocol} {counted}.")
    lines += ["", *_head("request", "what the server answered")]
    for name, counts in answers.items():
        lines.append(_row(name, ", ".join(f"{count} x {status}" for status, count in counts.most_common())))
    return lines


PARTS: Final[dict[str, Callable[[Bench], Awaitable[list[str]]]]] = {
    "closed": closed_part,
    "open": open_part,
    "policies": policies_part,
    "overload": overload_part,
    "timeouts": timeouts_part,
    "malformed": malformed_part,
}


@contextlib.asynccontextmanager
async def _watched(target: Target, model: str) -> AsyncIterator[list[float]]:
    """Yield a list that grows by the number of pending requests, five times a second."""
    found: list[float] = []

    async def watch() -> None:
        while True:
            found.append(await asyncio.to_thread(target.pending, model))
            await asyncio.sleep(0.2)

    task = asyncio.create_task(watch())
    try:
        yield found
    finally:
        task.cancel()


def _beside(run: Run, one: Run | None) -> Iterator[str]:
    """Yield throughput and percentiles, as ratios to `one` unless the run is that of one client."""
    if one is None:
        yield f"{run.throughput:.0f}/s"
    else:
        yield f"{run.throughput / one.throughput:.1f} x"
    for percent in (50, 95, 99):
        value = run.percentile(percent)
        yield _milliseconds(value) if one is None else f"{value / one.percentile(percent):.1f} x"


def _refusals(run: Run) -> tuple[str, str, str, str]:
    """Return how many requests were answered and how slowly, how many were not, why, and how soon they knew."""
    others = Counter({status: count for status, count in run.statuses.items() if status != OK})
    status = others.most_common(1)[0][0] if others else ""
    told = f"{_failures(run)}: {run.messages[status]}" if status in run.messages else _failures(run)
    return f"{run.statuses[OK]}", _milliseconds(run.percentile(100)), told, _milliseconds(run.percentile(50, status))


def _failures(run: Run) -> str:
    return ", ".join(f"{count} x {status}" for status, count in run.statuses.items() if status != OK) or "0"


def _milliseconds(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.0f} ms"


def _head(*columns: str, title: str = "") -> list[str]:
    return [*([f"### {title}", ""] if title else []), _row(*columns), "|---" * len(columns) + "|"]


def _row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"
