"""Text in, answers out: tokenizer, batches, graph and post-processing of a bundle behind one call."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from rpln_runtime.batching import (
    batches,
    costs_from_encodings,
    feeds_from_encodings,
    rows_from_outputs,
    rows_within,
    token_budget,
)
from rpln_runtime.errors import InputError, ManifestError
from rpln_runtime.generation.generator import BATCH_SIZE as GENERATED_ROWS
from rpln_runtime.generation.generator import generator
from rpln_runtime.manifest import read_manifest
from rpln_runtime.options import check_integer
from rpln_runtime.postprocess import POSTPROCESS
from rpln_runtime.postprocess.base import FinishedItem, FinishedRow, Postprocess, check_options, item_from_parts
from rpln_runtime.session import Session, load
from rpln_runtime.tasks import TASKS, Task
from rpln_runtime.tokenization import Encoding, Tokenizer

_BATCH_SIZE: Final = 32


def pipeline(
    folder: str | Path,
    *,
    provider: str | None = None,
    threads: int | None = None,
    batch_size: int | None = None,
    verify: bool = True,
    **options: Any,
) -> Any:
    """Open the bundle in `folder` for text: a `Pipeline`, or for a task that generates text a `Generator`.

    `provider`, `threads` and `verify` are those of `load`, `batch_size` the most rows in a batch (None: 32, and 8 where
    text is generated). The other options are those of the bundle's task, see the classes in `rpln_runtime.postprocess`
    and `GenerationOptions`; a call may override them:

        tag = pipeline("demo-token-classification-fp16", aggregation_strategy="simple")
        tag("Ada Lovelace lived in London.")
        tag(["One text.", "Another."], aggregation_strategy="none")

    Raises what `load` raises, and InputError for an option that the task does not have or a value out of range.
    """
    manifest = read_manifest(Path(folder), verify=verify)
    task = _task_from_name(manifest.task)
    if task.postprocess is None:
        size = GENERATED_ROWS if batch_size is None else batch_size
        return generator(folder, provider=provider, threads=threads, batch_size=size, verify=False, **options)
    session = load(folder, provider=provider, threads=threads, verify=False)
    tokenizer = Tokenizer.from_bundle(Path(folder), manifest)
    row = POSTPROCESS[task.postprocess]
    check_options(row, options, task.name)
    postprocess = row(manifest=session.manifest, tokenizer=tokenizer, **options)
    return Pipeline(session, postprocess, task, batch_size=_BATCH_SIZE if batch_size is None else batch_size)


class Pipeline:
    """A bundle's task, ready to be called. Threads may share it.

    Attributes:
        session: the graph that runs.
        postprocess: the options in force.
    """

    def __init__(self, session: Session, postprocess: Postprocess[Any], task: Task, *, batch_size: int) -> None:
        check_integer("batch_size", batch_size, minimum=1)
        self.session = session
        self.postprocess = postprocess
        self._task = task
        self._batch_size = batch_size
        # Hidden states and the like, which the graph may give besides, are not asked for.
        self._outputs = [tensor.name for tensor in task.outputs]

    def __call__(self, inputs: Any = None, /, *, batch_size: int | None = None, **named: Any) -> Any:
        """Answer one item, or each of a list of items.

        An item is a text, or a mapping with the fields of the task, such as question and context; the fields of a
        single item may also be given by name. `batch_size` and the options of the task are for this call alone.

        Raises InputError for what is no item of this task and for an unknown option.
        """
        batch_size = self._batch_size if batch_size is None else batch_size
        check_integer("batch_size", batch_size, minimum=1)
        postprocess = self.postprocess
        if inputs is None:
            inputs = item_from_parts(
                {field.name: named.pop(field.name) for field in postprocess.fields if field.name in named}
            )
        if named:
            check_options(type(postprocess), named, self._task.name)
            postprocess = dataclasses.replace(postprocess, **named)
        single = isinstance(inputs, str | Mapping)
        items = [inputs] if single else _listed(inputs)
        encodings = [postprocess.encode(item) for item in items]
        scores = iter(self._scores([row for rows in encodings for row in rows], postprocess, batch_size))
        answers = [
            postprocess.answer(FinishedItem(item, rows, [next(scores) for _ in rows]))
            for item, rows in zip(items, encodings, strict=True)
        ]
        return postprocess.results(answers, single=single)

    def _scores(self, encodings: Sequence[Encoding], postprocess: Postprocess[Any], batch_size: int) -> list[Any]:
        graph, manifest = self.session.graph, self.session.manifest
        needed = [spec for spec in graph.outputs if spec.name in self._outputs]
        budget = token_budget(needed, manifest.usable_length)
        scores: list[Any] = [None] * len(encodings)
        costs = costs_from_encodings(encodings, needed, manifest)
        batch_size = rows_within(self.session.profiles, batch_size, max(costs, default=1))
        for batch in batches(costs, batch_size=batch_size, batch_tokens=budget):
            rows = [encodings[index] for index in batch]
            outputs = self.session.run(feeds_from_encodings(rows, graph, manifest), outputs=self._outputs)
            for index, row in zip(batch, rows_from_outputs(outputs, rows, graph, manifest), strict=True):
                scores[index] = postprocess.score(FinishedRow(encodings[index], row))
        return scores


def _task_from_name(name: str) -> Task:
    if name not in TASKS:
        raise ManifestError(
            f"the bundle's task is {name!r}, this rpln-runtime knows {', '.join(TASKS)}. "
            "Run: pip install --upgrade rpln-runtime"
        )
    return TASKS[name]


def _listed(inputs: Any) -> list[Any]:
    if not isinstance(inputs, Iterable):
        raise InputError(f"inputs are a {type(inputs).__name__}, expected a text, a mapping, or a list of these.")
    return list(inputs)
