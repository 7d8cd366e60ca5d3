"""Runs of load: clients that wait for their answers, requests that arrive at random times, and many at once."""

import asyncio
import itertools
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from benchmarks.load_clients import OK, Client, Reply

WRONG: Final = "wrong"
LOST: Final = "no answer"


@dataclass(slots=True)
class Run:
    """What became of the requests of a run.

    Attributes:
        statuses: how many requests ended how: OK, the protocol's name of an error, "wrong" or "no answer".
        seconds: how long each request took, by its status.
        elapsed: the seconds of the whole run.
        messages: the first message of each status that is an error.
    """

    statuses: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    elapsed: float = 0.0
    messages: dict[str, str] = field(default_factory=dict)

    @property
    def throughput(self) -> float:
        """The right answers in a second."""
        return self.statuses[OK] / self.elapsed

    def percentile(self, percent: float, status: str = OK) -> float:
        """Return a percentile of the milliseconds of requests that ended with `status`."""
        return 1000 * float(np.percentile(self.seconds[status], percent)) if self.seconds.get(status) else float("nan")

    def add(self, reply: Reply, seconds: float, expected: object) -> None:
        """Count a request."""
        status = WRONG if reply.status == OK and reply.answer != expected else reply.status
        self.statuses[status] += 1
        self.seconds.setdefault(status, []).append(seconds)
        if reply.message:
            self.messages.setdefault(status, reply.message)


async def closed_loop(
    client: Client, texts: Sequence[str], expected: Mapping[str, object], *, clients: int, seconds: float
) -> Run:
    """Let each of `clients` ask, wait for its answer, and ask again, for so many seconds."""
    run, begin = Run(), time.perf_counter()

    async def ask_on(seed: int) -> None:
        drawn = random.Random(seed)
        while time.perf_counter() < begin + seconds:
            await _ask(run, client, drawn.choice(texts), expected, timeout_us=0)

    await asyncio.gather(*map(ask_on, range(clients)))
    run.elapsed = time.perf_counter() - begin
    return run


async def open_loop(
    client: Client,
    texts: Sequence[str],
    expected: Mapping[str, object],
    *,
    rate: float,
    seconds: float,
    timeout_us: int = 0,
) -> Run:
    """Send `rate` requests a second at random times, whether or not earlier ones were answered, and wait for all."""
    run, begin, drawn = Run(), time.perf_counter(), random.Random(0)
    arrivals = itertools.accumulate(itertools.repeat(1 / rate), lambda due, gap: due + drawn.expovariate(1 / gap))
    tasks = []
    for due in itertools.takewhile(lambda due: due < seconds, arrivals):
        await asyncio.sleep(max(0.0, begin + due - time.perf_counter()))
        tasks.append(asyncio.create_task(_ask(run, client, drawn.choice(texts), expected, timeout_us=timeout_us)))
    await asyncio.gather(*tasks)
    run.elapsed = time.perf_counter() - begin
    return run


async def burst(
    client: Client, texts: Sequence[str], expected: Mapping[str, object], *, requests: int, together: int
) -> Run:
    """Send so many requests as soon as possible, with at most `together` of them open at a time."""
    run, begin, drawn, room = Run(), time.perf_counter(), random.Random(0), asyncio.Semaphore(together)

    async def ask(text: str) -> None:
        async with room:
            await _ask(run, client, text, expected, timeout_us=0)

    await asyncio.gather(*map(ask, drawn.choices(texts, k=requests)))
    run.elapsed = time.perf_counter() - begin
    return run


async def _ask(run: Run, client: Client, text: str, expected: Mapping[str, object], *, timeout_us: int) -> None:
    start = time.perf_counter()
    try:
        reply = await client.ask(text, timeout_us=timeout_us)
    except OSError as error:
        reply = Reply(LOST, None, str(error))
    run.add(reply, time.perf_counter() - start, expected[text])
