"""`run_corpus` with real bundles gives the answers and errors of their pipelines."""

import json
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rpln_runtime import InputError, ManifestError, generator, pipeline
from rpln_runtime.corpus import OutputError, run_corpus
from rpln_runtime.corpus.opening import Opening
from rpln_runtime.corpus.records import answer_lines
from rpln_runtime.corpus.run import answer_file, answer_windows
from rpln_runtime.engines.providers import PROVIDERS
from rpln_runtime.limits import MOST_LINE_BYTES
from rpln_runtime.manifest import Optimization, read_manifest, write_manifest
from rpln_runtime.postprocess.base import TEXT_FIELD
from tests.runtime.bundles import CORPUS, Bundle
from tests.runtime.comparison import assert_same
from tests.runtime.decoders import DecoderBundle
from tests.triton.networks import make_toy_bundle

TEXTS = [*CORPUS, CORPUS[0][:20], "東京", CORPUS[1] * 2]
# Items for each task, and options for its pipeline.
TASKS: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "feature-extraction": (TEXTS, {"pooling": "mean", "normalize": True}),
    "fill-mask": ([f"{text[:40]}<mask>." for text in TEXTS], {"top_k": 2}),
    "text-classification": ([*TEXTS[:4], *({"text": text, "text_pair": CORPUS[2]} for text in TEXTS[4:])], {}),
    "token-classification": (TEXTS, {"aggregation_strategy": "simple"}),
    "question-answering": ([{"question": "Who wrote?", "context": text} for text in TEXTS], {"top_k": 2}),
    "multiple-choice": (
        [{"prompt": text, "choices": ["Yes.", "It is Oslo.", "No."][: 2 + len(text) % 2]} for text in TEXTS],
        {},
    ),
}


def test_lines_are_told_within_a_window(tmp_path: Path) -> None:
    (tmp_path / "toy").mkdir()
    folder = make_toy_bundle(tmp_path / "toy", "token-classification").folder
    source = tmp_path / "in"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    size, count = source.stat().st_size, len(TEXTS)
    told: list[tuple[int, int]] = []
    run_corpus(folder, source, tmp_path / "out", batch_size=1, on_lines=lambda lines, read: told.append((lines, read)))
    assert [lines for lines, _ in told] == list(range(1, count + 1))
    assert told[-1] == (count, size)
    assert [read for _, read in told] == sorted(read for _, read in told)


def test_lines_that_are_tried_again_in_parts_are_not_told_as_the_window() -> None:
    told: list[tuple[int, int]] = []

    def answer(items: list[str], on_rows: Callable[[int, int], None] | None = None) -> list[str]:
        if on_rows is not None:
            on_rows(1, len(items))
        if "bad" in items:
            raise InputError("bad")
        return items

    lines = [json.dumps({"text": text}).encode() for text in ("one", "two", "bad", "four")]
    records = list(answer_lines(lines, answer, [TEXT_FIELD], lambda *rows: told.append(rows)))
    assert [record.error for record in records] == [None, None, "bad", None]
    assert told == [(1, 4)]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_actors_take_a_gpu_where_their_provider_runs_on_one(provider: str) -> None:
    expected = "cpu" if provider in {"cpu", "openvino"} else "cuda"
    assert Opening(folder=Path(), provider=provider).device == expected


def test_what_the_export_measured_says_where_actors_run(tmp_path: Path) -> None:
    (tmp_path / "toy").mkdir()
    folder = make_toy_bundle(tmp_path / "toy", "token-classification").folder
    manifest = read_manifest(folder)
    assert Opening(folder=folder).device == "cpu"
    measured = Optimization(
        target="cuda",
        workload="latency",
        provider="cuda",
        threads=None,
        spinning=None,
        candidates=(),
        note="",
    )
    write_manifest(folder, replace(manifest, optimization=measured))
    assert Opening(folder=folder).device == "cuda"


def write_corpus(path: Path, items: list[Any]) -> Path:
    lines = ({"id": n, **(item if isinstance(item, dict) else {"text": item})} for n, item in enumerate(items))
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def answers_in(path: Path) -> list[Any]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["id"] for line in lines] == list(range(len(lines)))
    assert {tuple(line) for line in lines} == {("id", "answer")}
    return [line["answer"] for line in lines]


def plain(answers: Any) -> Any:
    """Return a value as JSON has it."""
    return json.loads(json.dumps(answers, default=np.ndarray.tolist))


