"""Proves a bundle's graphs equal to eager torch, by every method that their precision allows, or says where not."""

import itertools
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx_ir as ir

from rpln_export.errors import ValidationError
from rpln_export.validation.comparison import Comparison, Run, compare, failed, graph_outputs, reference_outputs
from rpln_export.validation.decoding import RunGraph, eager_run
from rpln_export.validation.drift import first_drift
from rpln_export.validation.graphs_under_test import GraphUnderTest
from rpln_graphs.decoding import DecodingCase
from rpln_graphs.emulate import rounding_copy
from rpln_graphs.recipes import Recipe
from rpln_graphs.sessions import session_from_model
from rpln_graphs.stress import Case
from rpln_runtime.engines.providers import PROVIDERS, open_engine
from rpln_runtime.manifest import Graph, Manifest
from rpln_runtime.session import DEFAULT_PROVIDER, Session

RUNTIME: Final = "rpln_runtime"
ROUNDING: Final = "rounding copy"

NEAR: Final = 2.0
"""By which factor rounding alone may pass the tolerance: that of weights into which others were folded, for one."""

ADVICE_LOWER: Final = "Export in fp32 to tell whether precision is the reason; if not, please report it (rpln doctor)."
ADVICE_FLOAT: Final = "Please report it, with the checkpoint's config.json (rpln doctor)."

AGREES: Final = {
    False: "the residual stream agrees behind every layer: the final LayerNorm or the head differs",
    True: "given all tokens at once, the residual stream agrees behind every layer: what differs is the cache, the "
    "positions in a step, the final LayerNorm or the head",
}
"""What is left where no block drifts, in a graph's first run and in a step over its cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why graphs are not taken for equal to eager torch.

    Attributes:
        message: what the user is told, the layer that drifts among it.
        reason: the comparisons that failed, in one line.
        provider: what runs the graphs that are wrong, where the graphs in standard operators are right; else None.
        near: whether the difference is so little above the tolerance that rounding may be why.
    """

    message: str
    reason: str
    provider: str | None = None
    near: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """All comparisons that were made, what must be said about how they were made, and what they refuse, if anything."""

    comparisons: Sequence[Comparison]
    notes: Sequence[str]
    refusal: Refusal | None = None

    def check(self) -> None:
        """Raise ValidationError where something is refused."""
        if self.refusal is not None:
            raise ValidationError(self.refusal.message)


def prove(
    graphs_under_test: Sequence[GraphUnderTest],
    folder: Path,
    manifest: Manifest,
    *,
    recipe: Recipe,
    advance: Callable[[int, int], None],
) -> Proof:
    """Compare the graphs of the bundle in `folder`, in each form that it has, with eager torch.

    The first graphs that differ are refused, and no others are looked at then.
    """
    run_configs = {
        run_config.label(name): (method, run_config)
        for run_config in run_configs_from_manifest(manifest)
        for name, method in METHODS.items()
        if recipe.computes_in in method.dtypes
    }
    total = sum(len(under_test.cases) for under_test in graphs_under_test) * (1 + len(run_configs))
    tick = _counter(advance, total)
    comparisons: list[Comparison] = []
    refusal: Refusal | None = None
    for under_test in graphs_under_test:
        found = _comparisons(under_test, folder, run_configs, recipe, advance=tick)
        comparisons += _labelled(found, under_test, several=len(graphs_under_test) > 1)
        if refused := failed(found, recipe.tolerance):
            refusal = _refusal(refused, under_test, folder, recipe, run_configs)
            break
    return Proof(comparisons=comparisons, notes=(recipe.note,) if recipe.note else (), refusal=refusal)


def _comparisons(
    under_test: GraphUnderTest,
    folder: Path,
    run_configs: Mapping[str, tuple["Method", "RunConfig"]],
    recipe: Recipe,
    *,
    advance: Callable[[], None],
) -> list[Comparison]:
    """Compare the outputs of the last graph with eager torch's, by each method and form."""
    last = under_test.planned_graphs[-1]
    with tempfile.TemporaryDirectory() as stored:
        expected = reference_outputs(under_test.eager, under_test.cases, Path(stored), advance=advance)
        return compare(
            expected,
            {label: partial(_runner, under_test, folder, *way) for label, way in run_configs.items()},
            graph_outputs(last.compared, last.call.layers),
            under_test.cases,
            recipe.tolerance,
            advance=advance,
        )


def run_configs_from_manifest(manifest: Manifest) -> list["RunConfig"]:
    """The standard graphs on the CPU, and whatever else the bundle may run on some provider."""
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
    """How the graphs of a bundle are run: on a provider, in the form that it runs or in the standard one."""

    manifest: Manifest
    provider: str
    rewritten: bool

    @property
    def forms(self) -> list[str]:
        """The forms that the provider runs, but for the standard one."""
        rows = [row for graph in self.manifest.graphs for row in graph.rewritten if self.provider in row.providers]
        return list(dict.fromkeys(row.form for row in rows)) if self.rewritten else []

    def label(self, method: str) -> str:
        """What a comparison by `method` is called."""
        if not self.rewritten:
            return method
        return f"{method}, {' and '.join(self.forms) or 'standard'} for {self.provider}"

    def path(self, variant: str) -> str:
        """The file of a graph."""
        graph = self.graph(variant)
        return graph.path_for(self.provider) if self.rewritten else graph.path

    def graph(self, variant: str) -> Graph:
        """The manifest's word on a graph."""
        return next(graph for graph in self.manifest.graphs if graph.variant == variant)


