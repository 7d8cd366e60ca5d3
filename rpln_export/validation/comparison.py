"""The comparison of saved graphs with eager torch in fp32, output by output. Every export makes it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from rpln_graphs.calls import GraphCall
from rpln_graphs.recipes import Tolerance
from rpln_graphs.stress import Case
from rpln_runtime.tasks import MASK_AXIS, MASKED_TOKENS, TOKEN_AXES, Tensor

Array = NDArray[Any]
Run = Callable[[Case], Mapping[str, Array]]
"""A function that returns the outputs of a case, by their names in the graph."""

TINY: Final = float(np.finfo(np.float32).tiny)
"""The smallest normal number of fp32, which takes the place of a range of zero where a range divides."""


@dataclass(slots=True, kw_only=True)
class Comparison:
    """One output, computed by one method, compared with eager torch over all cases.

    Attributes:
        output: the name of the output in the graph.
        method: how the graph was run, for example "rpln_runtime" or "rounding copy".
        difference: the largest difference, absolute or relative to the output's range, as the recipe's tolerance says.
        worst_case: the name of the case with the largest difference; empty where nothing differs.
        decisions: how many argmaxes were compared, ties not among them.
        agreeing: how many of these are equal.
        ties: how many argmaxes were left out, because the best two candidates are too close for the type to tell apart.
        cases: how many cases were compared.
        finite: whether all values are finite.
    """

    output: str
    method: str
    difference: float = 0.0
    worst_case: str = ""
    decisions: int = 0
    agreeing: int = 0
    ties: int = 0
    cases: int = 0
    finite: bool = True

    @property
    def agreement(self) -> float | None:
        """The share of equal argmaxes; None where no argmax was compared."""
        return self.agreeing / self.decisions if self.decisions else None

    def accepted(self, tolerance: Tolerance) -> bool:
        """Return whether all values are finite and `tolerance` accepts the difference and the equal argmaxes."""
        wanted = tolerance.argmax_agreement
        agrees = wanted is None or self.agreement is None or self.agreement >= wanted
        return self.finite and self.difference <= tolerance.difference and agrees

    def to_json(self) -> dict[str, Any]:
        """Return the fields and the agreement."""
        return {**asdict(self), "agreement": self.agreement}


def compare(
    expected: Sequence[Mapping[str, Array]],
    methods: Mapping[str, Callable[[], Run]],
    outputs: Mapping[str, Tensor],
    cases: Sequence[Case],
    tolerance: Tolerance,
    *,
    advance: Callable[[], None],
) -> list[Comparison]:
    """Run every method over `cases`, one method after another, and compare each of `outputs` with `expected`.

    Outputs that belong to tokens are compared at real tokens. Other outputs are compared in every row that has a real
    token. These are computed from position 0, even where that is padding, as in transformers. All values must be
    finite, those of padding among them.

    Args:
        expected: the outputs by eager torch, for each case.
        methods: for each method, a function that opens the graph and returns what runs it.
        outputs: the outputs by their names in the graph, each with the row of the task's table that it comes from.
        cases: the inputs.
        tolerance: says what differences are relative to, and which argmaxes are ties.
        advance: is called after each case of each method.
    """
    scales = {name: _scale(name, tensor, cases, expected, tolerance) for name, tensor in outputs.items()}
    comparisons: list[Comparison] = []
    for method, opened in methods.items():
        run = opened()
        rows = {name: Comparison(output=name, method=method) for name in outputs}
        for case, reference in zip(cases, expected, strict=True):
            found = run(case)
            for name, tensor in outputs.items():
                where = meaningful(tensor, case, reference[name].shape)
                pair = _Pair(reference[name], found[name].astype(np.float32), where)
                _note_difference(rows[name], pair, case.name, scale=scales[name])
                if tensor.decides_along is not None:
                    _note_decisions(rows[name], pair, tensor.decides_along, tie=tolerance.resolution * scales[name])
            advance()
        comparisons.extend(rows.values())
    return comparisons


def reference_outputs(
    eager: Run, cases: Sequence[Case], folder: Path, *, advance: Callable[[], None]
) -> list[dict[str, Array]]:
    """Return the outputs of each case by eager torch.

    The arrays are files in `folder` that are mapped into memory: logits over a vocabulary would fill it.
    """
    expected = []
    for number, case in enumerate(cases):
        stored = {}
        for name, array in eager(case).items():
            path = folder / f"{number}.{name}.npy"
            np.save(path, array)
            stored[name] = np.load(path, mmap_mode="r")
        expected.append(stored)
        advance()
    return expected


def graph_outputs(outputs: Sequence[Tensor], layers: int) -> dict[str, Tensor]:
    """Return the names of a graph's outputs, each with the row of the task's table that it comes from."""
    return {name: tensor for tensor in outputs for name in tensor.names(layers)}


def eager_outputs(
    model: Any, inputs: Sequence[Tensor], outputs: Sequence[Tensor], feeds: Mapping[str, Array]
) -> dict[str, Array]:
    """Return what eager torch computes from a graph's `feeds`, by the names of the graph's outputs."""
    call = GraphCall(model, inputs, outputs).eval()
    with torch.inference_mode():
        found = call(*(torch.from_numpy(feeds[name]) for name in call.input_names))
    return {name: tensor.numpy() for name, tensor in zip(call.output_names, found, strict=True)}


def failed(comparisons: Iterable[Comparison], tolerance: Tolerance) -> list[Comparison]:
    """Return the comparisons that `tolerance` does not accept."""
    return [comparison for comparison in comparisons if not comparison.accepted(tolerance)]


class _Pair(NamedTuple):
    """An output of one case by eager torch and by a method, and a mask of the elements that are compared."""

    expected: Array
    found: Array
    where: NDArray[np.bool_]


def _note_difference(row: Comparison, pair: _Pair, case: str, *, scale: float) -> None:
    """Add a case to the row, whose difference is in units of `scale`."""
    expected, found = pair.expected[pair.where], pair.found[pair.where]
    finite = bool(np.isfinite(pair.found).all() and np.isfinite(expected).all())
    difference = float(np.abs(found - expected).max(initial=0.0)) / scale if finite else np.inf
    row.finite &= finite
    row.cases += 1
    if difference > row.difference:
        row.difference, row.worst_case = difference, case


def _note_decisions(row: Comparison, pair: _Pair, axis: int, *, tie: float) -> None:
    """Count equal argmaxes along `axis`; where the best two candidates are within `tie`, count a tie instead."""
    expected, found = (np.where(pair.where, values, -np.inf) for values in (pair.expected, pair.found))
    decided = pair.where.any(axis) & (_margin(expected, axis) > tie)
    row.ties += int(pair.where.any(axis).sum() - decided.sum())
    row.decisions += int(decided.sum())
    row.agreeing += int((expected.argmax(axis) == found.argmax(axis))[decided].sum())


def _margin(values: Array, axis: int) -> Array:
    """Return by how much the best candidate along `axis` is ahead of the next; infinity where there is no other."""
    if values.shape[axis] == 1:
        return np.full(values.shape[:axis] + values.shape[axis:][1:], np.inf)
    second, best = np.moveaxis(np.partition(values, (-2, -1), axis=axis), axis, 0)[-2:]
    with np.errstate(invalid="ignore"):  # -inf minus -inf in a row without candidates, which is not counted
        return np.asarray(best - second)


def _scale(
    name: str, tensor: Tensor, cases: Sequence[Case], expected: Sequence[Mapping[str, Array]], tolerance: Tolerance
) -> float:
    """Return the unit of an output's differences: 1, or the output's range over all cases.

    The range of a single case says little: where only one token is real, it may be one value near zero.
    """
    if not tolerance.relative_to_range:
        return 1.0
    arrays = (
        reference[name][meaningful(tensor, case, reference[name].shape)]
        for case, reference in zip(cases, expected, strict=True)
    )
    return max(TINY, *(float(np.abs(array).max(initial=0.0)) for array in arrays))


def meaningful(tensor: Tensor, case: Case, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return a mask of an output's `shape`: true at the elements that are compared in this case."""
    keep = case.mask.astype(bool)
    if not {MASKED_TOKENS, MASK_AXIS}.isdisjoint(tensor.axes):
        aligned = case.selected(keep, tensor.axes)
    elif tensor.per_token:
        sequence = next(index for index, axis in enumerate(tensor.axes) if axis in TOKEN_AXES)
        aligned = keep.reshape(*shape[: min(sequence, 1)], *(1,) * (sequence - 1), keep.shape[-1])
    else:
        aligned = keep.any(-1).reshape(shape[: len([axis for axis in tensor.axes if axis in {"batch", "choices"}])])
    return np.broadcast_to(aligned.reshape(*aligned.shape, *(1,) * (len(shape) - aligned.ndim)), shape)
