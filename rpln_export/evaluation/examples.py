"""Examples: a file of JSON lines, read and checked for the task of a network."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rpln_export.evaluation.measures import MEASURES
from rpln_export.evaluation.measures.base import Fields, Measure, fields_in_words
from rpln_export.evaluation.rows import Row
from rpln_runtime.documents import DocumentError, document_from_bytes
from rpln_runtime.errors import InputError
from rpln_runtime.limits import OTHER
from rpln_runtime.manifest import Manifest
from rpln_runtime.tokenization import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """Examples that were checked, and how they are measured.

    Attributes:
        measure: the form of the examples, with its metrics.
        fields: the line of each example.
        rows: the rows of each example, which a graph reads.
    """

    measure: Measure[Any, Any]
    fields: Sequence[Fields]
    rows: Sequence[Sequence[Row]]


def read_examples(path: Path, manifest: Manifest, tokenizer: Tokenizer, *, truncation: bool = False) -> Examples:
    """Return the examples in the file `path`, a JSON object on each line, for the network that `manifest` describes.

    With `truncation`, texts that are too long are cut. Raises InputError, with the line, for a file that cannot be
    read, is empty, or has an example that is not of the task, has a wrong field or an unknown label, or is too long.
    """
    lines = list(_lines(path))
    measure = _measure(path, lines, manifest)(manifest=manifest, tokenizer=tokenizer, truncation=truncation)
    rows = []
    for number, fields in lines:
        try:
            measure.check(fields)
            rows.append(measure.rows(fields))
        except InputError as error:
            raise InputError(f"{path}, line {number}: {str(error).removesuffix('.')}.") from error
    return Examples(measure=measure, fields=[fields for _, fields in lines], rows=rows)


def _measure(path: Path, lines: Sequence[tuple[int, Fields]], manifest: Manifest) -> type[Measure[Any, Any]]:
    """Return the row of MEASURES that fits the network and has the fields of the first line.

    Raises InputError where there is none, and for an empty file.
    """
    kinds = [kind for kind in MEASURES[manifest.task] if kind.fits(manifest)]
    if not kinds:
        raise InputError(
            f"{manifest.task} of the problem type {manifest.problem_type!r} with {len(manifest.labels)} labels has no "
            f"metric here, so that {path} cannot be used."
        )
    expected = ", or ".join(fields_in_words(kind.fields) for kind in kinds)
    if not lines:
        raise InputError(f"{path} is empty, expected a JSON object on each line, with {expected}.")
    number, first = lines[0]
    for kind in kinds:
        if {field.name for field in kind.fields if not field.optional} <= first.keys():
            return kind
    found = ", ".join(map(repr, first)) or "none"
    raise InputError(f"{path}, line {number}: it has the fields {found}, but {manifest.task} needs {expected}.")


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number and the JSON object of each line that is not blank."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}). Expected a file of JSON lines.") from error
    for number, line in enumerate(content.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            record = document_from_bytes(line, OTHER)
        except DocumentError as error:
            raise InputError(f"{path}, line {number}: it is not JSON ({error}).") from error
        if not isinstance(record, dict):
            raise InputError(f"{path}, line {number}: it is not a JSON object.")
        yield number, record
