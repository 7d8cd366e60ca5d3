"""The proof that a bundle's graphs equal eager torch, by every method that their precision allows."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx_ir as ir

from rpln_export.checkpoint.planned_graphs import PlannedGraph
from rpln_export.errors import ValidationError
from rpln_export.validation.comparison import (
    Comparison,
    Run,
    compare,
    distances,
    failed,
    graph_outputs,
    reference_outputs,
    sample_from_cases,
)
from rpln_export.validation.decoding import RunGraph, eager_run
from rpln_export.validation.drift import BlockDrift, StreamDrift, first_drift, stream_drift
from rpln_export.validation.graphs_under_test import GraphUnderTest
from rpln_export.validation.structure import Called, called_modules, folded_scales, structural_faults
from rpln_graphs.decoding import DecodingCase
from rpln_graphs.emulate import rounding_copy
from rpln_graphs.feeds import Feeds
from rpln_graphs.recipes import Recipe
from rpln_graphs.sessions import run_from_model
from rpln_graphs.stress import Case
from rpln_graphs.temporary import temporary_folder
from rpln_graphs.tolerances import Tolerance
from rpln_runtime.described import Described
from rpln_runtime.engines.providers import PROVIDERS, open_engine
from rpln_runtime.manifest import Graph, Manifest
from rpln_runtime.session import DEFAULT_PROVIDER, Session

RUNTIME: Final = "rpln_runtime"
"""The method that runs a graph as users do: in the runtime's session, on the CPU."""
ROUNDING: Final = "rounding copy"
"""The method that runs a copy of the graph which computes in fp32 and rounds after every operator, as a GPU would."""

NEAR: Final = 2.0
"""The factor by which rounding alone, such as that of folded weights, may make a difference exceed the tolerance."""

ADVICE_LOWER: Final = (
    "Run again with --precision fp32: if that passes, the precision is the reason. If not, please report it, with what "
    "rpln doctor shows."
)
ADVICE_FLOAT: Final = "Please report it, with the checkpoint's config.json and what rpln doctor shows."
"""What to do about a refused graph in fp32; ADVICE_LOWER says it for a graph in a lower precision."""

