"""The front: it knows the bundles, queues their items, and calls the replicas."""

import asyncio
import contextlib
import importlib
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from functools import partial
from typing import Any, Final

from rpln_runtime.request_limits import ignore_warnings
from rpln_runtime.serve.bundles import ServedBundle
from rpln_runtime.serve.log import LOG
from rpln_runtime.serve.metrics import Metrics
from rpln_runtime.serve.queues import ModelQueue, ReplicaDiedError
from rpln_runtime.serve.refusals import Outcome, Refusal, outcome_of
from rpln_runtime.serve.replicas import batch_size_of
from rpln_runtime.serve.settings import ServeSettings
from rpln_runtime.serve.work import check_answers, check_request
from rpln_runtime.triton.request import Asked

_REQUESTS: Final = 1024
"""How many requests there may be besides those that can wait in the queues."""
_READY_SECONDS: Final = 5
"""How long a bundle may take to show that it is ready."""


class Front:
    """All bundles of a server.

    Attributes:
        bundles: the bundles by name.
        settings: the settings of the server.
        metrics: what the server has counted.
        requests: how many requests are read or answered at the moment, without streams that have begun.
        most_requests: beyond how many of them a new one is refused: all that may wait, and some that do not yet.
    """

    def __init__(
        self, bundles: Sequence[ServedBundle], handles: Mapping[str, Any], settings: ServeSettings, *, lanes: int
    ) -> None:
        """Connect `bundles` to `handles`, DeploymentHandles of Ray Serve. Each gets `lanes` calls at a time."""
        ignore_warnings()
        self.bundles = {bundle.name: bundle for bundle in bundles}
        self.settings = settings
        self.requests = 0
        self.most_requests = _REQUESTS + len(bundles) * settings.queue
        self._handles = handles
        self._answered = dict.fromkeys(self.bundles, 0.0)
        self._examples: dict[str, asyncio.Task[bool]] = {}
        self._ended: set[str] = set()
        self._queues = {
            bundle.name: ModelQueue(
                bundle.name,
                partial(self._send, bundle.name),
                size=settings.queue,
                batch_size=batch_size_of(bundle, settings),
                lanes=lanes,
                on_death=partial(self._on_death, bundle.name),
            )
            for bundle in bundles
        }
        self.metrics = Metrics(self._queues)

    def bundle(self, name: str) -> ServedBundle:
        """Return the bundle called `name`. Raises Refusal with the status 404 if there is none."""
        if name not in self.bundles:
            raise Refusal(404, f"no model is called {name!r}: expected one of {', '.join(self.bundles)}.")
        return self.bundles[name]

    async def outcomes(self, bundle: ServedBundle, asked: Sequence[Asked]) -> list[Outcome]:
        """Return the outcome of each item of a request, all of which have an answer.

        Raises Refusal for the first item without one, and at once where the request is too large or the queue is full.
        """
        self._check(bundle, asked)
        outcomes = await self._queues[bundle.name].outcomes(asked)
        for place, outcome in enumerate(outcomes):
            outcome.checked(f"item {place}: " if len(asked) > 1 else "")
        check_answers([outcome.answer for outcome in outcomes])
        return outcomes

    async def pieces(self, bundle: ServedBundle, asked: Asked) -> AsyncGenerator[str | Outcome, None]:
        """Yield the pieces of new text for a prompt, and the outcome last.

        Raises Refusal as `outcomes` does, also after some pieces.
        """
        self._check(bundle, [asked])
        async with self._queues[bundle.name].turn():
            stream = self._handles[bundle.name].options(stream=True).stream.remote(asked)
            try:
                async for piece in stream:
                    yield piece.checked() if isinstance(piece, Outcome) else piece
            except Refusal:
                raise
            except _died() as error:
                self._on_death(bundle.name, 0, type(error).__name__)
                raise Refusal(503, "the process that wrote this text ended: try again.") from error
            except Exception as error:  # noqa: BLE001  # the client gets it as an event
                outcome_of(error).checked()
            finally:
                stream.cancel()

    async def ready(self, name: str) -> bool:
        """Return whether a bundle answers its example. A busy one that answered just now is ready, too.

        All who ask at a time share one example.
        """
        if name not in self._examples:
            self._examples[name] = asyncio.create_task(self._answers_example(name))
            self._examples[name].add_done_callback(lambda _: self._examples.pop(name))
        return await asyncio.shield(self._examples[name])

    async def _answers_example(self, name: str) -> bool:
        with contextlib.suppress(Exception):
            async with asyncio.timeout(_READY_SECONDS):
                await self._handles[name].check_health.remote()
            return True
        return time.monotonic() - self._answered[name] < _READY_SECONDS

    def _check(self, bundle: ServedBundle, asked: Sequence[Asked]) -> None:
        check_request(asked, bundle, self.settings, batch_size=batch_size_of(bundle, self.settings))

    async def _send(self, name: str, asked: Sequence[Asked]) -> Sequence[Outcome]:
        self.metrics.batch(name, len(asked))
        try:
            outcomes: Sequence[Outcome] = await self._handles[name].answer.remote(asked)
        except _died() as error:
            raise ReplicaDiedError(type(error).__name__) from error
        self._answered[name] = time.monotonic()
        if name in self._ended:
            self._ended.remove(name)
            LOG.info("%r answers again", name)
        return outcomes

    def _on_death(self, name: str, items: int, reason: str) -> None:
        """Note that a process ended, in Ray's word for it, and that `items` of what it had are tried again."""
        self._ended.add(name)
        self.metrics.ended(name, items)
        again = f"trying {items} items again" if items else "none is tried again"
        LOG.warning("the process of %r ended (%s); %s", name, reason, again)


def _died() -> tuple[type[Exception], ...]:
    """Return the errors of a call whose replica ended."""
    exceptions = importlib.import_module("ray.exceptions")
    return (
        exceptions.RayActorError,
        exceptions.NodeDiedError,
        exceptions.WorkerCrashedError,
        exceptions.OutOfMemoryError,
    )
