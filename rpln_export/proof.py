"""Proves a bundle's graph equal to eager torch, by every method that its precision allows, or says where it is not."""

import itertools
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx_ir as ir

from rpln_export.bisect import first_drift
from rpln_export.errors import ValidationError
from rpln_export.validate import Comparison, Run, compare, failed, graph_outputs, reference_outputs
from rpln_graphs.emulate import rounding_copy
from rpln_graphs.recipes import Recipe
from rpln_graphs.sessions import session_from_model
from rpln_graphs.stress import Case
from rpln_runtime.session import load
from rpln_runtime.tasks import Tensor

RUNTIME: Final = "rpln_runtime"
ROUNDING: Final = "rounding copy"

ADVICE_LOWER: Final = "Export in fp32 to tell whether precision is the reason; if not, please report it (rpln doctor)."
ADVICE_FLOAT: Final = "Please report it, with the checkpoint's config.json (rpln doctor)."

NOTES: Final = {
    ir.DataType.FLOAT: (),
    ir.DataType.FLOAT16: (
        (
            "ONNX Runtime's CPU provider computes most fp16 operators in fp32 and may merge the casts between them, so "
            "the rounding copy was run as well: the same graph, computing in fp32 and rounding to fp16 after every "
            "operator."
        ),
    ),
    ir.DataType.BFLOAT16: (
        (
            "ONNX Runtime's CPU provider has no bf16 kernels, so the saved graph was not run here; the rounding copy "
            "was: the same graph, computing in fp32 and rounding to bf16 after every operator."
        ),
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """The comparisons that were accepted, and what must be said about how they were made."""

    comparisons: Sequence[Comparison]
    notes: Sequence[str]


def prove(
    model: Any,
    path: Path,
    *,
    outputs: Sequence[Tensor],
    cases: Sequence[Case],
    recipe: Recipe,
    advance: Callable[[int, int], None],
) -> Proof:
    """Compare the graph at `path`, as it was saved into its bundle, with eager `model` over `cases`.

    Raises ValidationError naming the output, the case and the first layer that drifts.
    """
    methods = _methods(path, recipe)
    tick = _counter(advance, len(cases) * (1 + len(methods)))
    with tempfile.TemporaryDirectory() as stored:
        expected = reference_outputs(model, outputs, cases, Path(stored), advance=tick)
        named = graph_outputs(outputs, model.config.num_hidden_layers)
        comparisons = compare(expected, methods, named, cases, recipe.tolerance, advance=tick)
    refused = failed(comparisons, recipe.tolerance)
    if refused:
        raise ValidationError(_refusal(refused, model, path, cases, recipe))
    return Proof(comparisons=comparisons, notes=NOTES[recipe.dtype])


def _methods(path: Path, recipe: Recipe) -> dict[str, Callable[[], Run]]:
    """How the graph can be run here: by the runtime where the CPU has kernels, by its rounding copy where it rounds."""
    methods: dict[str, Callable[[], Run]] = {}
    if recipe.dtype != ir.DataType.BFLOAT16:
        methods[RUNTIME] = lambda: _run_runtime(path.parent)
    if recipe.lowers:
        methods[ROUNDING] = lambda: _run_rounding_copy(ir.load(path))
    return methods


def _run_runtime(folder: Path) -> Run:
    session = load(folder, verify=False)
    dtypes = {spec.name: spec.dtype for spec in session.graph.inputs}
    return lambda feeds: session.run({name: array.astype(dtypes[name]) for name, array in feeds.items()})


def _run_rounding_copy(graph: ir.Model) -> Run:
    with tempfile.TemporaryDirectory() as folder:
        session = session_from_model(rounding_copy(graph), Path(folder))
    names = [value.name or "" for value in graph.graph.outputs]
    return lambda feeds: dict(zip(names, session.run(None, _as_float32(feeds)), strict=True))


def _counter(advance: Callable[[int, int], None], total: int) -> Callable[[], None]:
    """A function that tells `advance` of one more done each time it is called."""
    numbers = itertools.count(1)
    return lambda: advance(next(numbers), total)


def _as_float32(feeds: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: array.astype(np.float32) if np.issubdtype(array.dtype, np.floating) else array
        for name, array in feeds.items()
    }


def _refusal(refused: Sequence[Comparison], model: Any, path: Path, cases: Sequence[Case], recipe: Recipe) -> str:
    tolerance = recipe.tolerance
    worst = max(refused, key=lambda row: row.difference if row.finite else float("inf"))
    case = next((case for case in cases if case.name == worst.worst_case), cases[0])
    return "\n".join(
        [
            f"the {recipe.name} graph is not equal to eager torch and is refused.",
            *(
                f"  {row.output} ({row.method}): difference {row.difference:.3g}, {tolerance.difference} accepted"
                f"{'' if row.finite else ', not finite'}, {row.worst_case or 'no case'}"
                + ("" if row.agreement is None else f"; argmax agreement {row.agreement:.2%}")
                for row in refused
            ),
            f"  {first_drift(model, ir.load(path), case, difference=tolerance.difference)}.",
            ADVICE_LOWER if recipe.lowers else ADVICE_FLOAT,
        ]
    )
