"""Eager fp32 torch against the saved graph, per output, over the stress set. Always on: differing fails an export."""

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
"""Makes the outputs of a case, by their names in the graph."""

TINY: Final = float(np.finfo(np.float32).tiny)


@dataclass(slots=True, kw_only=True)
class Comparison:
    """One output by one method over all cases. `difference` is the worst one, in the terms of the tolerance."""

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
        """The share of equal argmaxes; None where nothing is decided by this output."""
        return self.agreeing / self.decisions if self.decisions else None

    def accepted(self, tolerance: Tolerance) -> bool:
        """Whether all of it is within what the recipe tolerates."""
        wanted = tolerance.argmax_agreement
        agrees = wanted is None or self.agreement is None or self.agreement >= wanted
        return self.finite and self.difference <= tolerance.difference and agrees

    def to_json(self) -> dict[str, Any]:
        """The fields, and the agreement worked out."""
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
    """Open each method in turn, run it over `cases` and compare every output with `expected` where it means something.

    That is at real tokens for outputs that belong to tokens, and in every row that has a real token for the others,
    at position 0 even where that is padding, as transformers does. Rows that are all padding must be finite.
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
    """What eager torch makes of each case. The arrays lie in `folder`: a vocabulary's logits would fill the memory."""
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
    """The graph's outputs by name, each with the row of the task's table that it comes from."""
    return {name: tensor for tensor in outputs for name in tensor.names(layers)}


def eager_outputs(
    model: Any, inputs: Sequence[Tensor], outputs: Sequence[Tensor], feeds: Mapping[str, Array]
) -> dict[str, Array]:
    """What eager torch makes of a graph's `feeds`, by the names that the outputs have in the graph."""
    call = GraphCall(model, inputs, outputs).eval()
    with torch.inference_mode():
        found = call(*(torch.from_numpy(feeds[name]) for name in call.input_names))
    return {name: tensor.numpy() for name, tensor in zip(call.output_names, found, strict=True)}


def failed(comparisons: Iterable[Comparison], tolerance: Tolerance) -> list[Comparison]:
    """The comparisons that the tolerance does not accept."""
    return [comparison for comparison in comparisons if not comparison.accepted(tolerance)]


class _Pair(NamedTuple):
    """An output of one case by eager torch and by a method, and which elements of it mean something."""

    expected: Array
    found: Array
    where: NDArray[np.bool_]


def _note_difference(row: Comparison, pair: _Pair, case: str, *, scale: float) -> None:
    expected, found = pair.expected[pair.where], pair.found[pair.where]
    finite = bool(np.isfinite(pair.found).all() and np.isfinite(expected).all())
    difference = float(np.abs(found - expected).max(initial=0.0)) / scale if finite else np.inf
    row.finite &= finite
    row.cases += 1
    if difference > row.difference:
        row.difference, row.worst_case = difference, case


def _note_decisions(row: Comparison, pair: _Pair, axis: int, *, tie: float) -> None:
    """Count equal argmaxes along `axis`, apart from those between candidates that are within `tie` of each other."""
    expected, found = (np.where(pair.where, values, -np.inf) for values in (pair.expected, pair.found))
    decided = pair.where.any(axis) & (_margin(expected, axis) > tie)
    row.ties += int(pair.where.any(axis).sum() - decided.sum())
    row.decisions += int(decided.sum())
    row.agreeing += int((expected.argmax(axis) == found.argmax(axis))[decided].sum())


def _margin(values: Array, axis: int) -> Array:
    """By how much the best candidate along `axis` is ahead of the next; infinitely where there is no other."""
    if values.shape[axis] == 1:
        return np.full(values.shape[:axis] + values.shape[axis:][1:], np.inf)
    second, best = np.moveaxis(np.partition(values, (-2, -1), axis=axis), axis, 0)[-2:]
    with np.errstate(invalid="ignore"):  # a row without candidates: -inf minus -inf, not counted
        return np.asarray(best - second)


def _scale(
    name: str, tensor: Tensor, cases: Sequence[Case], expected: Sequence[Mapping[str, Array]], tolerance: Tolerance
) -> float:
    """What the differences of an output are measured in: 1, or the output's range over all cases.

    The range of one case says little: with a single real token it may be a single value near zero.
    """
    if not tolerance.relative_to_range:
        return 1.0
    arrays = (
        reference[name][meaningful(tensor, case, reference[name].shape)]
        for case, reference in zip(cases, expected, strict=True)
    )
    return max(TINY, *(float(np.abs(array).max(initial=0.0)) for array in arrays))


def meaningful(tensor: Tensor, case: Case, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Which elements of an output are compared, as a mask of its shape."""
    keep = case.mask.astype(bool)
    if not {MASKED_TOKENS, MASK_AXIS}.isdisjoint(tensor.axes):
        aligned = case.selected(keep, tensor.axes)
    elif tensor.per_token:
        sequence = next(index for index, axis in enumerate(tensor.axes) if axis in TOKEN_AXES)
        aligned = keep.reshape(*shape[: min(sequence, 1)], *(1,) * (sequence - 1), keep.shape[-1])
    else:
        aligned = keep.any(-1).reshape(shape[: len([axis for axis in tensor.axes if axis in {"batch", "choices"}])])
    return np.broadcast_to(aligned.reshape(*aligned.shape, *(1,) * (len(shape) - aligned.ndim)), shape)
