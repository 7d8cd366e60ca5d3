"""Answers the windows of a corpus as a Ray Data job: by a pool of actors, each with the bundle open."""

import importlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from rpln_runtime.corpus.opening import Opening
from rpln_runtime.corpus.reading import Span, Windows, read_span
from rpln_runtime.corpus.records import Record, answer_lines
from rpln_runtime.errors import MissingExtraError
from rpln_runtime.installing import extras_command

_MOST_BLOCKS: Final = 10_000
"""The most blocks to make. Ray hands blocks to actors, and each costs the driver about a millisecond."""


def answer_windows_on_ray(
    windows: Windows, *, source: Path, opening: Opening, actors: int | None
) -> Iterator[tuple[Span, list[Record]]]:
    """Yield the records of each window, in the order of the input. `actors` None: as many as there are CPUs for.

    Connects to the cluster that RAY_ADDRESS names, or else starts Ray on this machine. Every actor reads the bundle and
    the input itself, so all machines must see both at the same paths. An actor takes `opening.threads` CPUs (None:
    one), and a GPU where the provider runs on one. Raises MissingExtraError where Ray is not installed.
    """
    ray = _import_ray()
    cpus = opening.threads or 1
    opening = replace(opening, folder=opening.folder.absolute(), threads=cpus)
    spans = [span for span, _ in windows]  # reads the file once, to find its windows
    if not spans:
        return
    with _connected(ray):
        data = ray.data.from_items([asdict(span) for span in spans], override_num_blocks=min(len(spans), _MOST_BLOCKS))
        data.context.execution_options.preserve_order = True
        data.context.enable_progress_bars = False
        room = int(ray.cluster_resources().get("CPU", 1)) // cpus
        answered = data.map_batches(
            WindowAnswerer,
            fn_constructor_args=(source.absolute(), opening),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=actors or max(room, 1)),
            num_cpus=cpus,
            num_gpus=int(opening.device != "cpu"),
        )
        for span, row in zip(spans, answered.iter_rows(), strict=True):
            assert row["first"] == span.first
            yield span, [Record(line.encode(), error) for line, error in json.loads(row["records"])]


class WindowAnswerer:
    """The class of an actor: it opens the bundle once, and then answers windows."""

    def __init__(self, source: Path, opening: Opening) -> None:
        self._source = source
        self._answer, self._fields = opening.open()

    def __call__(self, rows: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
        """Answer a window. Ray gives its span as a batch of one row, and gets the records as such a batch."""
        span = Span(**{name: values[0] for name, values in rows.items()})
        with self._source.open("rb") as file:
            records = answer_lines(read_span(file, span), self._answer, self._fields)
        packed = json.dumps([(record.line.decode(), record.error) for record in records])
        return {"first": [span.first], "records": [packed]}


@contextmanager
def _connected(ray: ModuleType) -> Iterator[None]:
    """Connect to Ray for as long as it is needed, unless the caller is connected already."""
    if ray.is_initialized():
        yield
        return
    ray.init(logging_level="warning", log_to_driver=False)
    try:
        yield
    finally:
        ray.shutdown()


def _import_ray() -> ModuleType:
    try:
        importlib.import_module("ray.data")  # importing ray alone does not import it
    except ImportError as error:
        raise MissingExtraError(f"Ray is not installed ({error}). Run: {extras_command('ray')}") from error
    return importlib.import_module("ray")
