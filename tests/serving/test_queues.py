"""The queue: batches of similar length, a bound, clients that leave, and replicas that end."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from rpln_runtime.serve.queues import ModelQueue, ReplicaDiedError
from rpln_runtime.serve.refusals import Outcome, Refusal
from rpln_runtime.triton.request import Asked

POISON = "poison"


class Replicas:
    """Stand-ins for replicas: they keep the batches, answer a text with itself when they may, and die of POISON."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.may = asyncio.Event()

    async def __call__(self, asked: Sequence[Asked]) -> list[Outcome]:
        self.batches.append([one.item for one in asked])
        await self.may.wait()
        if any(POISON in one.item for one in asked):
            raise ReplicaDiedError
        return [Outcome(answer=one.item) for one in asked]


def run(test: Callable[[Replicas], Coroutine[Any, Any, None]]) -> None:
    async def inside() -> None:
        await asyncio.wait_for(test(Replicas()), 20)

    # In a thread of its own: Playwright, which other tests use, leaves a loop running in this one.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(lambda: asyncio.run(inside())).result()


def queue_of(replicas: Replicas, *, size: int = 100, batch_size: int = 4, lanes: int = 1) -> ModelQueue:
    return ModelQueue("tagger", replicas, size=size, batch_size=batch_size, lanes=lanes)


async def asked(queue: ModelQueue, *texts: str) -> list[Any]:
    return [outcome.answer for outcome in await queue.outcomes([Asked(text, {}) for text in texts])]


async def started(*work: Coroutine[Any, Any, Any]) -> list[asyncio.Task[Any]]:
    tasks = []
    for one in work:
        tasks.append(asyncio.create_task(one))
        await asyncio.sleep(0)
    return tasks


def test_items_of_similar_length_run_together_the_oldest_first() -> None:
    async def test(replicas: Replicas) -> None:
        queue = queue_of(replicas)
        short, long, longest = "s" * 50, "l" * 300, "x" * 5000
        tasks = await started(*(asked(queue, text) for text in ("first", long, short, longest, "other", long + "l")))
        replicas.may.set()
        assert [answer for (answer,) in await asyncio.gather(*tasks)] == [
            "first", long, short, longest, "other", long + "l",
        ]  # fmt: skip
        assert replicas.batches == [["first"], [long, long + "l"], [short, "other"], [longest]]

    run(test)


def test_batches_and_lanes_are_bounded() -> None:
    async def test(replicas: Replicas) -> None:
        queue = queue_of(replicas, batch_size=2, lanes=2)
        (task,) = await started(asked(queue, *"abcdefg"))
        await asyncio.sleep(0)
        assert replicas.batches == [["a", "b"], ["c", "d"]]
        replicas.may.set()
        assert await task == list("abcdefg")
        assert replicas.batches[2:] == [["e", "f"], ["g"]]

    run(test)


def test_what_does_not_fit_is_refused_at_once_and_as_a_whole() -> None:
    async def test(replicas: Replicas) -> None:
        queue = queue_of(replicas, size=3, batch_size=1)
        tasks = await started(asked(queue, "runs"), asked(queue, "a", "b"))
        with pytest.raises(Refusal, match="2 items wait for 'tagger', of at most 3") as refusal:
            await queue.outcomes([Asked("c", {}), Asked("d", {})])
        assert refusal.value.status == 503
        tasks += await started(asked(queue, "c"))
        with pytest.raises(Refusal):
            await queue.turn().__aenter__()
        replicas.may.set()
        assert await asyncio.gather(*tasks) == [["runs"], ["a", "b"], ["c"]]

    run(test)


def test_the_items_of_a_client_that_leaves_are_not_computed() -> None:
    async def test(replicas: Replicas) -> None:
        queue = queue_of(replicas)
        runs, leaves, stays = await started(*(asked(queue, text) for text in ("runs", "leaves", "stays")))
        leaves.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert len(queue) == 1
        replicas.may.set()
        assert [await runs, await stays] == [["runs"], ["stays"]]
        assert replicas.batches == [["runs"], ["stays"]]

    run(test)