HEAD_DIFFERS: Final = "what differs is computed behind the last layer"
STEP_DIFFERS: Final = (
    "given all tokens at once, so that what differs is the cache, the positions in a step, or computed behind the last "
    "layer"
)
"""What differs where no block drifts: in a step over the cache. HEAD_DIFFERS says it for any other run of a graph."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProofRefusal:
    """The refusal of graphs that are not equal to eager torch.

    Attributes:
        message: what the user reads: the comparisons that failed, and where the graph begins to differ.
        reason: the comparisons that failed, in one line.
        provider: the provider whose form of the graphs is wrong; None where the standard form is wrong too.
        near: whether the difference is less than NEAR times the tolerance, so that rounding may be the reason.
    """

    message: str
    reason: str
    provider: str | None = None
    near: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseOutcome:
    """How one case of the stress set went, over all of its outputs and methods.

    Attributes:
        graphs: the variants that were run, joined by plus signs.
        name: the name of the case.
        mask: where its padding is, a row of MASK_KINDS.
        batch: the number of texts.
        length: the number of tokens of a text, padding included.
        share: the largest difference as a share of what the tolerance accepts.
        output: the output that has it.
        method: the method that has it.
    """

    graphs: str
    name: str
    mask: str
    batch: int
    length: int
    share: float
    output: str
    method: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphDrift:
    """How far the residual stream of a graph in standard operators is from eager torch in fp64, in one case.

    Attributes:
        path: the file of the graph.
        case: the name of the case, whose tokens are all given at once.
        blocks: what was measured behind each block. It ends where the graph computes only what its head reads.
    """

    path: str
    case: str
    blocks: Sequence[BlockDrift]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Proof(Described):
    """The outcome of a proof.

    Attributes:
        comparisons: every comparison that was made.
        notes: sentences about how they were made.
        refusal: why the graphs are refused; None where they are proven.
        cases: every case that was compared.
        drifts: the drift of the graphs, where it was asked for and they are proven.
    """

    comparisons: Sequence[Comparison]
    notes: Sequence[str]
    refusal: ProofRefusal | None = None
    cases: Sequence[CaseOutcome] = ()
    drifts: Sequence[GraphDrift] = ()

    def described(self) -> dict[str, str]:
        """Return the outcome in a few lines: what was compared, and the worst of it."""
        refusal = self.refusal
        facts = {"outcome": "accepted" if refusal is None else f"refused: {refusal.reason}"}
        if self.comparisons:
            decisions = sum(row.decisions for row in self.comparisons)
            agreeing = sum(row.agreeing for row in self.comparisons)
            worst = max(self.comparisons, key=lambda row: row.share)
            count = len(self.comparisons)
            facts |= {
                "compared": f"{count} comparison{'s' if count > 1 else ''} with eager torch, over "
                f"{max(row.cases for row in self.comparisons)} cases",
                "argmaxes": f"{agreeing:,} of {decisions:,} equal" if decisions else "none to compare",
                "difference": f"at most {max(row.difference for row in self.comparisons):.2e}",
                "worst": f"{worst.share:.1%} of what is accepted: {worst.output} by {worst.method}",
            }
        return facts

    def check(self) -> None:
        """Raise ValidationError where the graphs are refused."""
        if self.refusal is not None:
            raise ValidationError(self.refusal.message)


def prove(
    graphs_under_test: Sequence[GraphUnderTest],
    folder: Path,
    manifest: Manifest,
    *,
    recipe: Recipe,
    advance: Callable[[int, int], None],
    models: Mapping[str, ir.Model] | None = None,
    drifts: bool = False,
) -> Proof:
    """Compare the graphs of the bundle in `folder`, in every form that they have, with eager torch; return the outcome.

    First their structure is read back, then their outputs are compared. The proof ends with the first graphs that
    differ. `advance` is told how many comparisons are done, and of how many. `models` are graphs of the bundle that are
    in memory, by their paths; the structure of the others is read from their files. With `drifts`, the drift of proven
    graphs is measured block by block, for the report.
    """
    by_label = {
        run_config.label(name): (method, run_config)
        for run_config in run_configs_from_manifest(manifest)
        for name, method in METHODS.items()
        # The rounding copy of a quantized graph is what others are compared with.
        if recipe.computes_in in method.dtypes and not (recipe.quantizes and name == ROUNDING)
    }
    total = sum(len(under_test.cases) for under_test in graphs_under_test) * (1 + len(by_label))
    tick = _counter(advance, total)
    comparisons: list[Comparison] = []
    cases: list[CaseOutcome] = []
    refusal = _structural_refusal(graphs_under_test, folder, manifest, models or {})
    for under_test in () if refusal else graphs_under_test:
        found = _comparisons(under_test, folder, by_label, recipe, advance=tick)
        comparisons += _labelled(found, under_test, several=len(graphs_under_test) > 1)
        cases += _outcomes(found, under_test)
        if refused := failed(found, recipe.tolerance):
            refusal = _refusal(refused, under_test, folder, recipe, by_label)
            break
    return Proof(
        comparisons=comparisons,
        notes=(recipe.note,) if recipe.note else (),
        refusal=refusal,
        cases=cases,
        drifts=[
            _graph_drift(under_test, folder, models or {})
            for under_test in graphs_under_test
            if drifts and refusal is None
        ],
    )


def _outcomes(comparisons: Sequence[Comparison], under_test: GraphUnderTest) -> Iterator[CaseOutcome]:
    """Yield how each case went, by its worst comparison."""
    for case in under_test.cases:
        worst = max(comparisons, key=lambda row: row.shares[case.name])
        yield CaseOutcome(
            graphs=under_test.name,
            name=case.name,
            mask=case.mask_kind,
            batch=case.batch,
            length=case.length,
            share=worst.shares[case.name],
            output=worst.output,
            method=worst.method,
        )


def _graph_drift(under_test: GraphUnderTest, folder: Path, models: Mapping[str, ir.Model]) -> GraphDrift:
    """Return the drift of the last graph in the longest case that has padding, and of these in the smallest batch.

    Few tokens show the drift as well as many do, and fp64 takes its time.
    """
    padded = [case for case in under_test.cases if case.mask_kind != "none"]
    case = max(padded or under_test.cases, key=lambda case: (case.length, -case.batch))
    encoders = {planned.name: eager_run(planned) for planned in _encoders(under_test)}
    path = under_test.planned_graphs[-1].plan.path
    graph = models.get(path) or ir.load(folder / path)
    measured = _stream_drift(under_test, case, graph, encoders=encoders, exact=True)
    return GraphDrift(path=path, case=case.name, blocks=measured.blocks)


def _structural_refusal(
    graphs_under_test: Sequence[GraphUnderTest], folder: Path, manifest: Manifest, models: Mapping[str, ir.Model]
) -> ProofRefusal | None:
    """Return why the first graph with another structure than its network is refused; None if there is none."""
    graphs = {graph.variant: graph for graph in manifest.graphs}
    for under_test in graphs_under_test:
        for planned in under_test.planned_graphs:
            runs = {other.name: eager_run(other) for other in under_test.planned_graphs if other.is_encoder}
            called = called_modules(planned.call, under_test.full_feeds(under_test.cases[0], planned, runs))
            graph = graphs[planned.name]
            folded: Mapping[str, float] | None = None
            for path, providers in [(graph.path, ()), *((row.path, row.providers) for row in graph.rewritten)]:
                faults, folded = _read_back(models.get(path) or folder / path, called, folded)
                if faults:
                    return _structure_refused(path, faults, next(iter(providers), None))
    return None


def _read_back(
    source: ir.Model | Path, called: Called, folded: Mapping[str, float] | None
) -> tuple[list[str], Mapping[str, float]]:
    """Return the structural faults of a graph, and the folded scales, which it tells itself if `folded` is None.

    A graph that is read from its file is not in memory any more when this returns.
    """
    graph = ir.load(source) if isinstance(source, Path) else source
    scales = folded_scales(graph, called) if folded is None else folded
    return structural_faults(graph, called, folded=scales), scales


def _structure_refused(path: str, faults: Sequence[str], provider: str | None) -> ProofRefusal:
    reason = f"{path} is not the network that was loaded: {'; '.join(faults)}"
    return ProofRefusal(message=f"{reason}. It is refused.\n{ADVICE_FLOAT}", reason=reason, provider=provider)


def _comparisons(
    under_test: GraphUnderTest,
    folder: Path,
    by_label: "RunsByLabel",
    recipe: Recipe,
    *,
    advance: Callable[[], None],
) -> list[Comparison]:
    """Return the comparisons of the last graph's outputs with those of eager torch, for each way to run the graphs."""
    last = under_test.planned_graphs[-1]
    with temporary_folder() as stored:
        sample = sample_from_cases(under_test.cases) if recipe.tolerance.wants_exact else []
        expected = reference_outputs(under_test.eager, under_test.cases, stored, sample=sample, advance=advance)
        outputs = graph_outputs(last.compared, last.call.layers)
        compared = partial(compare, expected, outputs=outputs, cases=under_test.cases, tolerance=recipe.tolerance)
        if not recipe.quantizes:
            runners = {label: partial(_runner, under_test, folder, *how) for label, how in by_label.items()}
            return compared(methods=runners, advance=advance)
        rows: list[Comparison] = []
        for label, (method, run_config) in by_label.items():
            # The sessions of the copy are closed before those of the method are opened, for the sake of memory.
            rounding = distances(
                _runner(under_test, folder, METHODS[ROUNDING], run_config), expected, outputs, under_test.cases
            )
            runner = partial(_runner, under_test, folder, method, run_config)
            rows += compared(methods={label: runner}, rounding=rounding, advance=advance)
        return rows


