"""The processes that have bundles open: deployments of Ray Serve, which checks them and starts them anew."""

import asyncio
import importlib
import os
from collections.abc import AsyncIterator, Generator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from rpln_runtime.engines.gpus import count_gpus
from rpln_runtime.engines.providers import check_installed, provider_row
from rpln_runtime.errors import MissingExtraError, ProviderError
from rpln_runtime.generation.generator import BATCH_SIZE as GENERATED_ROWS
from rpln_runtime.installing import extras_command
from rpln_runtime.serve.bundles import ServedBundle
from rpln_runtime.serve.models import GeneratorModel, open_model
from rpln_runtime.serve.refusals import Outcome, outcome_of
from rpln_runtime.serve.settings import ServeSettings
from rpln_runtime.session import default_provider
from rpln_runtime.triton.request import Asked

BATCH_SIZE: Final = 32
"""The most items that run together where the operator says nothing, and no text is generated."""
CHECK_SECONDS: Final = 5
"""How often Ray Serve asks a replica to answer its example."""
_STUCK_SECONDS: Final = 10
"""How long a replica may take for its example. After three checks in a row that fail, it is started anew."""


class Replica:
    """A process that has a bundle open."""

    def __init__(self, folder: Path, example: Asked, settings: ServeSettings, batch_size: int) -> None:
        self._example = example
        self._model = open_model(folder, provider=settings.provider, threads=settings.threads, batch_size=batch_size)
        self._check()  # the first run of a graph plans memory, for which no client should wait

    async def answer(self, asked: Sequence[Asked]) -> list[Outcome]:
        """Return an outcome for each item."""
        return await asyncio.to_thread(self._model.answer, asked)

    async def stream(self, asked: Asked) -> AsyncIterator[str | Outcome]:
        """Yield pieces of new text, and the outcome last."""
        assert isinstance(self._model, GeneratorModel)
        try:
            pieces = await asyncio.to_thread(self._model.stream, asked)
            while not isinstance(piece := await asyncio.to_thread(_next, pieces), Outcome):
                yield piece
            yield piece
        except Exception as error:  # noqa: BLE001  # the client gets it as an event
            yield outcome_of(error)

    async def check_health(self) -> None:
        """Answer the example. Ray Serve calls this, and starts the process anew where it fails."""
        await asyncio.to_thread(self._check)

    def _check(self) -> None:
        (outcome,) = self._model.answer([self._example])
        if outcome.status == 500:
            raise RuntimeError(f"the example of the task is not answered: {outcome.sentence}")


def _next(pieces: Generator[str, None, bool]) -> str | Outcome:
    """Return the next piece, or the outcome at the end."""
    try:
        return next(pieces)
    except StopIteration as end:
        return Outcome(ended=(end.value,))


def deployment(bundle: ServedBundle, settings: ServeSettings, kind: type = Replica) -> Any:
    """Return the deployment of a bundle, bound to its arguments; `kind` is the class of its processes.

    Raises MissingExtraError without Ray Serve.
    """
    serve = import_serve()
    options = {"max_new_tokens": 1} if bundle.task.generates else {}
    return (
        serve.deployment(kind)
        .options(
            name=bundle.name,
            num_replicas=settings.replicas,
            # A batch at a time, and the checks of readiness beside it.
            max_ongoing_requests=2,
            health_check_period_s=CHECK_SECONDS,
            health_check_timeout_s=_STUCK_SECONDS,
            graceful_shutdown_timeout_s=settings.timeout,
            ray_actor_options={"num_cpus": settings.threads or 1, "num_gpus": int(_on_gpu(bundle, settings))},
        )
        .bind(bundle.folder, Asked(bundle.example, options), settings, batch_size_of(bundle, settings))
    )


def gpus_for(bundles: Sequence[ServedBundle], settings: ServeSettings) -> int:
    """Return how many GPUs the processes of `bundles` take, one each where the provider runs on GPUs.

    Raises MissingExtraError or ProviderError for a provider that is not installed, or if there are fewer GPUs here.
    """
    for bundle in bundles:
        check_installed(_provider(bundle, settings))
    needed = settings.replicas * sum(_on_gpu(bundle, settings) for bundle in bundles)
    if needed and needed > (found := count_gpus()):
        raise ProviderError(
            f"each process takes a GPU: {needed} are needed, and CUDA finds {found} here. Start fewer processes "
            "(--replicas), look at the driver and CUDA_VISIBLE_DEVICES (rpln doctor), or choose --provider cpu."
        )
    return needed


def _provider(bundle: ServedBundle, settings: ServeSettings) -> str:
    return settings.provider or default_provider(bundle.manifest)


def _on_gpu(bundle: ServedBundle, settings: ServeSettings) -> bool:
    return provider_row(_provider(bundle, settings)).device != "cpu"


def batch_size_of(bundle: ServedBundle, settings: ServeSettings) -> int:
    """Return the most items of a bundle that run together."""
    return settings.batch_size or (GENERATED_ROWS if bundle.task.generates else BATCH_SIZE)


def import_serve() -> ModuleType:
    """Return ray.serve. Raises MissingExtraError where it, or what answers over HTTP, is not installed."""
    # Ray reads this when it is imported. Nothing is reported to anybody.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    try:
        for module in ("fastapi", "prometheus_client", "psutil", "pydantic", "uvicorn"):
            importlib.import_module(module)
        return importlib.import_module("ray.serve")
    except ImportError as error:
        raise MissingExtraError(f"rpln serve lacks a package ({error}). Run: {extras_command('serve')}") from error
