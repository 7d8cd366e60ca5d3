"""Corpora with a stand-in for the pipeline: lines, windows, errors, and what an earlier run left."""

import contextlib
import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rpln_runtime import InputError
from rpln_runtime.corpus import OutputError, Progress, reading
from rpln_runtime.corpus.run import answer_file, answer_windows
from rpln_runtime.limits import MOST_LINE_BYTES
from rpln_runtime.postprocess.base import TEXT_FIELD, ItemField
from rpln_runtime.postprocess.question_answering import QuestionAnswering
from rpln_runtime.postprocess.text_classification import TextClassification

WINDOW = 3
TEXT = (TEXT_FIELD,)


def count_letters(items: Sequence[Any]) -> list[dict[str, int]]:
    """Answer with the number of letters. As a pipeline does, it refuses a whole call for one item that is too long."""
    assert items
    for item in items:
        if len(str(item)) > 40:
            raise InputError("a text has too many tokens.")
    return [{"letters": len(str(item))} for item in items]


def run(
    source: Path,
    output: Path,
    *,
    answer: Callable[[list[Any]], Sequence[Any]] = count_letters,
    fields: Sequence[ItemField] = TEXT,
    identity: dict[str, Any] | None = None,
    window: int = WINDOW,
    on_error: str = "stop",
    on_progress: Callable[[Progress, int], None] = lambda progress, size: None,
) -> Progress:
    answers = partial(answer_windows, answer=answer, fields=fields)
    return answer_file(
        source,
        output,
        answers,
        run=identity or {"bundle": "a", "window": window},
        window=window,
        on_error=on_error,
        on_progress=on_progress,
    )


def write_lines(path: Path, texts: Sequence[str]) -> Path:
    path.write_text("".join(json.dumps({"id": index, "text": text}) + "\n" for index, text in enumerate(texts)))
    return path


def read_lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


TEXTS = [letter * length for letter, length in zip("abcdefgh", (1, 30, 2, 4, 40, 3, 7, 5), strict=True)]


def test_line_n_of_the_output_is_for_line_n_of_the_input(tmp_path: Path) -> None:
    source = write_lines(tmp_path / "in", TEXTS)
    told: list[tuple[int, int]] = []
    done = run(source, tmp_path / "out", on_progress=lambda progress, size: told.append((progress.lines, size)))
    assert read_lines(tmp_path / "out") == [
        {"id": index, "answer": {"letters": len(text)}} for index, text in enumerate(TEXTS)
    ]
    content, made = source.read_bytes(), (tmp_path / "out").stat().st_size
    assert done == Progress(
        lines=8,
        errors=0,
        read=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        written=made,
        written_sha256=hashlib.sha256((tmp_path / "out").read_bytes()).hexdigest(),
    )
    assert told == [(lines, len(content)) for lines in (0, 3, 6, 8)]
    assert names(tmp_path) == ["in", "out"]


def test_an_empty_text_is_answered_as_any_other(tmp_path: Path) -> None:
    source = write_lines(tmp_path / "in", ["", " \n\t ", "a"])
    run(source, tmp_path / "out", on_error="record")
    assert [line["answer"]["letters"] for line in read_lines(tmp_path / "out")] == [0, 4, 1]


def test_the_input_is_never_written_to_nor_is_its_removal_advised(tmp_path: Path) -> None:
    content = write_lines(tmp_path / "corpus", TEXTS).read_bytes()
    folder = tmp_path / "link"
    folder.symlink_to(tmp_path)
    for name, make in {"soft": Path.symlink_to, "hard": Path.hardlink_to}.items():
        make(tmp_path / name, tmp_path / "corpus")
    source = tmp_path / "corpus"
    outputs = [source, folder / "corpus", tmp_path / "soft", tmp_path / "hard"]
    for taken, output in [*((source, output) for output in outputs), *((output, source) for output in outputs)]:
        with pytest.raises(OutputError, match=rf"the input {taken} is the output, too. Choose another") as caught:
            run(taken, output)
        assert "Remove" not in str(caught.value)
    for suffix in (".part", ".journal"):
        written = write_lines(tmp_path / f"out{suffix}", TEXTS)
        with pytest.raises(OutputError, match=rf"the input {written} is {written}, which is written beside"):
            run(written, tmp_path / "out")
        written.unlink()
    assert names(tmp_path) == ["corpus", "hard", "link", "soft"]
    assert source.read_bytes() == content


