"""Models: what a replica answers items with. In a batch, an item that is wrong fails alone."""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rpln_runtime.generation.generator import generator
from rpln_runtime.manifest import read_manifest
from rpln_runtime.pipelines import Pipeline, pipeline, run_encodings, task_from_name
from rpln_runtime.postprocess.base import FinishedItem, Postprocess
from rpln_runtime.request_limits import ignore_warnings
from rpln_runtime.serve.bundles import with_options
from rpln_runtime.serve.refusals import Outcome, outcome_of
from rpln_runtime.serve.work import MOST_ROWS, check_tokens
from rpln_runtime.tokenization import Encoding
from rpln_runtime.triton.request import Asked


class EncoderModel:
    """A bundle that answers texts."""

    def __init__(self, folder: Path, *, provider: str | None, threads: int | None, batch_size: int) -> None:
        self._pipeline: Pipeline = pipeline(folder, provider=provider, threads=threads, batch_size=batch_size)
        self._batch_size = batch_size
        task = task_from_name(self._pipeline.session.manifest.task)
        self._task = task.name
        self._outputs = task.answering(spec.name for spec in self._pipeline.session.graph.outputs)

    def answer(self, asked: Sequence[Asked]) -> list[Outcome]:
        """Return an outcome for each item."""
        items = [_attempted(partial(self._item, one)) for one in asked]
        groups = _groups([item for item in items if isinstance(item, _Item)])
        outcomes = (outcome for group in groups for outcome in self._outcomes(group))
        return [next(outcomes) if isinstance(item, _Item) else item for item in items]

    def _item(self, asked: Asked) -> "_Item":
        postprocess = with_options(self._pipeline.postprocess, asked.options, self._task)
        encodings = postprocess.encode(asked.item)
        check_tokens(postprocess, encodings)
        return _Item(asked, postprocess, encodings)

    def _outcomes(self, items: Sequence["_Item"]) -> list[Outcome]:
        """Return an outcome for each item. If they fail together, each of them runs alone."""
        try:
            scores = self._scores(items)
        except Exception as error:  # noqa: BLE001  # what one item fails at must not fail the others
            if len(items) > 1:
                return [outcome for item in items for outcome in self._outcomes([item])]
            return [outcome_of(error)]
        return [_attempted(partial(item.outcome, own)) for item, own in zip(items, scores, strict=True)]

    def _scores(self, items: Sequence["_Item"]) -> list[list[Any]]:
        """Run the rows of all items, and return what the post-processing keeps of each row, by item."""
        scores: list[list[Any]] = [[None] * len(item.encodings) for item in items]
        places = [(place, row) for place, item in enumerate(items) for row in range(len(item.encodings))]
        rows = [items[place].encodings[row] for place, row in places]
        session = self._pipeline.session
        for index, finished in run_encodings(session, rows, outputs=self._outputs, batch_size=self._batch_size):
            place, row = places[index]
            scores[place][row] = items[place].postprocess.score(finished)
        return scores


@dataclass(frozen=True, slots=True)
class _Item:
    """An item with the post-processing that its options ask for, and the tokens of its rows."""

    asked: Asked
    postprocess: Postprocess[Any]
    encodings: Sequence[Encoding]

    def outcome(self, scores: Sequence[Any]) -> Outcome:
        answer = self.postprocess.answer(FinishedItem(self.asked.item, self.encodings, scores))
        return Outcome(answer=answer, read=sum(map(len, self.encodings)))


def _groups(items: Sequence[_Item]) -> Iterator[list[_Item]]:
    """Yield the items in groups of neighbours, whose rows together are at most as many as an item may have."""
    group: list[_Item] = []
    for item in items:
        if group and sum(len(one.encodings) for one in (*group, item)) > MOST_ROWS:
            yield group
            group = []
        group.append(item)
    if group:
        yield group


class GeneratorModel:
    """A bundle that generates text."""

    def __init__(self, folder: Path, *, provider: str | None, threads: int | None, batch_size: int) -> None:
        self._generator = generator(folder, provider=provider, threads=threads, batch_size=batch_size)

    def answer(self, asked: Sequence[Asked]) -> list[Outcome]:
        """Return an outcome for each prompt. Those with equal options are generated together."""
        outcomes: dict[int, Outcome] = {}
        left = list(range(len(asked)))
        while left:
            together = [place for place in left if asked[place].options == asked[left[0]].options]
            left = [place for place in left if place not in together]
            outcomes.update(zip(together, self._generated([asked[place] for place in together]), strict=True))
        return [outcomes[place] for place in range(len(asked))]

    def _generated(self, asked: Sequence[Asked]) -> list[Outcome]:
        try:
            found = self._generator.completions([one.item for one in asked], **asked[0].options)
        except Exception as error:  # noqa: BLE001  # what one prompt fails at must not fail the others
            if len(asked) > 1:
                return [self._generated([one])[0] for one in asked]
            return [outcome_of(error)]
        return [
            Outcome(
                answer=[{"generated_text": one.text} for one in texts],
                read=texts[0].read,
                written=tuple(one.written for one in texts),
                ended=tuple(one.ended for one in texts),
            )
            for texts in found
        ]

    def stream(self, asked: Asked) -> Generator[str, None, bool]:
        """Return what `Generator.stream` returns, and raise what it raises."""
        return self._generator.stream(asked.item, **asked.options)


def open_model(
    folder: Path, *, provider: str | None, threads: int | None, batch_size: int
) -> EncoderModel | GeneratorModel:
    """Open the bundle in `folder`, in a process that serves it alone. Raises what `pipeline` raises."""
    ignore_warnings()
    generates = task_from_name(read_manifest(folder, verify=False).task).generates
    kind = GeneratorModel if generates else EncoderModel
    return kind(folder, provider=provider, threads=threads, batch_size=batch_size)


def _attempted(work: Callable[[], Any]) -> Any:
    """Return what `work` returns, or the outcome of its failure at an item."""
    try:
        return work()
    except Exception as error:  # noqa: BLE001  # a failure of one item must not fail the others
        return outcome_of(error)
