"""Calibration texts: what the ranges of values are measured on, from a file of the user's or the built-in one."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rpln_export.errors import PlanError
from rpln_graphs.recipes import Recipe
from rpln_runtime.documents import DocumentError, document_from_bytes, shown
from rpln_runtime.limits import OTHER

DEFAULT_TEXTS: Final = Path(__file__).with_name("calibration.txt")
"""The texts that ranges are measured on unless the user names others: prose, numbers, code and URLs, one a line."""
TEXTS_OF_QUANTIZED: Final = Path(__file__).with_name("quantization.txt")
"""These texts and more of them, since what is quantized is also tried on some that are held back."""
EXPECTED: Final = (
    '--calibration takes a .txt file in UTF-8 with one text on each line, or a .jsonl file with lines such as {"text": '
    '"..."} or, for pairs of texts, {"text": "...", "text_pair": "..."}.'
)
"""The sentence that tells users what such a file holds."""
FIELDS: Final = ("text", "text_pair")
"""The fields of a line of JSON. The first one must be there."""
_BYTE_ORDER_MARK: Final = "\ufeff"
"""What files of Windows may begin with. It is no part of a text; in JSON, it is refused."""
FEWEST: Final = 4
"""The fewest texts that a graph is quantized with: one of them is held back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationText:
    """A text, and the second one of a pair if there is one."""

    text: str
    pair: str | None = None


def check_calibration(path: Path | None, recipe: Recipe) -> None:
    """Refuse calibration texts that cannot be read, are too few, or that nothing is measured on. Raises PlanError."""
    if path is None:
        return
    if not recipe.measures:
        raise PlanError(
            "--calibration goes with --int8, --int4, --fp8, --fp16 or --bf16, but an "
            f"{recipe.name} export measures no activations. Leave it out."
        )
    texts = calibration_texts(path, recipe)
    if recipe.quantizes and len(texts) < FEWEST:
        raise PlanError(
            f"{path} holds {len(texts)} texts, and {recipe.name} needs at least {FEWEST}, on which quantized graphs "
            "are tried. 64 texts like those that the model will read are a good number."
        )


def calibration_texts(path: Path | None, recipe: Recipe) -> list[CalibrationText]:
    """Return the texts in the file `path`, or those that are built in.

    Raises PlanError for a file that cannot be read, is neither .txt nor .jsonl, or holds no text.
    """
    path = path or (TEXTS_OF_QUANTIZED if recipe.quantizes else DEFAULT_TEXTS)
    try:
        # Not splitlines of a text, which also ends lines where texts may go on, such as at U+2028 in JSON.
        lines = [
            _decoded(line, f"{path}, line {number}") for number, line in enumerate(path.read_bytes().splitlines(), 1)
        ]
    except OSError as error:
        raise PlanError(f"{path} cannot be read ({error.strerror}). {EXPECTED}") from error
    read = _READERS.get(path.suffix.lower())
    if read is None:
        raise PlanError(f"{path} is neither a .txt nor a .jsonl file. {EXPECTED}")
    texts = [
        read(line, f"{path}, line {number}")
        for number, line in enumerate(lines, 1)
        if line.strip().strip(_BYTE_ORDER_MARK)
    ]
    if not texts:
        raise PlanError(f"{path} is empty. {EXPECTED}")
    return texts


def _decoded(line: bytes, place: str) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise PlanError(f"{place}, cannot be read ({error}). {EXPECTED}") from error


def _text_from_line(line: str, place: str) -> CalibrationText:  # noqa: ARG001 # any line is a text
    return CalibrationText(text=line.removeprefix(_BYTE_ORDER_MARK))


def _text_from_json(line: str, place: str) -> CalibrationText:
    try:
        document = document_from_bytes(line.encode("utf-8"), OTHER)
    except (DocumentError, UnicodeEncodeError) as error:
        raise PlanError(f"{place}, is no JSON ({error}). {EXPECTED}") from error
    if not isinstance(document, dict):
        raise PlanError(f"{place}, is {shown(document)}, not an object. {EXPECTED}")
    text, pair = (_field(document, name, place) for name in FIELDS)
    if text is None:
        raise PlanError(f"{place}, has no field 'text'. {EXPECTED}")
    return CalibrationText(text=text, pair=pair)


def _field(document: dict[str, Any], name: str, place: str) -> str | None:
    value = document.get(name)
    if value is not None and not isinstance(value, str):
        raise PlanError(f"{place}: the field {name!r} is {shown(value)}, not a text. {EXPECTED}")
    return value


_READERS: Final = {".txt": _text_from_line, ".jsonl": _text_from_json}
"""What makes a text of a line, by the ending of the file's name in small letters."""