def test_an_empty_corpus_has_an_empty_output(tmp_path: Path) -> None:
    assert run(write_lines(tmp_path / "in", []), tmp_path / "out").lines == 0
    assert (tmp_path / "out").read_bytes() == b""


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("last", [True, False])
def test_a_line_ends_with_a_newline_or_the_file(tmp_path: Path, ending: str, last: bool) -> None:
    content = ending.join(['{"text": "a\u2028b"}', '{"text": "c"}']) + (ending if last else "")
    (tmp_path / "in").write_bytes(content.encode())
    run(tmp_path / "in", tmp_path / "out")
    assert read_lines(tmp_path / "out") == [{"answer": {"letters": 3}}, {"answer": {"letters": 1}}]


def test_fields_of_a_task_are_the_item_and_others_are_kept_as_they_are(tmp_path: Path) -> None:
    kept = {"id": "é\u2028\u2029\x85😀", "nested": {"deep": [1, 2.5, None, True]}, "big": 12345678901234567890}
    line = {"context": "b", **kept, "question": "a"}
    (tmp_path / "in").write_text(json.dumps(line) + "\n")
    seen: list[Any] = []

    def answer(items: list[Any]) -> list[int]:
        seen.extend(items)
        return [1] * len(items)

    run(tmp_path / "in", tmp_path / "out", answer=answer, fields=QuestionAnswering.fields)
    assert seen == [{"question": "a", "context": "b"}]
    (written,) = read_lines(tmp_path / "out")
    assert list(written.items()) == [*kept.items(), ("answer", 1)]
    assert "é" in (tmp_path / "out").read_text()


def test_a_text_pair_is_left_out_or_not(tmp_path: Path) -> None:
    (tmp_path / "in").write_text('{"text": "a"}\n{"text": "a", "text_pair": "b"}\n')
    run(tmp_path / "in", tmp_path / "out", answer=lambda items: items, fields=TextClassification.fields)
    assert [line["answer"] for line in read_lines(tmp_path / "out")] == ["a", {"text": "a", "text_pair": "b"}]


BAD_LINES = {
    b"": "JSON",
    b"{": "JSON",
    b'{"text": "a"} {"text": "b"}': "JSON",
    b'{"text": "\xff"}': "JSON .*0xff",
    b"[" * 100_000: "JSON",
    b'["a"]': "JSON object",
    b'"a"': "JSON object",
    b'{"id": 1, "txt": "a"}': "no field 'text'",
    b'{"text": null}': "'text' is None",
    b'{"text": 1}': "'text' is of type int",
    b'{"text": ["a", 1]}': "'text' is of type int",
    b'{"text": "a", "answer": 1}': "field 'answer'",
    b'{"text": "a", "error": 1}': "field 'error'",
    b'{"text": "a", "id": NaN}': "JSON .*NaN",
    b'{"text": "a", "id": 1e999}': "JSON",
    b'{"text": "a", "id": "\\ud800"}': "JSON .*surrogate",
    b'{"text": "' + b"a" * 41 + b'"}': "too many tokens",
    b'{"text": "a", "id": "' + b"a" * MOST_LINE_BYTES + b'"}': "1,048,576 bytes",
}
"""Lines that cannot be answered, and what the reason must name."""