def test_the_others_of_a_batch_that_ended_a_replica_are_answered() -> None:
    async def test(replicas: Replicas) -> None:
        queue = queue_of(replicas)
        replicas.may.set()
        found = await queue.outcomes([Asked(text, {}) for text in ("a", POISON, "b")])
        assert [one.status for one in found] == [200, 503, 200]
        assert [one.answer for one in found] == ["a", None, "b"]
        assert "while it ran this item alone" in found[1].sentence
        assert replicas.batches == [["a", POISON, "b"], ["a"], [POISON], ["b"]]

    run(test)


def test_a_stream_waits_for_its_turn_and_gives_it_back() -> None:
    async def test(replicas: Replicas) -> None:
        queue = queue_of(replicas)
        order = []

        async def stream() -> None:
            async with queue.turn():
                order.append("stream")
                assert len(replicas.batches) == 1  # nothing else runs beside it

        tasks = await started(asked(queue, "runs"), stream(), stream(), asked(queue, "after"))
        assert not order
        tasks[1].cancel()  # a client that leaves before its turn
        replicas.may.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert order == ["stream"]
        assert await asked(queue, "at last") == ["at last"]

    run(test)


def test_a_stream_whose_client_leaves_before_its_turn_takes_none() -> None:
    async def test(replicas: Replicas) -> None:
        queue = queue_of(replicas)
        runs, stream = await started(asked(queue, "runs"), queue.turn().__aenter__())
        replicas.may.set()  # the batch will end before the task of the stream gets to know that it is cancelled
        stream.cancel()
        assert await runs == ["runs"]
        assert await asked(queue, "after") == ["after"]
        assert stream.cancelled()

    run(test)


def test_a_stream_whose_client_leaves_at_its_turn_gives_it_back() -> None:
    async def test(replicas: Replicas) -> None:
        queue = queue_of(replicas)
        first = queue.turn()
        await first.__aenter__()
        (stream,) = await started(queue.turn().__aenter__())
        await first.__aexit__(None, None, None)
        stream.cancel()  # its turn has come, but its task has not run since
        replicas.may.set()
        assert await asked(queue, "after") == ["after"]
        assert stream.cancelled()

    run(test)


def test_an_item_whose_client_has_just_left_is_in_no_batch() -> None:
    async def test(replicas: Replicas) -> None:
        queue = queue_of(replicas)
        runs, leaves, stays = await started(*(asked(queue, text) for text in ("runs", "leaves", "stays")))
        replicas.may.set()
        leaves.cancel()
        assert [await runs, await stays] == [["runs"], ["stays"]]
        assert replicas.batches == [["runs"], ["stays"]]

    run(test)


def test_an_error_of_the_server_fails_the_item_that_it_is_for_and_no_other() -> None:
    async def test(replicas: Replicas) -> None:
        async def send(batch: Sequence[Asked]) -> list[Outcome]:
            try:
                return await replicas(batch)
            except ReplicaDiedError as error:
                raise MemoryError("bad allocation") from error

        queue = ModelQueue("tagger", send, size=9, batch_size=4, lanes=1)
        good, bad, other = await started(*(asked(queue, text) for text in ("good", POISON, "other")))
        replicas.may.set()
        assert [await good, await other] == [["good"], ["other"]]
        with pytest.raises(MemoryError, match="bad allocation"):
            await bad
        assert replicas.batches == [["good"], [POISON, "other"], [POISON], ["other"]]

    run(test)


def test_an_error_of_the_server_reaches_its_clients_and_the_queue_goes_on() -> None:
    async def test(replicas: Replicas) -> None:
        failures = [ValueError("broken")]

        async def send(batch: Sequence[Asked]) -> list[Outcome]:
            if failures:
                raise failures.pop()
            return [Outcome(answer=one.item) for one in batch]

        queue = ModelQueue("tagger", send, size=9, batch_size=1, lanes=1)
        with pytest.raises(ValueError, match="broken"):
            await asked(queue, "a")
        assert await asked(queue, "b") == ["b"]

    run(test)
