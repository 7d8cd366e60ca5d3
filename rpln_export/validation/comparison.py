"""The comparison of graphs as they were saved with eager torch, output by output. No export goes without it."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from rpln_export.validation.double_precision import in_float64
from rpln_graphs.calls import GraphCall
from rpln_graphs.stress import Case
from rpln_graphs.tolerances import Distance, Tolerance, Yardstick
from rpln_runtime.tasks import MASK_AXIS, MASKED_TOKENS, TOKEN_AXES, Tensor

Array = NDArray[Any]
Run = Callable[[Case], Mapping[str, Array]]
"""A function that returns the outputs of a case, by their names in the graph."""

TINY: Final = float(np.finfo(np.float32).tiny)
"""The smallest normal number of fp32, which takes the place of a range of zero where a range divides."""

BLOCK: Final = 2**20
"""The number of values that are compared at once, so that no copy of a large output is made."""


@dataclass(slots=True, kw_only=True)
class Reference:
    """The outputs of a case by eager torch, by their names.

    Attributes:
        values: the outputs in fp32.
        compute_exact: computes the outputs in fp64.
        exact: the outputs in fp64, once they are computed: at once for a sample of the cases, for others when in doubt.
    """

    values: Mapping[str, Array]
    compute_exact: Callable[[], Mapping[str, Array]]
    exact: Mapping[str, Array] | None = None


@dataclass(slots=True, kw_only=True)
class Comparison:
    """One output, computed by one method, compared with eager torch over all cases.

    Attributes:
        output: the name of the output in the graph.
        method: how the graph was run, for example "rpln_runtime" or "rounding copy".
        difference: the largest difference from eager torch: absolute in fp32, relative to the output's range in lower
            types.
        share: the largest difference of any case as a share of what the tolerance accepts; more than 1 is refused.
        worst_case: the name of the case with the largest share; empty where nothing differs.
        distance: how far the output is from fp64, in the worst cases of the sample; None in lower types.
        noise: how far eager torch's own output is from fp64.
        decisions: how many argmaxes were compared, ties not among them.
        agreeing: how many of these are equal.
        ties: how many argmaxes were left out, because the best two candidates are too close for the type to tell apart.
        cases: how many cases were compared.
        finite: whether all values are finite.
        shares: the share of each case, by its name.
    """

    output: str
    method: str
    difference: float = 0.0
    share: float = 0.0
    worst_case: str = ""
    distance: Distance | None = None
    noise: Distance | None = None
    decisions: int = 0
    agreeing: int = 0
    ties: int = 0
    cases: int = 0
    finite: bool = True
    shares: dict[str, float] = field(default_factory=dict)

    @property
    def agreement(self) -> float | None:
        """The share of equal argmaxes; None where no argmax was compared."""
        return self.agreeing / self.decisions if self.decisions else None

    def accepted(self, tolerance: Tolerance, *, times: float = 1.0) -> bool:
        """Return whether all values are finite and `tolerance` accepts the equal argmaxes and the difference.

        The difference may be so many `times` what the tolerance accepts.
        """
        wanted = tolerance.argmax_agreement
        agrees = wanted is None or self.agreement is None or self.agreement >= wanted
        return self.finite and self.share <= times and agrees

    def to_json(self) -> dict[str, Any]:
        """Return the fields and the agreement. The shares are left out: `Proof.cases` sums them up."""
        fields = asdict(self)
        del fields["shares"]
        return {**fields, "agreement": self.agreement}


def compare(
    expected: Sequence[Reference],
    methods: Mapping[str, Callable[[], Run]],
    outputs: Mapping[str, Tensor],
    cases: Sequence[Case],
    tolerance: Tolerance,
    *,
    rounding: Mapping[str, Distance] | None = None,
    advance: Callable[[], None],
) -> list[Comparison]:
    """Run every method over `cases`, one method after another, and compare each of `outputs` with `expected`.

    Outputs that belong to tokens are compared at real tokens. Other outputs are compared in every row that has a real
    token. These are computed from position 0, even where that is padding, as in transformers. All values must be
    finite, those of padding among them.

    In fp32, the cases of the sample are compared with fp64, and the others with eager torch, from which a graph may be
    as far as both of them are from fp64. A case that is further is in doubt, and is compared with fp64 as well.

    Args:
        expected: the outputs by eager torch, for each case.
        methods: for each method, a function that opens the graph and returns what runs it.
        outputs: the outputs by their names in the graph, each with the row of the task's table that it comes from.
        cases: the inputs.
        tolerance: says what is accepted, and which argmaxes are ties.
        rounding: how far rounding alone takes each output of a quantized graph from eager torch.
        advance: is called after each case of each method.
    """
    yardsticks = {name: _yardstick(name, tensor, cases, expected) for name, tensor in outputs.items()}
    for name, noise in (rounding or {}).items():
        yardsticks[name] = replace(yardsticks[name], noise=noise)
    comparisons: list[Comparison] = []
    for method, opened in methods.items():
        rows = {name: Comparison(output=name, method=method, noise=yardsticks[name].noise) for name in outputs}
        for case, reference, found in _found(opened(), cases, expected):
            for name, tensor in outputs.items():
                where = meaningful(tensor, case, reference.values[name].shape)
                pair = _Pair(name, reference, found[name].astype(np.float32, copy=False), where)
                _note_difference(rows[name], pair, case.name, tolerance, yardsticks[name])
                if tensor.decides_along is not None:
                    tie = tolerance.resolution * yardsticks[name].reach
                    _note_decisions(rows[name], pair, tensor.decides_along, tie=tie)
            advance()
        comparisons.extend(rows.values())
    return comparisons


def _found(
    run: Run, cases: Sequence[Case], expected: Sequence[Reference]
) -> Iterator[tuple[Case, Reference, Mapping[str, Array]]]:
    """Yield each case, its reference, and what `run` finds. Nothing else holds `run`: its graphs close at the end."""
    for case, reference in zip(cases, expected, strict=True):
        yield case, reference, run(case)


def distances(
    run: Run, expected: Sequence[Reference], outputs: Mapping[str, Tensor], cases: Sequence[Case]
) -> dict[str, Distance]:
    """Return how far `run` takes each of `outputs` from eager torch, in the worst of the cases."""
    found: dict[str, Distance] = {}
    for case, reference in zip(cases, expected, strict=True):
        arrays = run(case)
        for name, tensor in outputs.items():
            values = reference.values[name]
            distance = distance_between(arrays[name], values, meaningful(tensor, case, values.shape))
            found[name] = _larger(found.get(name), distance)
    return found


def reference_outputs(
    eager: Callable[..., Mapping[str, Array]],
    cases: Sequence[Case],
    folder: Path,
    *,
    sample: Sequence[Case] = (),
    advance: Callable[[], None],
) -> list[Reference]:
    """Return the outputs of each case by eager torch; those of the cases in `sample` in fp64, too.

    `eager` takes a case and the option `exact`. The arrays are files in `folder` that are mapped into memory: logits
    over a vocabulary would fill it.
    """

    def computed(case: Case, number: int, *, exact: bool) -> dict[str, Array]:
        paths = {}
        for name, array in eager(case, exact=exact).items():
            paths[name] = folder / f"{number}.{name}.{array.dtype}.npy"
            np.save(paths[name], array)
        return {name: np.load(path, mmap_mode="r") for name, path in paths.items()}

    names = {case.name for case in sample}
    expected = []
    for number, case in enumerate(cases):
        compute_exact = partial(computed, case, number, exact=True)
        exact = compute_exact() if case.name in names else None
        expected.append(Reference(values=computed(case, number, exact=False), compute_exact=compute_exact, exact=exact))
        advance()
    return expected


def sample_from_cases(cases: Sequence[Case]) -> list[Case]:
    """Return the cases that are computed in fp64 too: for each kind of mask, the one with the most tokens."""
    largest: dict[str, Case] = {}
    for case in cases:
        if case.mask_kind not in largest or case.tokens > largest[case.mask_kind].tokens:
            largest[case.mask_kind] = case
    return list(largest.values())


def graph_outputs(outputs: Sequence[Tensor], layers: int) -> dict[str, Tensor]:
    """Return the names of a graph's outputs, each with the row of the task's table that it comes from."""
    return {name: tensor for tensor in outputs for name in tensor.names(layers)}


def eager_outputs(
    model: Any,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    feeds: Mapping[str, Array],
    *,
    exact: bool = False,
) -> dict[str, Array]:
    """Return what eager torch computes from a graph's `feeds`, by the names of the graph's outputs.

    With `exact`, it computes in fp64 from the same weights and feeds.
    """
    call = GraphCall(model, inputs, outputs).eval()
    with torch.inference_mode(), in_float64(call) if exact else nullcontext():
        found = call(*torch_feeds(call, feeds, exact=exact))
    return {name: tensor.numpy() for name, tensor in zip(call.output_names, found, strict=True)}


def torch_feeds(call: GraphCall, feeds: Mapping[str, Array], *, exact: bool) -> list[torch.Tensor]:
    """Return the inputs of `call` in their order; with `exact`, float inputs are fp64."""
    tensors = (torch.from_numpy(feeds[name]) for name in call.input_names)
    return [tensor.double() if exact and tensor.is_floating_point() else tensor for tensor in tensors]


def failed(comparisons: Iterable[Comparison], tolerance: Tolerance, *, times: float = 1.0) -> list[Comparison]:
    """Return the comparisons that `tolerance` does not accept, not even `times` what it says."""
    return [comparison for comparison in comparisons if not comparison.accepted(tolerance, times=times)]


def distance_between(found: Array, expected: Array, where: NDArray[np.bool_] | None = None) -> Distance:
    """Return how far two arrays are from each other at the elements in `where`, in blocks of `BLOCK` values."""
    places = np.ones(found.shape, dtype=bool) if where is None else where
    total, largest = 0.0, 0.0
    for one, other, kept in zip(*map(_blocks, (found, expected, places)), strict=True):
        difference = np.abs(one[kept].astype(np.float64) - other[kept])
        total += float(np.square(difference).sum())
        largest = float(np.maximum(largest, difference.max(initial=0.0)))  # NaN remains NaN
    count = int(np.count_nonzero(places))
    return Distance(rms=float(np.sqrt(total / count)) if count else 0.0, largest=largest)


def _blocks(array: Array) -> Iterable[Array]:
    flat = array.reshape(-1)
    return (flat[start : start + BLOCK] for start in range(0, max(1, flat.size), BLOCK))


class _Pair(NamedTuple):
    """An output of one case by eager torch and by a method, and a mask of the elements that are compared."""

    name: str
    reference: Reference
    found: Array
    where: NDArray[np.bool_]

    @property
    def expected(self) -> Array:
        """The output by eager torch in fp32."""
        return self.reference.values[self.name]

    def to_exact(self) -> Distance:
        """Return how far the found output is from fp64."""
        return distance_between(self.found, self.exact(), self.where)

    def noise(self) -> Distance:
        """Return how far eager torch's output is from fp64."""
        return distance_between(self.expected, self.exact(), self.where)

    def exact(self) -> Array:
        """Return the output in fp64, which is computed where it is not known."""
        if self.reference.exact is None:
            self.reference.exact = self.reference.compute_exact()
        return self.reference.exact[self.name]