@pytest.mark.parametrize("bad", BAD_LINES, ids=lambda bad: bad[:30].decode("ascii", "replace"))
def test_a_bad_line_stops_the_run_and_once_mended_the_run_goes_on(tmp_path: Path, bad: bytes) -> None:
    good = [b'{"text": "%d"}' % index for index in range(8)]
    (tmp_path / "in").write_bytes(b"\n".join([*good[:4], bad, *good[5:]]) + b"\n")
    for _ in range(2):
        with pytest.raises(InputError, match=BAD_LINES[bad]) as caught:
            run(tmp_path / "in", tmp_path / "out")
        assert f"{tmp_path / 'in'}, line 5: " in str(caught.value)
        assert "--on-error record" in str(caught.value)
    assert names(tmp_path) == ["in", "out.journal", "out.part"]

    (tmp_path / "in").write_bytes(b"\n".join(good) + b"\n")
    asked: list[Any] = []

    def answer(items: list[Any]) -> list[Any]:
        asked.extend(items)
        return items

    run(tmp_path / "in", tmp_path / "out", answer=answer)
    assert asked == [str(index) for index in range(3, 8)]


def test_bad_lines_are_recorded_in_their_places(tmp_path: Path) -> None:
    lines = [line for bad in BAD_LINES for line in (bad, b'{"text": "a", "id": 7}')]
    (tmp_path / "in").write_bytes(b"\n".join(lines) + b"\n")
    done = run(tmp_path / "in", tmp_path / "out", on_error="record", window=len(lines))
    assert (done.lines, done.errors) == (len(lines), len(BAD_LINES))
    written = read_lines(tmp_path / "out")
    for (problem, answer), expected in zip(
        zip(written[::2], written[1::2], strict=True), BAD_LINES.values(), strict=True
    ):
        assert re.search(expected, problem["error"])
        assert answer == {"id": 7, "answer": {"letters": 1}}


def test_a_recorded_error_keeps_the_fields_that_can_be_read(tmp_path: Path) -> None:
    lines = [{"id": 1}, {"id": 2, "text": None}, {"id": 3, "text": "a" * 41}]
    (tmp_path / "in").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run(tmp_path / "in", tmp_path / "out", on_error="record")
    assert [(line["id"], sorted(line)) for line in read_lines(tmp_path / "out")] == [
        (number, ["error", "id"]) for number in (1, 2, 3)
    ]


def test_an_answer_that_is_no_number_is_an_error(tmp_path: Path) -> None:
    source = write_lines(tmp_path / "in", ["a", "b"])
    done = run(source, tmp_path / "out", answer=lambda items: [1.0, float("nan")], on_error="record")
    assert done.errors == 1
    assert [sorted(line) for line in read_lines(tmp_path / "out")] == [["answer", "id"], ["error", "id"]]


def test_a_failure_that_is_no_input_error_is_not_taken_for_one(tmp_path: Path) -> None:
    def fail(items: list[Any]) -> list[Any]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(write_lines(tmp_path / "in", TEXTS), tmp_path / "out", answer=fail, on_error="record")


