"""Models: what a replica answers items with. In a batch, an item that is wrong fails alone."""

from collections.abc import Callable, Generator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rpln_runtime.generation.generator import generator
from rpln_runtime.manifest import read_manifest
from rpln_runtime.pipelines import Pipeline, pipeline, run_encodings, task_from_name
from rpln_runtime.postprocess.base import FinishedItem, Postprocess
from rpln_runtime.serve.bundles import with_options
from rpln_runtime.serve.refusals import Outcome, outcome_of
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
        prepared = [_attempted(partial(self._prepared, one)) for one in asked]
        good = [place for place, one in enumerate(prepared) if not isinstance(one, Outcome)]
        outcomes = [one if isinstance(one, Outcome) else None for one in prepared]
        for place, outcome in zip(
            good, self._run([asked[place] for place in good], [prepared[place] for place in good]), strict=True
        ):
            outcomes[place] = outcome
        return [outcome for outcome in outcomes if outcome is not None]

    def _prepared(self, one: Asked) -> tuple[Postprocess[Any], list[Encoding]]:
        postprocess = with_options(self._pipeline.postprocess, one.options, self._task)
        return postprocess, postprocess.encode(one.item)

    def _run(self, asked: Sequence[Asked], prepared: Sequence[Any]) -> list[Outcome]:
        owners = [place for place, (_, encodings) in enumerate(prepared) for _ in encodings]
        rows = [encoding for _, encodings in prepared for encoding in encodings]
        scores: list[Any] = [None] * len(rows)
        try:
            for index, row in run_encodings(
                self._pipeline.session, rows, outputs=self._outputs, batch_size=self._batch_size
            ):
                scores[index] = prepared[owners[index]][0].score(row)
        except Exception as error:  # noqa: BLE001  # an item of which the server fails must not fail the others
            if len(asked) > 1:
                return [self._run([one], [ready])[0] for one, ready in zip(asked, prepared, strict=True)]
            return [outcome_of(error)]
        found = iter(scores)
        return [
            _attempted(partial(_answered, one, postprocess, encodings, [next(found) for _ in encodings]))
            for one, (postprocess, encodings) in zip(asked, prepared, strict=True)
        ]


def _answered(
    one: Asked, postprocess: Postprocess[Any], encodings: Sequence[Encoding], scores: Sequence[Any]
) -> Outcome:
    answer = postprocess.answer(FinishedItem(one.item, encodings, scores))
    return Outcome(answer=answer, read=sum(map(len, encodings)))


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
        except Exception as error:  # noqa: BLE001  # an item of which the server fails must not fail the others
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
    """Open the bundle in `folder`. Raises what `pipeline` raises."""
    generates = task_from_name(read_manifest(folder, verify=False).task).generates
    kind = GeneratorModel if generates else EncoderModel
    return kind(folder, provider=provider, threads=threads, batch_size=batch_size)


def _attempted(work: Callable[[], Any]) -> Any:
    """Return what `work` returns, or the outcome of its failure."""
    try:
        return work()
    except Exception as error:  # noqa: BLE001  # a failure of one item must not fail the others
        return outcome_of(error)
