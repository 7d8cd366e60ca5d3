"""The front: it knows the bundles, queues their items, and calls the replicas."""

import asyncio
import contextlib
import importlib
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from functools import partial
from typing import Any, Final

from rpln_runtime.serve.bundles import ServedBundle
from rpln_runtime.serve.log import LOG
from rpln_runtime.serve.metrics import Metrics
from rpln_runtime.serve.queues import ModelQueue, ReplicaDiedError, bytes_of
from rpln_runtime.serve.refusals import Outcome, Refusal
from rpln_runtime.serve.replicas import batch_size_of
from rpln_runtime.serve.settings import ServeSettings
from rpln_runtime.triton.request import Asked

_READY_SECONDS: Final = 5
"""How long a bundle may take to show that it is ready."""


class Front:
    """All bundles of a server.

    Attributes:
        bundles: the bundles by name.
        settings: the settings of the server.
        metrics: what the server has counted.
    """

    def __init__(
        self, bundles: Sequence[ServedBundle], handles: Mapping[str, Any], settings: ServeSettings, *, lanes: int
    ) -> None:
        """Connect `bundles` to `handles`, DeploymentHandles of Ray Serve. Each gets `lanes` calls at a time."""
        self.bundles = {bundle.name: bundle for bundle in bundles}
        self.settings = settings
        self._handles = handles
        self._answered = dict.fromkeys(self.bundles, 0.0)
        self._ended: set[str] = set()
        self._queues = {
            bundle.name: ModelQueue(
                bundle.name,
                partial(self._send, bundle.name),
                size=settings.queue,
                batch_size=batch_size_of(bundle, settings),
                lanes=lanes,
                on_retry=partial(self._on_retry, bundle.name),
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
        self._check(asked)
        outcomes = await self._queues[bundle.name].outcomes(asked)
        for place, outcome in enumerate(outcomes):
            outcome.checked(f"item {place}: " if len(asked) > 1 else "")
        return outcomes

    async def pieces(self, bundle: ServedBundle, asked: Asked) -> AsyncGenerator[str | Outcome, None]:
        """Yield the pieces of new text for a prompt, and the outcome last.

        Raises Refusal as `outcomes` does, also after some pieces.
        """
        self._check([asked])
        async with self._queues[bundle.name].turn():
            stream = self._handles[bundle.name].options(stream=True).stream.remote(asked)
            try:
                async for piece in stream:
                    yield piece.checked() if isinstance(piece, Outcome) else piece
            except _died() as error:
                raise Refusal(503, "the process that wrote this text ended: try again.") from error
            finally:
                stream.cancel()

    async def ready(self, name: str) -> bool:
        """Return whether a bundle answers its example. A busy one that answered just now is ready, too."""
        with contextlib.suppress(Exception):
            async with asyncio.timeout(_READY_SECONDS):
                await self._handles[name].check_health.remote()
            return True
        return time.monotonic() - self._answered[name] < _READY_SECONDS

    async def _send(self, name: str, asked: Sequence[Asked]) -> Sequence[Outcome]:
        self.metrics.batch(name, len(asked))
        try:
            outcomes: Sequence[Outcome] = await self._handles[name].answer.remote(asked)
        except _died() as error:
            raise ReplicaDiedError from error
        self._answered[name] = time.monotonic()
        if name in self._ended:
            self._ended.remove(name)
            LOG.info("%r answers again", name)
        return outcomes

    def _on_retry(self, name: str, items: int) -> None:
        """Note that a process ended, and that `items` of what it had are tried again."""
        self._ended.add(name)
        self.metrics.retried(name, items)
        LOG.warning("the process of %r ended; trying %d items again", name, items)

    def _check(self, asked: Sequence[Asked]) -> None:
        most = min(self.settings.items, self.settings.queue)
        if not asked:
            raise Refusal(400, "the request has no items: expected at least one.")
        if len(asked) > most:
            raise Refusal(413, f"the request has {len(asked)} items, expected at most {most}: send several requests.")
        for place, one in enumerate(asked):
            if (size := bytes_of(one.item)) > self.settings.text_bytes:
                where = f"item {place}" if len(asked) > 1 else "the item"
                raise Refusal(
                    413, f"{where} has {size:,} bytes of text, expected at most {self.settings.text_bytes:,}: split it."
                )


def _died() -> tuple[type[Exception], ...]:
    """Return the errors of a call whose replica ended."""
    exceptions = importlib.import_module("ray.exceptions")
    return (exceptions.RayActorError, exceptions.NodeDiedError, exceptions.WorkerCrashedError)
