"""A corpus through a bundle, window by window, and on from where an earlier run stopped."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeAlias

from rpln_runtime.corpus.on_ray import answer_windows_on_ray
from rpln_runtime.corpus.opening import Opening
from rpln_runtime.corpus.output import OutputError, open_output, start_again
from rpln_runtime.corpus.progress import Progress
from rpln_runtime.corpus.reading import Span, Windows, digest_of_start, read_windows
from rpln_runtime.corpus.records import AnswerItems, Record, answer_lines
from rpln_runtime.errors import InputError
from rpln_runtime.options import check_choice, check_integer
from rpln_runtime.postprocess.base import ItemField

WINDOW: Final = 1024
STOP: Final = "stop"
RECORD: Final = "record"

_MEND: Final = (
    "Mend the line and run the same again, which goes on where it stopped; or have such errors written into the "
    "output, with --on-error record (on_error='record')."
)

OnProgress: TypeAlias = Callable[[Progress, int], None]
"""Called when a run begins and after each window, with how far it is and the size of the input in bytes."""
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
) -> Progress:
    """Answer each line of the file `source` with the bundle in `folder`: line n of the file `output` is for line n.

    A line is a JSON object with the fields of the task, {"text": ...} for most; its other fields are kept beside
    "answer", which is what `pipeline` answers. `folder`, `provider`, `threads`, `batch_size`, `verify` and `options`
    are those of `pipeline`. Lines are answered `window` at a time, sorted by length into batches within it; memory
    holds one window.

    `output` appears when it is whole. Until then it grows beside its place, and the same call after a kill goes on
    with the last window that is on disk: the output is the same, byte by byte, as without the kill.

    With `ray`, `actors` of a Ray cluster answer (None: as many as it has CPUs for), see `rpln_runtime.corpus.on_ray`.
    A run that was begun without goes on with it, and the other way round.

    `on_error` "stop" raises InputError for the first line that cannot be answered, by its number: mend it, and the same
    call goes on. "record" puts {"error": ...} in the place of its answer. `on_progress` is told how far the run is.

    Returns how many lines there are and how many of them hold an error. Raises what `pipeline` raises, and OutputError
    for an output that is there already, or was begun with other arguments or of another beginning of the input.
    """
    check_integer("window", window, minimum=1)
    check_choice("on_error", on_error, (STOP, RECORD))
    if actors is not None:
        check_integer("actors", actors, minimum=1)
        if not ray:
            raise InputError(f"actors is {actors}, which has no effect without Ray: pass ray=True (--ray).")
    opening = Opening(
        folder=Path(folder),
        provider=provider,
        threads=threads,
        batch_size=batch_size,
        verify=verify,
        options=options or {},
    )
    answer, fields = opening.open()  # where actors answer, too: a bundle that does not open is told of at once
    return answer_file(
        Path(source),
        Path(output),
        partial(answer_windows_on_ray, source=Path(source), opening=opening, actors=actors)
        if ray
        else partial(answer_windows, answer=answer, fields=fields),
        run={**opening.identity(), "window": window},
        window=window,
        on_error=on_error,
        on_progress=on_progress or (lambda _progress, _size: None),
    )


def answer_windows(windows: Windows, *, answer: AnswerItems, fields: Sequence[ItemField]) -> Answered:
    """Yield the records of each window, made in this process."""
    return ((span, answer_lines(lines, answer, fields)) for span, lines in windows)


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
    """Let `answers` make the windows of `source` into those of `output`; `run` says what an earlier run must share."""
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
        raise InputError(f"{source} is no file: expected one of JSON lines, which a run can begin to read anywhere.")
    try:
        return source.open("rb")
    except OSError as error:
        raise InputError(f"{source} cannot be read: {error}.") from error


def _windows_left(file: BinaryIO, done: Progress, source: Path, output: Path, window: int) -> Windows:
    """The windows that are not on disk. Raises OutputError where the input before them is not what was read."""
    digest = digest_of_start(file, done.read)
    if digest.hexdigest() != done.sha256 or _is_inside_a_line(file, done.read):
        raise OutputError(
            f"the first {done.lines:,} lines of {source} are not those that the beginning of {output} was made from. "
            f"Put the old file back, or {start_again(output)}"
        )
    return read_windows(file, most_lines=window, first=done.lines + 1, digest=digest)


def _is_inside_a_line(file: BinaryIO, position: int) -> bool:
    """Whether the last line of the input, as it was when it was read up to `position`, has become longer since."""
    file.seek(max(position - 1, 0))
    around = file.read(2)
    file.seek(position)
    return position > 0 and len(around) == 2 and not around.startswith(b"\n")
