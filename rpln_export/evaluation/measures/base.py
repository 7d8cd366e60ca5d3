"""The base of all measures: examples become rows, the outputs for these rows predictions, and all of these scores."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Generic, TypeVar

from rpln_export.evaluation.rows import Outputs, Row
from rpln_runtime.errors import InputError
from rpln_runtime.manifest import Manifest
from rpln_runtime.options import shown_kind
from rpln_runtime.tokenization import Encoding, Tokenizer, truncate

Kept = TypeVar("Kept")
"""What a measure keeps of the outputs for a row."""
Prediction = TypeVar("Prediction")
"""What a measure makes of the outputs for an example."""

Fields = Mapping[str, Any]
"""A line of a file of examples."""

TEXT: Final = "a text"
TEXTS: Final = "a list of texts"
NUMBER: Final = "a number"
INTEGER: Final = "an integer"
LABEL: Final = "a label"
LABELS: Final = "a list of labels"


@dataclass(frozen=True, slots=True, kw_only=True)
class DataField:
    """A field of an example. `kind` says what it holds, in words; an `optional` one may be left out."""

    name: str
    kind: str = TEXT
    optional: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A metric by its name.

    Attributes:
        name: the name in tables and in JSON.
        is_share: whether 1 is the best value, and it is shown in percent. A correlation may be negative.
        higher_is_better: whether a larger value is a better one.
    """

    name: str
    is_share: bool = True
    higher_is_better: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Example(Generic[Kept]):
    """An example whose graph has run.

    Attributes:
        fields: its line.
        rows: the rows that it became.
        kept: what `Measure.read` returned for each row.
    """

    fields: Fields
    rows: Sequence[Row]
    kept: Sequence[Kept]


@dataclass(frozen=True, kw_only=True)
class Measure(ABC, Generic[Kept, Prediction]):
    """How well a task is done on examples of one form.

    A subclass for each form has `fields`, the fields of an example, and `metrics`, the main metric first. Where rows
    and answers take more than tokenizing and an argmax, the post-processing of the pipeline makes them.

    Attributes:
        manifest: the description of the graphs.
        tokenizer: makes tokens of texts.
        truncation: whether texts that are too long are cut. Otherwise they are read in windows or refused.
    """

    manifest: Manifest
    tokenizer: Tokenizer
    truncation: bool = False

    fields: ClassVar[tuple[DataField, ...]]
    metrics: ClassVar[tuple[Metric, ...]]

    @classmethod
    def fits(cls, manifest: Manifest) -> bool:  # noqa: ARG003 # some measures depend on it
        """Return whether the network that `manifest` describes can be measured in this way."""
        return True

    def check(self, fields: Fields) -> None:
        """Raise InputError for an example with a field that is wrong: missing, of another kind, or an unknown label."""
        for field in self.fields:
            if field.name in fields:
                _check_kind(field, fields[field.name])
            elif not field.optional:
                raise InputError(f"it has no field {field.name!r}, expected {fields_in_words(self.fields)}")

    @abstractmethod
    def rows(self, fields: Fields) -> list[Row]:
        """Return the rows of an example that was checked. Raises InputError for one that the network cannot read."""

    @abstractmethod
    def read(self, row: Row, outputs: Outputs) -> Kept:
        """Return what the prediction needs of the outputs for a row, as no view of them."""

    @abstractmethod
    def predictions(self, examples: Sequence[Example[Kept]]) -> list[Prediction]:
        """Return the prediction for each example."""

    @abstractmethod
    def scores(self, fields: Sequence[Fields], predictions: Sequence[Prediction]) -> Mapping[str, float]:
        """Return the value of each metric, by its name. Raises InputError where the examples determine none."""

    @abstractmethod
    def decisions(self, prediction: Prediction) -> Sequence[Hashable]:
        """Return the decisions in a prediction, such as the label of each word; nothing where the task decides nothing.

        Two networks may agree on some of them.
        """

    def cut(self, encoding: Encoding, what: str) -> Encoding:
        """Return `encoding`, cut to the usable length if that is allowed.

        Raises InputError, which calls the text `what`, if it is too long and must not be cut.
        """
        limit = self.manifest.usable_length
        if len(encoding) > limit and not self.truncation:
            raise InputError(too_long(what, len(encoding), limit))
        return truncate(encoding, limit, truncation_side=self.manifest.truncation_side)

    def label_index(self, value: Any, where: str) -> int:
        """Return the index of a label that is given by its name, or by its index. `where` says where it stands.

        Raises InputError for a label that the network does not know.
        """
        labels = self.manifest.labels
        if isinstance(value, str) and value in labels:
            return labels.index(value)
        if type(value) is int and 0 <= value < len(labels):
            return value
        shown = ", ".join(labels[:20]) + (", ..." if len(labels) > 20 else "")
        raise InputError(f"its {where} is {value!r}, expected one of {shown}")


def too_long(what: str, tokens: int, limit: int) -> str:
    """Return the message for a text that is too long."""
    return f"its {what} has {tokens} tokens, but the limit of this model is {limit}. Shorten it, or add --truncate"


def fields_in_words(fields: Sequence[DataField]) -> str:
    """Return what the fields of an example are, for a message."""
    return " and ".join(f"{field.name!r} ({field.kind}{', optional' if field.optional else ''})" for field in fields)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(part, str) for part in value)


_IS_OF_KIND: Final[Mapping[str, Callable[[Any], bool]]] = {
    TEXT: lambda value: isinstance(value, str),
    TEXTS: _is_texts,
    NUMBER: lambda value: type(value) in (int, float),
    INTEGER: lambda value: type(value) is int,
    LABEL: lambda value: type(value) in (str, int),
    LABELS: lambda value: isinstance(value, list),
}


def _check_kind(field: DataField, value: Any) -> None:
    if not _IS_OF_KIND[field.kind](value):
        found = "a list with other parts" if field.kind == TEXTS and isinstance(value, list) else shown_kind(value)
        raise InputError(f"its {field.name!r} is {found}, expected {field.kind}")