def _note_difference(row: Comparison, pair: _Pair, case: str, tolerance: Tolerance, yardstick: Yardstick) -> None:
    row.cases += 1
    if not (np.isfinite(pair.found).all() and np.isfinite(pair.expected[pair.where]).all()):
        row.finite, row.difference, row.share, row.worst_case = False, np.inf, np.inf, case
        row.shares[case] = np.inf
        return
    distance = distance_between(pair.found, pair.expected, pair.where)
    row.difference = max(row.difference, distance.largest / (yardstick.reach if tolerance.relative_to_range else 1.0))
    share = tolerance.share(distance, yardstick, exact=False)
    if tolerance.wants_exact and (pair.reference.exact is not None or share > 1.0):
        distance, noise = pair.to_exact(), _larger(yardstick.noise, pair.noise())
        row.distance, row.noise = _larger(row.distance, distance), _larger(row.noise, noise)
        share = tolerance.share(distance, replace(yardstick, noise=noise), exact=True)
    row.shares[case] = share
    if share > row.share:
        row.share, row.worst_case = share, case


def _larger(one: Distance | None, other: Distance) -> Distance:
    """Return the larger rms and the larger largest difference of two distances."""
    return Distance(rms=max(one.rms, other.rms), largest=max(one.largest, other.largest)) if one else other


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


def _yardstick(name: str, tensor: Tensor, cases: Sequence[Case], expected: Sequence[Reference]) -> Yardstick:
    """Return what an output's differences are measured with.

    The range is taken over all cases: a single one, in which only one token is real, may be one value near zero. The
    noise is the largest of any case in the sample.
    """
    reach, noise = TINY, None
    for case, reference in zip(cases, expected, strict=True):
        values = reference.values[name]
        where = meaningful(tensor, case, values.shape)
        reach = max(reach, float(np.abs(values[where]).max(initial=0.0)))
        if reference.exact is not None:
            noise = _larger(noise, distance_between(values, reference.exact[name], where))
    return Yardstick(reach=reach, noise=noise)


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