@pytest.mark.parametrize("task", TASKS)
def test_every_task_answers_as_its_pipeline_does(task: str, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    folder.mkdir()
    make_toy_bundle(folder, task)
    items, options = TASKS[task]
    source = write_corpus(tmp_path / "in", items)
    done = run_corpus(folder, source, tmp_path / "whole", batch_size=2, options=options)
    assert (done.lines, done.errors) == (len(items), 0)
    expected = plain(pipeline(folder, batch_size=2, **options)(items))
    assert answers_in(tmp_path / "whole") == expected
    run_corpus(folder, source, tmp_path / "windows", window=3, options=options)
    assert_same(answers_in(tmp_path / "windows"), expected)


@pytest.mark.parametrize("options", [{}, {"do_sample": True, "seed": 7, "num_return_sequences": 2}, {"num_beams": 3}])
def test_text_is_generated_as_the_generator_does(
    causal_lm: DecoderBundle, options: dict[str, Any], tmp_path: Path
) -> None:
    source = write_corpus(tmp_path / "in", TEXTS)
    options = {"max_new_tokens": 5, **options}
    run_corpus(causal_lm.folder, source, tmp_path / "out", window=3, options=options)
    assert answers_in(tmp_path / "out") == generator(causal_lm.folder, **options)(TEXTS)


def test_a_prompt_that_leaves_no_room_is_an_error_of_its_line_alone(causal_lm: DecoderBundle, tmp_path: Path) -> None:
    source = write_corpus(tmp_path / "in", [TEXTS[0], TEXTS[0] * 20, *TEXTS[1:]])
    with pytest.raises(InputError, match=r"in, line 2: a prompt has \d+ tokens"):
        run_corpus(causal_lm.folder, source, tmp_path / "out")
    done = run_corpus(causal_lm.folder, source, tmp_path / "out", on_error="record")
    assert (done.lines, done.errors) == (len(TEXTS) + 1, 1)


def test_a_text_that_is_too_long_is_an_error_unless_it_may_be_cut(
    bundle_of: Callable[..., Bundle], tmp_path: Path
) -> None:
    folder = bundle_of("text-classification").folder
    source = write_corpus(tmp_path / "in", [*TEXTS, TEXTS[0] * 20])
    with pytest.raises(InputError, match=r"line 8: .* \d+ tokens.* 64"):
        run_corpus(folder, source, tmp_path / "out")
    with pytest.raises(OutputError, match=r"options: .*\{\}.*\{'truncation': True\}"):
        run_corpus(folder, source, tmp_path / "out", options={"truncation": True})
    assert run_corpus(folder, source, tmp_path / "cut", options={"truncation": True}).errors == 0


def test_another_bundle_does_not_go_on(bundle_of: Callable[..., Bundle], tmp_path: Path) -> None:
    source = write_corpus(tmp_path / "in", [*TEXTS, ["no text"]])
    with pytest.raises(InputError, match="line 8: a text is of type list"):
        run_corpus(bundle_of("token-classification").folder, source, tmp_path / "out")
    with pytest.raises(OutputError, match="another bundle"):
        run_corpus(bundle_of("text-classification").folder, source, tmp_path / "out")
    # Nothing is on disk yet, so that another window may still be chosen.
    with pytest.raises(InputError, match="line 8: a text is of type list"):
        run_corpus(bundle_of("token-classification").folder, source, tmp_path / "out", window=2)
    with pytest.raises(OutputError, match=r"another window: .*2.* 1024 "):
        run_corpus(bundle_of("token-classification").folder, source, tmp_path / "out")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"window": 0}, "window is 0"),
        ({"on_error": "skip"}, "on_error is 'skip', expected one of 'stop', 'record'"),
        ({"actors": 2}, "actors is 2"),
        ({"ray": True, "actors": 0}, "actors is 0"),
        ({"options": {"top_p": 1}}, "unknown option 'top_p' for token-classification"),
        ({"options": {"threads": 1}}, "threads"),
        ({"batch_size": 0}, "batch_size is 0"),
    ],
)
def test_arguments_are_checked_before_anything_is_written(
    bundle_of: Callable[..., Bundle], tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    source = write_corpus(tmp_path / "in", TEXTS)
    with pytest.raises(InputError, match=message):
        run_corpus(bundle_of("token-classification").folder, source, tmp_path / "out", **arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_folder_that_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError):
        run_corpus(tmp_path, write_corpus(tmp_path / "in", TEXTS), tmp_path / "out")


def peak_of(source: Path, output: Path) -> int:
    answers = partial(answer_windows, answer=lambda items: items, fields=(TEXT_FIELD,))
    tracemalloc.start()
    answer_file(source, output, answers, run={}, window=64, on_error="record", on_progress=lambda progress, size: None)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


def test_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    small = write_corpus(tmp_path / "small", TEXTS * 50)
    large = write_corpus(tmp_path / "large", TEXTS * 1000)
    peak = peak_of(small, tmp_path / "out-small")
    assert peak_of(large, tmp_path / "out-large") < 1.2 * peak < large.stat().st_size


def test_a_line_without_end_is_never_held(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.write_bytes(b"x" * 10 * MOST_LINE_BYTES)
    assert peak_of(source, tmp_path / "out") < 5 * MOST_LINE_BYTES
