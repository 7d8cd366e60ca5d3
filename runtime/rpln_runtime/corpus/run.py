"""Answers a corpus window by window, and continues an earlier run where it stopped."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeAlias

from rpln_runtime.batching import OnRows
from rpln_runtime.corpus.on_ray import answer_windows_on_ray
from rpln_runtime.corpus.opening import Opening
from rpln_runtime.corpus.output import OutputError, check_apart, open_output, start_again
from rpln_runtime.corpus.progress import Progress
from rpln_runtime.corpus.reading import Span, Windows, digest_of_start, read_windows
from rpln_runtime.corpus.records import AnswerItems, Record, answer_lines
from rpln_runtime.errors import InputError
from rpln_runtime.options import check_choice, check_integer, path_from_value, plain
from rpln_runtime.postprocess.base import ItemField

WINDOW: Final = 1024
STOP: Final = "stop"
RECORD: Final = "record"

_MEND: Final = (
    "Correct the line and run the same command again, which goes on where it stopped; or have such errors written into "
    "the output, with --on-error record (on_error='record')."
)

OnProgress: TypeAlias = Callable[[Progress, int], None]
"""A function that is called when a run begins and after each window, with its progress and the input's bytes."""
OnLines: TypeAlias = Callable[[int, int], None]
"""A function that is called while a window is answered: with about how many lines, from the first of the input on, are
answered, and how many bytes they are."""
Answered: TypeAlias = Iterable[tuple[Span, Iterable[Record]]]


def run_corpus(
    folder: str | Path,
    source: str | Path,
    output: str | Path,
    *,
    provider: str | None = None,
    threads: int | None = None,
    batch_size: int | None = None,
    window: int = WINDOW,
    on_error: str = STOP,
    ray: bool = False,
    actors: int | None = None,
    verify: bool = True,
    options: Mapping[str, Any] | None = None,
    on_progress: OnProgress | None = None,
    on_lines: OnLines | None = None,
) -> Progress:
    """Answer each line of the file `source` with the bundle in `folder`: line n of the file `output` is for line n.

    A line is a JSON object with the fields of the task, for most tasks {"text": ...}. Its other fields are copied to
    the output, beside "answer", which is what `pipeline` answers.

    The file `output` appears when it is complete. Until then it grows beside its place. The same call after a kill goes
    on after the last window that is on disk, and the output is the same, byte for byte, as without the kill.

    Args:
        folder: the folder of the bundle.
        source: a file of JSON lines.
        output: the file to write.
        provider: as in `rpln_runtime.pipeline`.
        threads: as in `rpln_runtime.pipeline`.
        batch_size: as in `rpln_runtime.pipeline`.
        window: how many lines are read at a time. They are sorted by length into batches, and memory holds one window.
        on_error: what happens at a line that cannot be answered. "stop" raises InputError with the number of the line;
            after it is corrected, the same call goes on. "record" writes {"error": ...} in the place of its answer.
        ray: whether actors of a Ray cluster answer, see `rpln_runtime.corpus.on_ray`. A run may be begun with Ray and
            go on without, and the other way round.
        actors: how many actors there are. None: as many as the cluster has CPUs for.
        verify: as in `rpln_runtime.pipeline`.
        options: options of the task, as in `rpln_runtime.pipeline`.
        on_progress: a function that is told how far the run is on disk, after each window.
        on_lines: a function that is told within a window, too, about how many lines are answered. Ray tells nothing.

    Returns how many lines there are and how many of them hold an error. Raises what `pipeline` raises, and OutputError
    for an output that is the input or exists already, or that was begun with other arguments or from another input.
    """
    source, output = path_from_value("source", source), path_from_value("output", output)
    window, actors = plain(window), plain(actors)
    check_integer("window", window, minimum=1)
    check_choice("on_error", on_error, (STOP, RECORD))
    if actors is not None:
        check_integer("actors", actors, minimum=1)
        if not ray:
            raise InputError(f"actors is {actors}, which has no effect without Ray. Pass ray=True (--ray), too.")
    opening = Opening(
        folder=path_from_value("folder", folder),
        provider=provider,
        threads=plain(threads),
        batch_size=plain(batch_size),
        verify=verify,
        options=plain(options or {}),
    )
    # Even if Ray answers, the bundle is opened here first, so that a broken one is reported at once.
    answer, fields = opening.open()
    return answer_file(
        source,
        output,
        partial(answer_windows_on_ray, source=source, opening=opening, actors=actors)
        if ray
        else partial(answer_windows, answer=answer, fields=fields, on_lines=on_lines),
        run={**opening.identity(), "window": window},
        window=window,
        on_error=on_error,
        on_progress=on_progress or (lambda _progress, _size: None),
    )


def answer_windows(
    windows: Windows, *, answer: AnswerItems, fields: Sequence[ItemField], on_lines: OnLines | None = None
) -> Answered:
    """Yield the records of each window, which are answered in this process, and tell `on_lines` how far it is."""
    for span, lines in windows:
        yield span, answer_lines(lines, answer, fields, on_lines and _rows_as_lines(span, on_lines))


def _rows_as_lines(span: Span, on_lines: OnLines) -> OnRows:
    """Return a function that tells `on_lines` what the rows of a window that are done are in lines and in bytes."""

    def on_rows(done: int, total: int) -> None:
        on_lines(span.first - 1 + span.count * done // total, span.start + (span.stop - span.start) * done // total)

    return on_rows


def answer_file(
    source: Path,
    output: Path,
    answers: Callable[[Windows], Answered],
    *,
    run: Mapping[str, Any],
    window: int,
    on_error: str,
    on_progress: OnProgress,
) -> Progress:
    """Answer the windows of `source` by `answers` and write `output`. `run` describes the run, as in `open_output`."""
    check_apart(source, output)
    with _open_source(source) as file, open_output(output, run) as out:
        size = source.stat().st_size
        on_progress(out.progress, size)
        for span, records in answers(_windows_left(file, out.progress, source, output, window)):
            errors = out.progress.errors
            for line, record in enumerate(records, start=span.first):
                if record.error is not None:
                    if on_error == STOP:
                        raise InputError(f"{source}, line {line}: {record.error.rstrip('.')}. {_MEND}")
                    errors += 1
                out.write(record.line)
            out.commit(lines=out.progress.lines + span.count, errors=errors, read=span.stop, sha256=span.sha256)
            on_progress(out.progress, size)
        out.publish()
        return out.progress


def _open_source(source: Path) -> BinaryIO:
    if not source.is_file():
        raise InputError(
            f"{source} is not a file, expected JSON lines in a file (not a pipe): a run may have to start within it."
        )
    try:
        return source.open("rb")
    except OSError as error:
        raise InputError(f"{source} cannot be read: {error}.") from error


def _windows_left(file: BinaryIO, done: Progress, source: Path, output: Path, window: int) -> Windows:
    """Return the windows that are not answered yet. Raises OutputError where the input before them has changed."""
    digest = digest_of_start(file, done.read)
    if digest.hexdigest() != done.sha256 or _is_inside_a_line(file, done.read):
        raise OutputError(
            f"the first {done.lines:,} lines of {source} have changed since {output} was begun with them. Restore the "
            f"old file, or {start_again(output)}"
        )
    return read_windows(file, most_lines=window, first=done.lines + 1, digest=digest)


def _is_inside_a_line(file: BinaryIO, position: int) -> bool:
    """Return whether `position`, where the input was read to its end, is inside a line now, which has become longer."""
    file.seek(max(position - 1, 0))
    around = file.read(2)
    file.seek(position)
    return position > 0 and len(around) == 2 and not around.startswith(b"\n")