def run_configs_from_manifest(manifest: Manifest) -> list["RunConfig"]:
    """Return how a bundle's graphs are run: the standard ones on the CPU, and each provider's own forms."""
    standard = RunConfig(manifest=manifest, provider=DEFAULT_PROVIDER, rewritten=False)
    chosen = {manifest.optimization.provider} if manifest.optimization else set()
    providers = {name for graph in manifest.graphs for row in graph.rewritten for name in row.providers}
    others = [RunConfig(manifest=manifest, provider=name, rewritten=True) for name in sorted(providers | chosen)]
    return [
        standard,
        *(run_config for run_config in others if run_config.provider != DEFAULT_PROVIDER or run_config.forms),
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """A way to run the graphs of a bundle.

    Attributes:
        manifest: the bundle's manifest.
        provider: the provider that the graphs are run for.
        rewritten: whether the graphs are run in the form that the provider runs; if not, in the standard form.
    """

    manifest: Manifest
    provider: str
    rewritten: bool

    @property
    def forms(self) -> list[str]:
        """The names of the forms that the provider runs, the standard one left out."""
        rows = [row for graph in self.manifest.graphs for row in graph.rewritten if self.provider in row.providers]
        return list(dict.fromkeys(row.form for row in rows)) if self.rewritten else []

    def label(self, method: str) -> str:
        """Return the name of a comparison by `method`, for example "rounding copy, fused for cuda"."""
        if not self.rewritten:
            return method
        return f"{method}, {' and '.join(self.forms) or 'standard'} for {self.provider}"

    def path(self, variant: str) -> str:
        """Return the path of a graph in the bundle."""
        graph = self.graph(variant)
        return graph.path_for(self.provider) if self.rewritten else graph.path

    def graph(self, variant: str) -> Graph:
        """Return the manifest's description of a graph."""
        return next(graph for graph in self.manifest.graphs if graph.variant == variant)


def _runner(under_test: GraphUnderTest, folder: Path, method: "Method", run_config: RunConfig) -> Run:
    """Return a function that runs the cases on the graphs that `method` opens."""
    return under_test.runner(
        {planned.name: method.open(folder, run_config, planned.name) for planned in under_test.planned_graphs}
    )


def _labelled(comparisons: Sequence[Comparison], under_test: GraphUnderTest, *, several: bool) -> list[Comparison]:
    """Return the comparisons. Where a bundle is proven in `several` parts, `method` also says which part it was."""
    return [replace(row, method=f"{row.method}, {under_test.name}") if several else row for row in comparisons]


def _open_runtime(folder: Path, run_config: RunConfig, variant: str) -> RunGraph:
    """Return a function that runs a graph in the runtime's session (RUNTIME)."""
    # A form for a GPU is run on the CPU, which has kernels for its operators too.
    provider = run_config.provider if PROVIDERS[run_config.provider].device == "cpu" else DEFAULT_PROVIDER
    graph = run_config.graph(variant)
    engine = open_engine(folder / run_config.path(variant), provider=provider)
    session = Session(run_config.manifest, graph, engine, provider=provider)
    dtypes = {spec.name: spec.dtype for spec in graph.inputs}
    return lambda feeds: session.run({name: array.astype(dtypes[name]) for name, array in feeds.items()})


def _open_rounding_copy(folder: Path, run_config: RunConfig, variant: str) -> RunGraph:
    """Return a function that runs the rounding copy of a graph (ROUNDING), operator by operator.

    The copy of a quantized graph in fp32 is the graph itself, which rounds where it says.
    """
    graph = ir.load(folder / run_config.path(variant))
    run = run_from_model(rounding_copy(graph))
    names = [value.name or "" for value in graph.graph.outputs]  # the copy's have other names
    return lambda feeds: dict(zip(names, run(_as_float32(feeds)).values(), strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A method of running a graph on this machine.

    Attributes:
        open: a function that takes a bundle's folder, a RunConfig and a variant, and returns what runs the graph.
        dtypes: the types of computation that the method is used for.
    """

    open: Callable[[Path, RunConfig, str], RunGraph]
    dtypes: frozenset[ir.DataType]


RunsByLabel = Mapping[str, tuple[Method, RunConfig]]
"""The ways in which the graphs of a bundle are run, by the labels of their comparisons."""

METHODS: Final = {
    # ONNX Runtime's CPU provider has no kernels for bf16. An fp32 graph rounds nothing and needs no rounding copy.
    RUNTIME: Method(open=_open_runtime, dtypes=frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16})),
    ROUNDING: Method(open=_open_rounding_copy, dtypes=frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16})),
}


def _counter(advance: Callable[[int, int], None], total: int) -> Callable[[], None]:
    """Return a function that tells `advance`, each time it is called, that one more of `total` is done."""
    numbers = itertools.count(1)
    return lambda: advance(next(numbers), total)


def _as_float32(feeds: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: array.astype(np.float32) if np.issubdtype(array.dtype, np.floating) else array
        for name, array in feeds.items()
    }


def _refusal(
    refused: Sequence[Comparison],
    under_test: GraphUnderTest,
    folder: Path,
    recipe: Recipe,
    by_label: RunsByLabel,
) -> ProofRefusal:
    """Return the refusal for comparisons that failed. A form alone is wrong if the standard graphs are right."""
    standard = [row for row in refused if not by_label[row.method][1].rewritten]
    if not standard:
        return ProofRefusal(
            message=_form_message(refused, recipe),
            reason=_reason(refused, recipe),
            provider=by_label[refused[0].method][1].provider,
        )
    return ProofRefusal(
        message=_message(standard, under_test, folder, recipe, by_label),
        reason=_reason(standard, recipe),
        near=not failed(standard, recipe.tolerance, times=NEAR),
    )


def _form_message(refused: Sequence[Comparison], recipe: Recipe) -> str:
    return "\n".join(
        [
            "the graph in standard operators is equal to eager torch, but another form of it is not and is refused.",
            *_rows(refused, recipe),
            "Run again with --optimize standard. Please report it, with what rpln doctor shows.",
        ]
    )


def _reason(refused: Sequence[Comparison], recipe: Recipe) -> str:
    return f"not equal to eager torch: {'; '.join(row.strip() for row in _rows(refused, recipe))}"


def _rows(refused: Sequence[Comparison], recipe: Recipe) -> list[str]:
    required = recipe.tolerance.argmax_agreement
    return [
        f"  {row.output} ({row.method}) {_difference(row, recipe.tolerance)}"
        + (f"; it differs most in the case {row.worst_case}" if row.worst_case else "")
        + ("" if row.finite else "; some of its values are not finite")
        + ("" if row.agreement is None else f"; {row.agreement:.2%} of its argmaxes are equal")
        + ("" if row.agreement is None or required is None else f", {required:.1%} are required")
        for row in refused
    ]


def _difference(row: Comparison, tolerance: Tolerance) -> str:
    """Return how far an output is from eager torch and, where that was measured, from fp64, as a clause."""
    unit = " of its range" if tolerance.relative_to_range else ""
    measured = ""
    if row.distance is not None and row.noise is not None:
        measured = f"; it is {row.distance.largest:.3g} from fp64, eager torch's own output {row.noise.largest:.3g}"
    return f"differs by {row.difference:.3g}{unit}{measured}: {row.share:.3g} times what is accepted"


def _message(
    refused: Sequence[Comparison],
    under_test: GraphUnderTest,
    folder: Path,
    recipe: Recipe,
    by_label: RunsByLabel,
) -> str:
    worst = max(refused, key=lambda row: row.share)
    case = next((case for case in under_test.cases if case.name == worst.worst_case), under_test.cases[0])
    method, run_config = by_label[worst.method]
    run = partial(method.open, folder, run_config)
    return "\n".join(
        [
            f"the {recipe.name} graph is not equal to eager torch and is refused.",
            *_rows(refused, recipe),
            f"  Accepted is {recipe.tolerance.in_words()}.",
            f"  {_drift(under_test, case, folder, recipe.tolerance, run=run)}.",
            ADVICE_LOWER if recipe.lowers else ADVICE_FLOAT,
        ]
    )


def _drift(
    under_test: GraphUnderTest, case: Case, folder: Path, tolerance: Tolerance, *, run: Callable[[str], RunGraph]
) -> str:
    """Return where the last graph begins to differ, when it is given all tokens of the case at once."""
    encoders = {planned.name: run(planned.name) for planned in _encoders(under_test)}
    graph = ir.load(folder / under_test.planned_graphs[-1].plan.path)
    drift = first_drift(
        _stream_drift(under_test, case, graph, encoders=encoders, exact=tolerance.wants_exact), tolerance
    )
    if drift.block is not None:
        return drift.words
    in_a_step = isinstance(case, DecodingCase) and case.rows is not None
    return f"{drift.words}: {STEP_DIFFERS if in_a_step else HEAD_DIFFERS}"


def _stream_drift(
    under_test: GraphUnderTest, case: Case, graph: ir.Model, *, encoders: Mapping[str, RunGraph], exact: bool
) -> StreamDrift:
    """Return how far the last graph is from eager torch, when it is given all tokens of the case at once.

    `graph` is that graph, and `encoders` run the encoder for the graph; for eager torch, eager torch runs it.
    """
    planned = under_test.planned_graphs[-1]

    def eager_feeds(*, exact: bool) -> Feeds:
        runs = {encoder.name: eager_run(encoder, exact=exact) for encoder in _encoders(under_test)}
        return under_test.full_feeds(case, planned, runs)

    return stream_drift(
        planned.call,
        graph,
        _as_float32(under_test.full_feeds(case, planned, encoders)),
        under_test.token_mask(case),
        eager_feeds=eager_feeds,
        exact=exact,
    )


def _encoders(under_test: GraphUnderTest) -> list[PlannedGraph]:
    """Return the encoder's graph, which runs before a decoder's; it is not there where it is itself under test."""
    *before, _ = under_test.planned_graphs
    return [planned for planned in before if planned.is_encoder]
