"""A session: one graph of a bundle on one execution provider, numpy arrays in, numpy arrays out."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from rpln_runtime.engines.base import BindableEngine, Bundle, Engine
from rpln_runtime.engines.manifest import Profile
from rpln_runtime.engines.onnxruntime import OnnxRuntimeEngine
from rpln_runtime.engines.providers import open_engine
from rpln_runtime.errors import InputError, ManifestError, ProviderError
from rpln_runtime.inputs import check_feeds
from rpln_runtime.manifest import Graph, Manifest, read_manifest
from rpln_runtime.options import check_integer

DEFAULT_PROVIDER: Final = "cpu"


def load(
    folder: str | Path,
    *,
    provider: str | None = None,
    threads: int | None = None,
    spinning: bool | None = None,
    variant: str | None = None,
    rewritten: bool = True,
    verify: bool = True,
) -> "Session":
    """Open the bundle in `folder`.

    `provider` is a name of `rpln_runtime.engines.providers.PROVIDERS` (None: the one that the export measured to be the
    fastest, "cpu" where it measured none), `threads` how many threads one operator may use (None: what was measured,
    else as many as there are cores), `spinning` whether idle threads wait busily (None: what was measured), `variant`
    the graph to run (None: the bundle's first). `rewritten` False asks for the graph in standard operators even where
    the bundle has a form of it for the provider; `verify` hashes every file of the bundle first.

    Raises ManifestError for an incomplete, altered or foreign bundle, ProviderError when another provider than
    `provider` would run, MissingExtraError without its package, InputError for an argument out of range.
    """
    if threads is not None:
        check_integer("threads", threads, minimum=1)
    folder = Path(folder)
    return open_session(
        folder,
        read_manifest(folder, verify=verify),
        provider=provider,
        threads=threads,
        spinning=spinning,
        variant=variant,
        rewritten=rewritten,
    )


def open_session(
    folder: Path,
    manifest: Manifest,
    *,
    provider: str | None = None,
    threads: int | None = None,
    spinning: bool | None = None,
    variant: str | None = None,
    rewritten: bool = True,
) -> "Session":
    """Open the bundle in `folder` that `manifest` describes; arguments and errors are those of `load`."""
    graph = _graph_from_variant(manifest, variant)
    measured = manifest.optimization
    provider = provider or default_provider(manifest)
    if measured and provider == measured.provider:
        threads = measured.threads if threads is None else threads
        spinning = measured.spinning if spinning is None else spinning
    if provider == "cpu" and manifest.precision == "bfloat16":
        raise ProviderError(
            f"{folder} computes in bf16, for which ONNX Runtime's CPU provider has no kernels. Choose provider='cuda' "
            "on a machine with a GPU, or export the checkpoint in fp32."
        )
    path = graph.path_for(provider) if rewritten else graph.path
    bundle = Bundle(folder, manifest, graph)
    engine = open_engine(folder / path, provider=provider, threads=threads, spinning=spinning, bundle=bundle)
    return Session(manifest, graph, engine, provider=provider)


def default_provider(manifest: Manifest) -> str:
    """What runs a bundle where its caller names nothing: the one that was measured to be fastest, else the CPU."""
    return manifest.optimization.provider if manifest.optimization else DEFAULT_PROVIDER


class Session:
    """A loaded graph. Threads may share it.

    Attributes:
        manifest: what the bundle says of itself.
        graph: the graph that runs, with the names, dtypes and axes of its inputs and outputs.
        provider: the provider it runs on, as it was asked for.
    """

    def __init__(self, manifest: Manifest, graph: Graph, engine: Engine, *, provider: str) -> None:
        _check_signature(engine, graph, graph.path_for(provider))
        self.manifest = manifest
        self.graph = graph
        self.provider = provider
        self._engine = engine

    @property
    def onnx_session(self) -> Any:
        """ONNX Runtime's own session. Raises ProviderError where another runtime runs."""
        if not isinstance(self._engine, OnnxRuntimeEngine):
            raise ProviderError(f"provider {self.provider!r} is not ONNX Runtime's: there is no session of it.")
        return self._engine.session

    def bindable_engine(self) -> BindableEngine:
        """What runs the graph, for callers that bind memory of it. Raises ProviderError where nothing can be bound."""
        if not isinstance(self._engine, BindableEngine):
            raise ProviderError(
                f"provider {self.provider!r} has no memory to bind, which generating text needs. Choose provider='cpu'."
            )
        return self._engine

    @property
    def profiles(self) -> Sequence[Profile]:
        """The sizes that it takes, of which one row must fit; empty where it takes all that the graph does."""
        return self._engine.profiles

    def run(self, feeds: Mapping[str, np.ndarray], *, outputs: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Run the graph on `feeds`, an array for every input, and return the named `outputs` (None: all of them).

        Dtypes, axes and their ranges are those of `graph.inputs` and `manifest.axes`; ids must lie in the vocabulary.
        Raises InputError for anything else, before the graph runs.
        """
        check_feeds(feeds, self.graph, self.manifest)
        names = self._output_names(outputs)
        return dict(zip(names, self._engine.run(feeds, names), strict=True))

    def _output_names(self, outputs: Sequence[str] | None) -> Sequence[str]:
        known = [spec.name for spec in self.graph.outputs]
        for name in outputs or ():
            if name not in known:
                raise InputError(f"unknown output {name!r}: the graph gives {', '.join(known)}.")
        return known if outputs is None else outputs


def _graph_from_variant(manifest: Manifest, variant: str | None) -> Graph:
    if variant is None:
        return manifest.graphs[0]
    graphs = {graph.variant: graph for graph in manifest.graphs}
    if variant not in graphs:
        raise ManifestError(f"the bundle has no variant {variant!r}: expected one of {', '.join(graphs)}.")
    return graphs[variant]


def _check_signature(engine: Engine, graph: Graph, path: str) -> None:
    """Compare names and dtypes in the file with the manifest's: all that runs later relies on the manifest."""
    for side, specs in (("inputs", graph.inputs), ("outputs", graph.outputs)):
        found = getattr(engine, side)
        expected = {spec.name: spec.dtype for spec in specs}
        if not expected.items() <= found.items() or (side == "inputs" and found != expected):
            raise ManifestError(
                f"{path} has the {side} {found}, the manifest says {expected}. Export the checkpoint again."
            )