def _runner(under_test: GraphUnderTest, folder: Path, method: "Method", run_config: RunConfig) -> Run:
    return under_test.runner(
        {planned.name: method.open(folder, run_config, planned.name) for planned in under_test.planned_graphs}
    )


def _labelled(comparisons: Sequence[Comparison], under_test: GraphUnderTest, *, several: bool) -> list[Comparison]:
    """Comparisons that say which graphs they are of, where a bundle is proven in more than one way."""
    return [replace(row, method=f"{row.method}, {under_test.name}") if several else row for row in comparisons]


def _open_runtime(folder: Path, run_config: RunConfig, variant: str) -> RunGraph:
    # Whatever is written for a GPU has kernels for the CPU, too.
    provider = run_config.provider if PROVIDERS[run_config.provider].device == "cpu" else DEFAULT_PROVIDER
    graph = run_config.graph(variant)
    engine = open_engine(folder / run_config.path(variant), provider=provider)
    session = Session(run_config.manifest, graph, engine, provider=provider)
    dtypes = {spec.name: spec.dtype for spec in graph.inputs}
    return lambda feeds: session.run({name: array.astype(dtypes[name]) for name, array in feeds.items()})


def _open_rounding_copy(folder: Path, run_config: RunConfig, variant: str) -> RunGraph:
    graph = ir.load(folder / run_config.path(variant))
    with tempfile.TemporaryDirectory() as copies:
        session = session_from_model(rounding_copy(graph), Path(copies))
    names = [value.name or "" for value in graph.graph.outputs]
    return lambda feeds: dict(zip(names, session.run(None, _as_float32(feeds)), strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A way to run a graph here, and the types that it tells something about."""

    open: Callable[[Path, RunConfig, str], RunGraph]
    dtypes: frozenset[ir.DataType]


METHODS: Final = {
    # ONNX Runtime's CPU provider has no kernels for bf16; what does not round needs no rounding copy.
    RUNTIME: Method(open=_open_runtime, dtypes=frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16})),
    ROUNDING: Method(open=_open_rounding_copy, dtypes=frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16})),
}


def _counter(advance: Callable[[int, int], None], total: int) -> Callable[[], None]:
    """A function that tells `advance` of one more done each time it is called."""
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
    run_configs: Mapping[str, tuple[Method, RunConfig]],
) -> Refusal:
    """Return why the `refused` comparisons are not accepted: a form is to blame where the standard graphs are right."""
    standard = [row for row in refused if not run_configs[row.method][1].rewritten]
    if not standard:
        return Refusal(
            message=_form_message(refused, recipe),
            reason=_reason(refused, recipe),
            provider=run_configs[refused[0].method][1].provider,
        )
    nearly = replace(recipe.tolerance, difference=NEAR * recipe.tolerance.difference)
    return Refusal(
        message=_message(standard, under_test, folder, recipe, run_configs),
        reason=_reason(standard, recipe),
        near=not failed(standard, nearly),
    )


def _form_message(refused: Sequence[Comparison], recipe: Recipe) -> str:
    return "\n".join(
        [
            "the graph in standard operators is equal to eager torch, another form of it is not and is refused.",
            *_rows(refused, recipe),
            "Export with --optimize standard, and please report it (rpln doctor).",
        ]
    )


def _reason(refused: Sequence[Comparison], recipe: Recipe) -> str:
    return f"not equal to eager torch: {'; '.join(row.strip() for row in _rows(refused, recipe))}"


def _rows(refused: Sequence[Comparison], recipe: Recipe) -> list[str]:
    return [
        f"  {row.output} ({row.method}): difference {row.difference:.3g}, {recipe.tolerance.difference} accepted"
        f"{'' if row.finite else ', not finite'}, {row.worst_case or 'no case'}"
        + ("" if row.agreement is None else f"; argmax agreement {row.agreement:.2%}")
        for row in refused
    ]


def _message(
    refused: Sequence[Comparison],
    under_test: GraphUnderTest,
    folder: Path,
    recipe: Recipe,
    run_configs: Mapping[str, tuple[Method, RunConfig]],
) -> str:
    tolerance = recipe.tolerance
    worst = max(refused, key=lambda row: row.difference if row.finite else float("inf"))
    case = next((case for case in under_test.cases if case.name == worst.worst_case), under_test.cases[0])
    method, run_config = run_configs[worst.method]
    run = partial(method.open, folder, run_config)
    return "\n".join(
        [
            f"the {recipe.name} graph is not equal to eager torch and is refused.",
            *_rows(refused, recipe),
            f"  {_drift(under_test, case, folder, tolerance.difference, run=run)}.",
            ADVICE_LOWER if recipe.lowers else ADVICE_FLOAT,
        ]
    )


def _drift(
    under_test: GraphUnderTest, case: Case, folder: Path, difference: float, *, run: Callable[[str], RunGraph]
) -> str:
    """Where the last of the subject's graphs begins to differ, all tokens of the case given at once."""
    *before, planned = under_test.planned_graphs
    encoders = [earlier for earlier in before if earlier.is_encoder]
    runs = {encoder.name: run(encoder.name) for encoder in encoders}
    drift = first_drift(
        planned.call,
        ir.load(folder / planned.plan.path),
        _as_float32(under_test.full_feeds(case, planned, runs)),
        under_test.token_mask(case),
        eager_feeds=under_test.full_feeds(case, planned, {encoder.name: eager_run(encoder) for encoder in encoders}),
        difference=difference,
    )
    return drift or AGREES[isinstance(case, DecodingCase) and case.rows is not None]
