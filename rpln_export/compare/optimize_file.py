"""`rpln optimize`: an ONNX file from anywhere -> the same network in another form.

The passes rewrite what they know and keep the rest. There is no configuration that would tell how much they should
find, so that the result states what each pass changed and what it refused, and why. It is compared with the original
before it is written.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from rpln_export.compare.feeds import feeds_from_file
from rpln_export.compare.graph_files import open_graph
from rpln_export.compare.values import ValueComparison, compare_values
from rpln_export.destination import check_writable, partial_file
from rpln_export.errors import DestinationError, ValidationError
from rpln_export.plan.choices import choose
from rpln_graphs.feeds import Feeds
from rpln_graphs.forms import FORMS
from rpln_graphs.passes import CLEAN_UP
from rpln_graphs.passes.name_values import NameValues
from rpln_graphs.recipes import FOLDS
from rpln_graphs.rewriting.base import Context, CountingPass, Refusal, counts_from_model, refusals_from_model
from rpln_graphs.save import save_graph
from rpln_graphs.stress import MASK_KINDS, arrays_from_mask, random_mask
from rpln_runtime.errors import InputError

ROWS: Final = 3
LENGTH: Final = 11
"""The rows and tokens of a batch of random tokens."""
IDS: Final = frozenset({"input_ids", "attention_mask", "token_type_ids"})
"""The inputs that follow from random tokens and a mask."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileOptimization:
    """What was done to a file.

    Attributes:
        path: the file that was written.
        form: the name of the form.
        passes: the number of places that each pass changed.
        refusals: the nodes that each pass left as they were, with the reasons.
        comparisons: how the values compare with those of the original, for each batch of inputs.
    """

    path: str
    form: str
    passes: dict[str, int]
    refusals: dict[str, list[Refusal]]
    comparisons: Sequence[ValueComparison]

    def to_json(self) -> dict[str, Any]:
        """Return all fields, for machines."""
        return asdict(self)


def optimize_file(source: Path, destination: Path, *, form: str, feeds: Path | None = None) -> FileOptimization:
    """Rewrite the graph in the file `source` into `form`, compare it with the original, and write it to `destination`.

    Both are run on the arrays of the .npz file `feeds`, or on random tokens with every kind of mask. Raises GraphError
    for a file that is no graph, InputError for a graph that takes more than tokens without `feeds`, ValidationError for
    a result that differs, and DestinationError for a file that exists or cannot be written. Nothing is written then.
    """
    row = choose(FORMS, form, "form")
    check_writable(destination)
    for path in (destination, destination.with_name(f"{destination.name}.data")):  # a large graph's weights
        if path.exists():
            raise DestinationError(f"{path} exists already and is not replaced. Choose another file with -o.")
    original = open_graph(source).model
    batches = [feeds_from_file(feeds)] if feeds else list(_random_batches(original, source))
    with partial_file(destination) as written:
        model = original.clone()
        common.ShapeInferencePass()(model)
        passes: list[type[CountingPass]] = [kind for kind in CLEAN_UP if kind is not NameValues]  # a file's names stay
        for kind in (*passes, *FOLDS, *row.passes):
            kind.configure(model, Context())(model)
        comparisons = [compare_values(original, model, batch) for batch in batches]
        for comparison in comparisons:
            _check(comparison, original, source)
        save_graph(model, written)
    return FileOptimization(
        path=str(destination),
        form=form,
        passes=counts_from_model(model),
        refusals={name: rows for name, rows in refusals_from_model(model).items() if rows},
        comparisons=comparisons,
    )


def _check(comparison: ValueComparison, original: ir.Model, source: Path) -> None:
    floats = {value.name for value in original.graph.outputs if value.dtype and value.dtype.is_floating_point()}
    if missing := floats - {output.name for output in comparison.outputs}:
        raise ValidationError(
            f"{source}: after rewriting, {', '.join(map(str, sorted(missing, key=str)))} cannot be compared with the "
            "original. Nothing was written. Please report it, with what rpln doctor shows."
        )
    for output in comparison.outputs:
        if not output.within(comparison.bound):
            raise ValidationError(
                f"{source}: after rewriting, {output.name} differs by {output.difference}, and its range is "
                f"{output.reach:.3g}. At most {comparison.bound} of the range is accepted. Nothing was written. Please "
                "report it, with what rpln doctor shows."
            )


def _random_batches(model: ir.Model, source: Path) -> list[Feeds]:
    """Return random tokens with every kind of mask, for a graph that takes nothing but tokens."""
    names = {value.name or "" for value in model.graph.inputs}
    tables = [
        node.inputs[0]
        for node in model.graph
        if node.op_type == "Gather" and node.inputs[1] is not None and node.inputs[1].name == "input_ids"
    ]
    table = tables[0].shape if tables and tables[0] is not None else None
    if not names <= IDS or table is None or not isinstance(table[0], int):
        raise InputError(
            f"{source} takes {', '.join(sorted(names))}, for which no random inputs are known. Give the inputs with "
            "--feeds, an .npz file with an array for each of them."
        )
    rng = np.random.default_rng(0)
    batches = []
    for kind in MASK_KINDS:
        mask = random_mask(kind, ROWS, LENGTH, rng)
        known = {"input_ids": rng.integers(0, table[0], mask.shape), **arrays_from_mask(mask, pad=0)}
        batches.append({name: known[name] for name in names})
    return batches
