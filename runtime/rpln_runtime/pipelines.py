"""Pipelines: the tokenizer, the graph and the post-processing of a bundle behind one call. Text in, answers out."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, Unpack, overload

from rpln_runtime.batching import (
    OnRows,
    batches,
    costs_from_encodings,
    feeds_from_encodings,
    rows_from_outputs,
    rows_within,
    token_budget,
)
from rpln_runtime.described import options_in_words
from rpln_runtime.errors import InputError, ManifestError
from rpln_runtime.generation.generator import BATCH_SIZE as GENERATED_ROWS
from rpln_runtime.generation.generator import Generator, open_generator
from rpln_runtime.installing import version_command
from rpln_runtime.items import encode_each
from rpln_runtime.manifest import read_manifest
from rpln_runtime.option_types import (
    FeatureExtractionOptions,
    FillMaskOptions,
    MultipleChoiceOptions,
    QuestionAnsweringOptions,
    TextClassificationOptions,
    TextGenerationOptions,
    TokenClassificationOptions,
)
from rpln_runtime.options import check_integer, path_from_value, plain, shown_kind
from rpln_runtime.postprocess import POSTPROCESS
from rpln_runtime.postprocess.base import (
    FinishedItem,
    FinishedRow,
    Postprocess,
    check_options,
    item_from_parts,
    options_of,
)
from rpln_runtime.session import Reopenable, Session, open_session
from rpln_runtime.tasks import TASKS, Task
from rpln_runtime.tokenization import Encoding, Tokenizer

_BATCH_SIZE: Final = 32
"""The most rows in a batch where the user says nothing."""
_NOTHING: Final = object()
"""The inputs of a call without any, which None is not."""


@overload
def pipeline(
    folder: str | Path,
    *,
    task: Literal["feature-extraction"],
    **options: Unpack[FeatureExtractionOptions],
) -> "Pipeline": ...


@overload
def pipeline(
    folder: str | Path,
    *,
    task: Literal["fill-mask"],
    **options: Unpack[FillMaskOptions],
) -> "Pipeline": ...


@overload
def pipeline(
    folder: str | Path,
    *,
    task: Literal["multiple-choice"],
    **options: Unpack[MultipleChoiceOptions],
) -> "Pipeline": ...


@overload
def pipeline(
    folder: str | Path,
    *,
    task: Literal["question-answering"],
    **options: Unpack[QuestionAnsweringOptions],
) -> "Pipeline": ...


@overload
def pipeline(
    folder: str | Path,
    *,
    task: Literal["text-classification"],
    **options: Unpack[TextClassificationOptions],
) -> "Pipeline": ...


@overload
def pipeline(
    folder: str | Path,
    *,
    task: Literal["token-classification"],
    **options: Unpack[TokenClassificationOptions],
) -> "Pipeline": ...


@overload
def pipeline(
    folder: str | Path,
    *,
    task: Literal["text-generation", "text2text-generation"],
    **options: Unpack[TextGenerationOptions],
) -> Generator: ...


@overload
def pipeline(
    folder: str | Path,
    *,
    task: None = None,
    provider: str | None = None,
    threads: int | None = None,
    batch_size: int | None = None,
    verify: bool = True,
    **options: Any,
) -> Any: ...


def pipeline(
    folder: str | Path,
    *,
    task: str | None = None,
    provider: str | None = None,
    threads: int | None = None,
    batch_size: int | None = None,
    verify: bool = True,
    **options: Any,
) -> Any:
    """Open a bundle for texts.

    Args:
        folder: the bundle.
        task: the task that the bundle must have. With it, type checkers know the options and the type that is returned.
        provider: the provider that runs the graph, as in `load`.
        threads: the most threads that one operator uses, as in `load`.
        batch_size: the most rows in a batch. None means 32, or 8 if the task generates text.
        verify: whether to compare the SHA-256 of every file with the manifest first.
        **options: the options of the bundle's task: the attributes of its class in `rpln_runtime.postprocess`, or of
            `GenerationOptions`. A call may give other values.

    Returns a `Pipeline`, or a `Generator` if the task generates text. Raises what `load` raises, and InputError for a
    bundle of another `task`, an option that the task does not have or a value that is out of range. For example:

        tag = pipeline("demo-token-classification-fp16", aggregation_strategy="simple")
        tag("Ada Lovelace lived in London.")
        tag(["One text.", "Another."], aggregation_strategy="none")
    """
    path, batch_size, options = path_from_value("folder", folder), plain(batch_size), plain(options)
    manifest = read_manifest(path, verify=verify)
    if task not in {None, manifest.task}:
        raise InputError(
            f"{path} is a bundle for {manifest.task}, but task is {task!r}: expected {manifest.task!r}. Open it with "
            "this task, or leave task out."
        )
    row = task_from_name(manifest.task)
    if row.postprocess is None:
        size = GENERATED_ROWS if batch_size is None else batch_size
        return open_generator(
            path, manifest, provider=provider, threads=threads, batch_size=size, verify=verify, **options
        )
    session = open_session(path, manifest, provider=provider, threads=threads, verify=verify)
    tokenizer = Tokenizer.from_bundle(path, manifest)
    kind = POSTPROCESS[row.postprocess]
    check_options(kind, options, row.name)
    postprocess = kind(manifest=session.manifest, tokenizer=tokenizer, **options)
    return Pipeline(
        session,
        postprocess,
        row,
        batch_size=_BATCH_SIZE if batch_size is None else batch_size,
        reopen=partial(
            pipeline,
            path.absolute(),
            provider=provider,
            threads=threads,
            batch_size=batch_size,
            verify=verify,
            **options,
        ),
    )


class Pipeline(Reopenable):
    """A bundle that is open for its task, which `pipeline` returns: call it with texts. Threads may share it.

    Pickling it keeps the folder and the options alone: the copy, in this process or another, opens the bundle again.

    Attributes:
        session: the graph.
        postprocess: the post-processing, which has the options of the task as attributes.
    """

    def __init__(
        self,
        session: Session,
        postprocess: Postprocess[Any],
        task: Task,
        *,
        batch_size: int,
        reopen: "Callable[[], Pipeline] | None" = None,
    ) -> None:
        """Put the parts together. `reopen` opens the pipeline again; without it, the pipeline cannot be pickled."""
        super().__init__(reopen)
        check_integer("batch_size", batch_size, minimum=1)
        self.session = session
        self.postprocess = postprocess
        self._task = task
        self._batch_size = batch_size
        # Other outputs that the graph may have, such as hidden states, are not computed.
        self._outputs = task.answering(spec.name for spec in session.graph.outputs)

    def __call__(
        self,
        inputs: Any = _NOTHING,
        /,
        *,
        batch_size: int | None = None,
        on_rows: OnRows | None = None,
        **named: Any,
    ) -> Any:
        """Return the answer for one item, or a list with an answer for each of several items.

        Args:
            inputs: an item, or a list of items. An item is a text, or a mapping with the fields of the task, such as
                "question" and "context"; with `is_split_into_words`, it is a list of words.
            batch_size: the most rows in a batch of this call. None means the pipeline's own.
            on_rows: a function that is called after each row, with how many rows are done and how many there are. An
                item has one row or several.
            **named: options of the task for this call; without `inputs`, also the fields of a single item.

        Raises InputError for an item that the task does not take, an unknown option, and a value that is out of range.
        """
        batch_size = self._batch_size if batch_size is None else plain(batch_size)
        check_integer("batch_size", batch_size, minimum=1)
        postprocess = self.postprocess
        named = plain(named)
        if inputs is _NOTHING:
            inputs = item_from_parts(
                {field.name: named.pop(field.name) for field in postprocess.fields if field.name in named}
            )
        if named:
            check_options(type(postprocess), named, self._task.name)
            postprocess = dataclasses.replace(postprocess, **named)
        inputs = plain(inputs)
        single = postprocess.is_item(inputs)
        items = [inputs] if single else _listed(inputs)
        encodings = encode_each(postprocess.encode, items)
        scores = iter(self._scores([row for rows in encodings for row in rows], postprocess, batch_size, on_rows))
        answers = [
            postprocess.answer(FinishedItem(item, rows, [next(scores) for _ in rows]))
            for item, rows in zip(items, encodings, strict=True)
        ]
        return postprocess.results(answers, single=single)

    def described(self) -> dict[str, str]:
        """Return what a person wants to know of the pipeline first."""
        session, manifest = self.session, self.session.manifest
        options = {name: getattr(self.postprocess, name) for name in options_of(type(self.postprocess))}
        poolings = manifest.sentences.poolings if manifest.sentences else ()
        pooled = f", which makes the vectors of texts by itself ({', '.join(poolings)})" if poolings else ""
        return {
            "task": self._task.name,
            "graph": f"{session.path}{pooled}",
            "provider": session.provider,
            "precision": manifest.recipe,
            "limits": f"texts of at most {manifest.longest_text} tokens, {self._batch_size} rows in a batch",
            "options": options_in_words(options),
        }

    def _scores(
        self, encodings: Sequence[Encoding], postprocess: Postprocess[Any], batch_size: int, on_rows: OnRows | None
    ) -> list[Any]:
        """Run all rows in batches, and return what the post-processing keeps of each, in the order of the rows."""
        scores: list[Any] = [None] * len(encodings)
        rows = run_encodings(self.session, encodings, outputs=self._outputs, batch_size=batch_size)
        for done, (index, row) in enumerate(rows, start=1):
            scores[index] = postprocess.score(row)
            if on_rows is not None:
                on_rows(done, len(encodings))
        return scores


def run_encodings(
    session: Session, encodings: Sequence[Encoding], *, outputs: Sequence[str], batch_size: int = _BATCH_SIZE
) -> Iterator[tuple[int, FinishedRow]]:
    """Yield the place in `encodings` and the finished row of each, in batches of similar lengths, the longest first.

    `outputs` are the names of the outputs to compute. The arrays of a row may be views of its batch's: copy what you
    keep. Raises what `Session.run` raises.
    """
    graph, manifest = session.graph, session.manifest
    needed = [spec for spec in graph.outputs if spec.name in outputs]
    budget = token_budget(needed, manifest.usable_length)
    costs = costs_from_encodings(encodings, needed, manifest)
    batch_size = rows_within(session.profiles, batch_size, max(costs, default=1))
    for batch in batches(costs, batch_size=batch_size, batch_tokens=budget):
        rows = [encodings[index] for index in batch]
        found = session.run(feeds_from_encodings(rows, graph, manifest), outputs=outputs)
        for index, row in zip(batch, rows_from_outputs(found, rows, graph, manifest), strict=True):
            yield index, FinishedRow(encodings[index], row)


def task_from_name(name: str) -> Task:
    """Return the row of TASKS called `name`. Raises ManifestError for the task of a bundle of a later version."""
    if name not in TASKS:
        raise ManifestError(
            f"the bundle's task is {name!r}, but this rpln-runtime knows only {', '.join(TASKS)}. "
            f"Install a later one: {version_command()}"
        )
    return TASKS[name]


def _listed(inputs: Any) -> list[Any]:
    if not isinstance(inputs, Iterable) or isinstance(inputs, bytes | bytearray):
        raise InputError(f"the input is {shown_kind(inputs)}, expected a text, a mapping, or a list of these.")
    return [plain(item) for item in inputs]