def test_long_lines_make_windows_of_fewer(tmp_path: Path) -> None:
    line = json.dumps({"text": "a", "id": "b" * (reading.MOST_WINDOW_BYTES // 2)})
    (tmp_path / "in").write_text(f"{line}\n" * 5)
    told: list[int] = []
    run(tmp_path / "in", tmp_path / "out", on_progress=lambda progress, size: told.append(progress.lines), window=100)
    assert told == [0, 2, 4, 5]


# -- what an earlier run left ------------------------------------------------------------------------------------------


class Stopped(BaseException):
    """Raised to end a run in the middle."""


def stop_after(windows: int, source: Path, output: Path, **options: Any) -> None:
    def count(progress: Progress, size: int) -> None:
        if progress.lines >= windows * WINDOW:
            raise Stopped

    with pytest.raises(Stopped):
        run(source, output, on_progress=count, **options)


def test_an_output_that_is_there_is_not_written_over(tmp_path: Path) -> None:
    source = write_lines(tmp_path / "in", TEXTS)
    for name in ("out", "out.part"):
        (tmp_path / name).write_text("precious")
        with pytest.raises(OutputError, match=rf"{name} exists"):
            run(source, tmp_path / "out")
        assert names(tmp_path) == ["in", name]
        assert (tmp_path / name).read_text() == "precious"
        (tmp_path / name).unlink()


@pytest.mark.parametrize("path", ["", ".", "/"])
def test_an_output_without_a_name_is_refused(path: str, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="is a folder"):
        run(write_lines(tmp_path / "in", TEXTS), Path(path))


def test_a_damaged_journal_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out.journal").write_bytes(b"rpln-runtime corpus, journal 2\nno JSON\n")
    with pytest.raises(OutputError, match=r"out\.journal is damaged"):
        run(write_lines(tmp_path / "in", TEXTS), tmp_path / "out")


@pytest.mark.parametrize("number", [1, 2], ids=["run", "window"])
@pytest.mark.parametrize(
    "row",
    [
        "[]",
        "7",
        "null",
        '"lines"',
        "{}",
        '{"lines": 3}',
        '{"lines": 3, "errors": 0, "read": 9, "sha256": "a", "written": 9, "written_sha256": "a", "more": 1}',
        '{"lines": "3", "errors": 0, "read": 9, "sha256": "a", "written": 9, "written_sha256": "a"}',
        '{"lines": -3, "errors": 0, "read": 9, "sha256": "a", "written": 9, "written_sha256": "a"}',
        '{"lines": 3, "errors": 0, "read": 1e30, "sha256": "a", "written": 9, "written_sha256": "a"}',
        '{"lines": 3, "errors": 0, "read": 9, "sha256": 7, "written": 9, "written_sha256": "a"}',
        '{"lines": 3, "errors": 0, "read": 9, "sha256": "a", "written": %s, "written_sha256": "a"}' % 10**30,
        "[" * 100_000,
        "\ud800".encode("utf-8", "surrogatepass").decode("latin-1"),
    ],
)
def test_damaged_rows_of_a_journal_are_refused(tmp_path: Path, row: str, number: int) -> None:
    source, output = write_lines(tmp_path / "in", TEXTS), tmp_path / "out"
    stop_after(2, source, output)
    journal = tmp_path / "out.journal"
    lines = journal.read_bytes().split(b"\n")
    journal.write_bytes(b"\n".join([*lines[:number], row.encode("latin-1"), b""]))
    with pytest.raises(OutputError, match=r"out\.journal is damaged|begun with another bundle"):
        run(source, output)


def test_a_part_with_other_lines_of_the_same_size_is_refused(tmp_path: Path) -> None:
    source, output = write_lines(tmp_path / "in", TEXTS), tmp_path / "out"
    stop_after(2, source, output)
    part = tmp_path / "out.part"
    content = part.read_bytes()
    part.write_bytes(content.replace(b'"letters"', b'"digits!"', 1))
    with pytest.raises(OutputError, match=r"out\.part holds other lines than were written .*to start again"):
        run(source, output)
    part.write_bytes(content)
    assert run(source, output).lines == len(TEXTS)


@pytest.mark.parametrize("room", [0, 2_000])
def test_a_full_disk_is_refused_when_files_close_too(tmp_path: Path, room: int) -> None:
    source = write_lines(tmp_path / "in", TEXTS * 20)
    resource = pytest.importorskip("resource", reason="Windows has no limits of a process")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        with pytest.raises(OutputError, match=r"out.* failed: .*too large"):
            run(source, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    run(source, tmp_path / "out")
    assert len((tmp_path / "out").read_bytes().splitlines()) == len(TEXTS) * 20


def test_an_output_in_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"out.* failed: .*No such file"):
        run(write_lines(tmp_path / "in", TEXTS), tmp_path / "nowhere" / "out")


def test_an_input_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a file"):
        run(tmp_path / "in", tmp_path / "out")
    assert names(tmp_path) == []


def test_a_pipe_is_refused(tmp_path: Path) -> None:
    reading_end, writing_end = os.pipe()
    with pytest.raises(InputError, match="is not a file"):
        run(Path(f"/dev/fd/{reading_end}"), tmp_path / "out")
    for end in (reading_end, writing_end):
        os.close(end)
    assert names(tmp_path) == []


def test_another_run_does_not_go_on(tmp_path: Path) -> None:
    source = write_lines(tmp_path / "in", TEXTS)
    stop_after(1, source, tmp_path / "out", identity={"bundle": "a", "options": {"top_k": 1}})
    before = (tmp_path / "out.part").read_bytes()
    with pytest.raises(OutputError, match=r"options: .*\{'top_k': 1\}.*\{'top_k': 2\}"):
        run(source, tmp_path / "out", identity={"bundle": "a", "options": {"top_k": 2}})
    assert (tmp_path / "out.part").read_bytes() == before


def test_a_run_with_nothing_on_disk_may_get_another_window(tmp_path: Path) -> None:
    source, output = write_lines(tmp_path / "in", TEXTS), tmp_path / "out"
    stop_after(0, source, output, window=1024)
    (tmp_path / "out.part").write_bytes(b"lines of a window that was not complete\n")
    stop_after(1, source, output)
    with pytest.raises(OutputError, match=r"begun with another window: it was 3, and is 1024 now"):
        run(source, output, window=1024)
    assert run(source, output).lines == len(TEXTS)
    assert [line["id"] for line in read_lines(output)] == list(range(len(TEXTS)))


def test_a_run_with_nothing_on_disk_may_get_no_other_option(tmp_path: Path) -> None:
    source = write_lines(tmp_path / "in", TEXTS)
    stop_after(0, source, tmp_path / "out", identity={"options": {}, "window": 3})
    with pytest.raises(OutputError, match="begun with another options"):
        run(source, tmp_path / "out", identity={"options": {"top_k": 1}, "window": 4})


def test_an_input_that_changed_where_it_was_read_is_refused(tmp_path: Path) -> None:
    source = write_lines(tmp_path / "in", TEXTS)
    stop_after(2, source, tmp_path / "out")
    for changed in (["z", *TEXTS[1:]], TEXTS[:4], TEXTS[1:], []):
        write_lines(source, changed)
        with pytest.raises(OutputError, match=r"first 6 lines of .*in .*out"):
            run(source, tmp_path / "out")
    write_lines(source, [*TEXTS, "new"])
    assert run(source, tmp_path / "out").lines == 9


def test_a_last_line_that_became_longer_is_refused(tmp_path: Path) -> None:
    source = write_lines(tmp_path / "in", TEXTS[:3])
    source.write_bytes(source.read_bytes()[:-1])
    stop_after(1, source, tmp_path / "out")
    source.write_bytes(source.read_bytes() + b"   \n")
    with pytest.raises(OutputError, match=r"first 3 lines of .*in .*out"):
        run(source, tmp_path / "out")


def test_a_part_that_lost_bytes_is_refused(tmp_path: Path) -> None:
    source = write_lines(tmp_path / "in", TEXTS)
    stop_after(1, source, tmp_path / "out")
    part = tmp_path / "out.part"
    part.write_bytes(part.read_bytes()[:-1])
    with pytest.raises(OutputError, match="to start again"):
        run(source, tmp_path / "out")
    part.unlink()
    with pytest.raises(OutputError, match=r" 0 bytes.* \d+ "):
        run(source, tmp_path / "out")


def test_an_output_that_came_into_being_in_between_is_not_written_over(tmp_path: Path) -> None:
    source = write_lines(tmp_path / "in", TEXTS)
    stop_after(1, source, tmp_path / "out")
    (tmp_path / "out").write_text("precious")
    with pytest.raises(OutputError, match="out exists"):
        run(source, tmp_path / "out")
    (tmp_path / "out.part").unlink()
    with pytest.raises(OutputError, match="out exists"):
        run(source, tmp_path / "out")
    assert (tmp_path / "out").read_text() == "precious"


@pytest.mark.parametrize(
    "content", ["no journal", "no journal\n", '{"a": 1}', '{"a": 1}\n', "rpln-runtime corpus, jour\n"]
)
def test_a_file_that_is_no_journal_is_refused_and_left_alone(tmp_path: Path, content: str) -> None:
    (tmp_path / "out.journal").write_text(content)
    with pytest.raises(OutputError, match=r"out\.journal"):
        run(write_lines(tmp_path / "in", TEXTS), tmp_path / "out")
    assert (tmp_path / "out.journal").read_text() == content
    assert names(tmp_path) == ["in", "out.journal"]


def test_two_runs_do_not_write_one_output(tmp_path: Path) -> None:
    source = write_lines(tmp_path / "in", TEXTS)

    def run_again(progress: Progress, size: int) -> None:
        with pytest.raises(OutputError, match=r"another process .*out\.journal"):
            run(source, tmp_path / "out")

    assert run(source, tmp_path / "out", on_progress=run_again).lines == len(TEXTS)


def test_a_run_goes_on_behind_a_line_that_is_too_long(tmp_path: Path) -> None:
    source = write_lines(tmp_path / "in", ["a" * 2 * MOST_LINE_BYTES, *TEXTS])
    stop_after(1, source, tmp_path / "out", on_error="record")
    assert run(source, tmp_path / "out", on_error="record").lines == 9


def test_a_run_that_ended_while_its_journal_was_opened_is_not_mistaken_for_one_that_died(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lock_too_late(file: Any, flags: int) -> None:
        Path(file.name).unlink()

    monkeypatch.setattr("rpln_runtime.corpus.output.fcntl.flock", lock_too_late)
    with pytest.raises(OutputError, match=r"another process .*out\.journal"):
        run(write_lines(tmp_path / "in", TEXTS), tmp_path / "out")


@settings(max_examples=40)  # each example waits for the disk a few times
@given(
    lengths=st.lists(st.integers(1, 50), max_size=12),
    window=st.integers(1, 5),
    cuts=st.tuples(st.integers(0, 10_000), st.integers(0, 10_000)),
    windows=st.integers(0, 3),
)
def test_whatever_a_kill_left_the_same_output_comes_of_it(
    tmp_path_factory: pytest.TempPathFactory,
    lengths: list[int],
    window: int,
    cuts: tuple[int, int],
    windows: int,
) -> None:
    folder = tmp_path_factory.mktemp("run")
    source = write_lines(folder / "in", ["x" * length for length in lengths])
    journals: list[bytes] = []

    def read_journal(progress: Progress, size: int) -> None:
        journals.append((folder / "out.journal").read_bytes())

    run(source, folder / "out", window=window, on_error="record", on_progress=read_journal)
    whole = (folder / "out").read_bytes()
    (folder / "out").unlink()

    # The journal may end anywhere. The output may end anywhere after what the journal tells of.
    left = journals[-1][: cuts[0] % (len(journals[-1]) + 1)]
    rows = [json.loads(row) for row in left.rpartition(b"\n")[0].splitlines()[1:]]
    told = rows[-1]["written"] if len(rows) > 1 else 0
    (folder / "out.journal").write_bytes(left)
    if rows:  # before that there is no part
        (folder / "out.part").write_bytes(whole[: told + cuts[1] % (len(whole) - told + 1)])
    asked: list[Any] = []

    def answer(items: list[Any]) -> list[dict[str, int]]:
        asked.extend(items)
        return count_letters(items)

    def go_on(windows: float) -> None:
        told = []

        def stop(progress: Progress, size: int) -> None:
            told.append(progress)
            if len(told) > windows:
                raise Stopped

        done = run(source, folder / "out", window=window, on_error="record", answer=answer, on_progress=stop)
        assert (done.lines, done.errors) == (len(lengths), sum(length > 40 for length in lengths))

    with contextlib.suppress(Stopped):  # more often if so many windows are left
        go_on(windows)
    if not (folder / "out").exists():
        go_on(math.inf)
    assert (folder / "out").read_bytes() == whole
    assert names(folder) == ["in", "out"]
    earlier = rows[-1]["lines"] if len(rows) > 1 else 0
    assert set(asked) == {"x" * length for length in lengths[earlier:]}
