"""The queue of a bundle: items wait in it, leave it in batches of similar length, and are refused when it is full."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from rpln_runtime.serve.log import LOG
from rpln_runtime.serve.refusals import Outcome, Refusal
from rpln_runtime.triton.request import Asked

Send: TypeAlias = Callable[[Sequence[Asked]], Awaitable[Sequence[Outcome]]]
"""A function that sends a batch to a replica. It raises ReplicaDiedError if the replica ends meanwhile."""

_SHORT_BYTES: Final = 64
"""Texts up to this length, of about 16 tokens, count as equally long."""


class ReplicaDiedError(Exception):
    """A replica ended while it had a batch."""


@dataclass(eq=False, slots=True, kw_only=True)
class Waiting:
    """An item in the queue, or a stream.

    Attributes:
        asked: the item; None for a stream, which waits for its turn only.
        size: the bytes of its texts.
        future: what the client waits for.
        alone: whether it runs in a batch of its own.
    """

    asked: Asked | None
    size: int
    future: asyncio.Future[Any]
    alone: bool = False

    def fits(self, oldest: "Waiting") -> bool:
        """Return whether it may run with the `oldest` item: at most twice as long, and at least half as long."""
        return self is oldest or not (self.alone or oldest.alone or self.length_class != oldest.length_class)

    @property
    def length_class(self) -> int:
        """A number that texts share which are between one power of two and the next in length."""
        return max(self.size, _SHORT_BYTES).bit_length()


class ModelQueue:
    """The items that wait for a bundle. All methods are called in one event loop.

    Args:
        name: the name of the bundle.
        send: sends a batch to a replica.
        size: the most items that wait.
        batch_size: the most items of a batch.
        lanes: how many batches and streams run at a time.
        on_death: is told how many items of a batch are tried again after their replica died, and of what it died.
    """

    def __init__(
        self,
        name: str,
        send: Send,
        *,
        size: int,
        batch_size: int,
        lanes: int,
        on_death: Callable[[int, str], None] = lambda _items, _reason: None,
    ) -> None:
        self._name = name
        self._send = send
        self._on_death = on_death
        self._size = size
        self._batch_size = batch_size
        self._free = lanes
        self._waiting: dict[Waiting, None] = {}
        self._running: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        """Return how many items wait."""
        return len(self._waiting)

    async def outcomes(self, asked: Sequence[Asked]) -> list[Outcome]:
        """Return the outcomes of the items of a request. Raises Refusal, at once, where they do not find room.

        If the caller is cancelled, what still waits is taken out of the queue.
        """
        items = [self._item(one, bytes_of(one.item)) for one in asked]
        with self._queued(items):
            return list(await asyncio.gather(*(item.future for item in items)))

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait until a replica is free for a stream, and keep it. Raises Refusal where the queue is full."""
        stream = self._item(None, 0)
        stream.alone = True
        try:
            with self._queued([stream]):
                await stream.future
            yield
        finally:
            if stream.future.done() and not stream.future.cancelled():
                self._free += 1
                self._start()

    def _item(self, asked: Asked | None, size: int) -> Waiting:
        return Waiting(asked=asked, size=size, future=asyncio.get_running_loop().create_future())

    def _queued(self, items: Sequence[Waiting]) -> "_Queued":
        if len(self._waiting) + len(items) > self._size:
            sentence = f"{len(self._waiting)} items wait for {self._name!r}, of at most {self._size}: try again later."
            raise Refusal(503, sentence, full=f"the queue of {self._name!r}")
        return _Queued(self, items)

    def enter(self, items: Sequence[Waiting]) -> None:
        """Put items at the end of the queue."""
        self._waiting.update(dict.fromkeys(items))
        self._start()

    def leave(self, items: Sequence[Waiting]) -> None:
        """Take items out of the queue that are still there. Nobody waits for them any more."""
        for item in items:
            self._waiting.pop(item, None)
            item.future.cancel()

    def _start(self) -> None:
        """Start batches while a replica is free."""
        while self._free and (batch := list(self._batch())):
            for item in batch:
                del self._waiting[item]
            self._free -= 1
            if batch[0].asked is None:
                batch[0].future.set_result(None)
                continue
            task = asyncio.create_task(self._run(batch))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    def _batch(self) -> Iterator[Waiting]:
        """Yield the oldest item and, in their order, others that fit it.

        An item whose client has just left is still in the queue until the client's task runs, but is not taken.
        """
        awaited = [item for item in self._waiting if not item.future.done()]
        yield from itertools.islice((item for item in awaited if item.fits(awaited[0])), self._batch_size)

    async def _run(self, batch: Sequence[Waiting]) -> None:
        try:
            outcomes = await self._send([item.asked for item in batch if item.asked is not None])
            for item, outcome in zip(batch, outcomes, strict=True):
                _answer(item, outcome)
        except ReplicaDiedError as death:
            self._on_death(sum(not (item.alone or item.future.done()) for item in batch), str(death))
            self._try_again(batch)
        except Exception as error:  # noqa: BLE001  # the clients of this batch get it; the queue goes on
            self._fail(batch, error)
        finally:
            self._free += 1
            self._start()

    def _try_again(self, batch: Sequence[Waiting]) -> None:
        """Run the items of a batch whose replica died again, but refuse an item that was alone in it."""
        for item in batch:
            if item.alone:
                sentence = f"the process that had {self._name!r} open ended while it ran this item alone."
                _answer(item, Outcome(status=503, sentence=sentence))
        self._run_alone(batch)

    def _fail(self, batch: Sequence[Waiting], error: Exception) -> None:
        """Hand an error of the server to the client of a single item, and run several items again."""
        if len(batch) > 1:
            told = "%r failed at a batch of %d items, which are tried again, each alone"
            LOG.warning(told, self._name, len(batch), exc_info=error)
            self._run_alone(batch)
        elif not batch[0].future.done():
            batch[0].future.set_exception(error)

    def _run_alone(self, batch: Sequence[Waiting]) -> None:
        """Put items in front, each for a batch of its own: one of them may be the reason that all of them failed."""
        again = [item for item in batch if not item.alone and not item.future.done()]
        for item in again:
            item.alone = True
        self._waiting = {**dict.fromkeys(again), **self._waiting}


@dataclass(slots=True)
class _Queued:
    """A context in which items are in the queue. At its end, those that were not taken leave it."""

    queue: ModelQueue
    items: Sequence[Waiting]

    def __enter__(self) -> None:
        self.queue.enter(self.items)

    def __exit__(self, *_: object) -> None:
        self.queue.leave(self.items)


def bytes_of(item: Any) -> int:
    """Return how many bytes the texts of an item have as UTF-8."""
    if isinstance(item, str):
        return len(item) if item.isascii() else len(item.encode(errors="surrogatepass"))
    parts = item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
    return sum(map(bytes_of, parts))


def _answer(item: Waiting, outcome: Outcome) -> None:
    if not item.future.done():
        item.future.set_result(outcome)
