"""Sessions: one graph of a bundle on one provider, with numpy arrays in and numpy arrays out."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from rpln_runtime.described import Described
from rpln_runtime.engines.base import BindableEngine, Bundle, Engine
from rpln_runtime.engines.manifest import Profile
from rpln_runtime.engines.onnxruntime import OnnxRuntimeEngine
from rpln_runtime.engines.providers import open_engine
from rpln_runtime.errors import InputError, ManifestError, ProviderError
from rpln_runtime.inputs import check_feeds
from rpln_runtime.limits import MOST_THREADS
from rpln_runtime.manifest import Graph, Manifest, TensorSpec, read_manifest
from rpln_runtime.options import check_integer, path_from_value, plain
from rpln_runtime.outputs import check_outputs

DEFAULT_PROVIDER: Final = "cpu"
"""The provider of a bundle whose export measured none."""


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
    """Open a graph of a bundle, and return the session that runs it.

    Args:
        folder: the bundle.
        provider: a name in `rpln_runtime.engines.providers.PROVIDERS`, such as "cpu" or "cuda". None means the provider
            that the export measured to be the fastest, or "cpu" if it measured none.
        threads: the most threads that one operator uses. None means the number that was measured with the provider, or
            one for each core.
        spinning: whether idle threads wait in a busy loop, which answers sooner but keeps cores busy. None means
            the choice that was measured with the provider, or the provider's default.
        variant: the graph to open, such as "decode". None means the bundle's first graph.
        rewritten: whether to open the form of the graph that the bundle has for the provider, if there is one. False
            opens the graph in standard ONNX operators.
        verify: whether to compare the SHA-256 of every file of the bundle with the manifest first. Sizes are always
            compared.

    Raises ManifestError for a folder that is not a complete bundle of this version, ProviderError where the provider
    cannot run the graph, MissingExtraError where the provider's package is not installed, and InputError for a value of
    `threads` that is out of range.
    """
    path = path_from_value("folder", folder)
    return open_session(
        path,
        read_manifest(path, verify=verify),
        provider=provider,
        threads=threads,
        spinning=spinning,
        variant=variant,
        rewritten=rewritten,
        verify=verify,
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
    verify: bool = True,
) -> "Session":
    """Open a graph of the bundle in `folder`, which `manifest` describes. Other arguments and errors: see `load`.

    The files of the bundle are not compared with the manifest here; `verify` says whether a copy of the session is.
    """
    threads = plain(threads)
    if threads is not None:
        check_integer("threads", threads, minimum=1, maximum=MOST_THREADS)
    reopen = partial(
        load,
        folder.absolute(),
        provider=provider,
        threads=threads,
        spinning=spinning,
        variant=variant,
        rewritten=rewritten,
        verify=verify,
    )
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
    return Session(manifest, graph, engine, provider=provider, path=path, reopen=reopen)


def default_provider(manifest: Manifest) -> str:
    """Return the provider that the export measured to be the fastest, or DEFAULT_PROVIDER if it measured none."""
    return manifest.optimization.provider if manifest.optimization else DEFAULT_PROVIDER


class Reopenable(Described):
    """What is open from a folder. Pickling it keeps the call that opens it again."""

    def __init__(self, reopen: "Callable[[], Any] | None") -> None:
        """Let `reopen` be what pickle keeps; without it, this cannot be pickled."""
        self._reopen = reopen

    def __reduce__(self) -> "tuple[Callable[[], Any], tuple[()]]":
        """Return what pickle keeps. Raises TypeError for what was not opened from a folder."""
        if self._reopen is None:
            kind = type(self).__name__.lower()
            raise TypeError(
                f"this {kind} was not opened from a folder, so it cannot be pickled. Open it where it is used."
            )
        return self._reopen, ()


class Session(Reopenable):
    """A graph that is loaded and ready to run, which `load` returns. Threads may share it.

    Pickling it keeps the folder and the options alone: the copy, in this process or another, opens the bundle again.

    Attributes:
        manifest: the description of the bundle.
        graph: the description of the graph: names, dtypes and axes of its inputs and outputs.
        provider: the name of the provider that runs the graph.
        path: the ONNX file, relative to the folder of the bundle.
    """

    def __init__(
        self,
        manifest: Manifest,
        graph: Graph,
        engine: Engine,
        *,
        provider: str,
        path: str | None = None,
        reopen: "Callable[[], Session] | None" = None,
    ) -> None:
        """Wrap an engine that has loaded `graph` from the file `path`; None means the one for the provider.

        `reopen` opens the session again; without it, none can be pickled.
        """
        super().__init__(reopen)
        self.path = path or graph.path_for(provider)
        _check_signature(engine, graph, self.path)
        self.manifest = manifest
        self.graph = graph
        self.provider = provider
        self._engine = engine

    @property
    def onnx_session(self) -> Any:
        """The `onnxruntime.InferenceSession` that runs the graph.

        Raises ProviderError if the provider is not one of ONNX Runtime's.
        """
        if not isinstance(self._engine, OnnxRuntimeEngine):
            raise ProviderError(
                f"provider {self.provider!r} has no ONNX Runtime session: choose one of ONNX Runtime's, such as 'cpu'."
            )
        return self._engine.session

    def bindable_engine(self) -> BindableEngine:
        """Return the engine that runs the graph, to callers that bind its inputs and outputs to memory.

        Raises ProviderError if the provider cannot bind memory.
        """
        if not isinstance(self._engine, BindableEngine):
            raise ProviderError(
                f"provider {self.provider!r} cannot bind memory, which generating text needs. Choose provider='cpu'."
            )
        return self._engine

    @property
    def profiles(self) -> Sequence[Profile]:
        """The sizes that the engine was built for, of which one profile must fit.

        Empty if the engine takes every size that the graph takes.
        """
        return self._engine.profiles

    def run(self, feeds: Mapping[str, np.ndarray], *, outputs: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Run the graph and return its outputs by name.

        Args:
            feeds: an array for every input. Its dtype and axes are those in `graph.inputs`, and the sizes of axes are
                limited by `manifest.axes`.
            outputs: the names of the outputs to compute. None means all outputs.

        Raises InputError, before anything runs, for an array or a name that does not fit, and for token ids outside the
        vocabulary; ProviderError where the graph cannot run; and ManifestError for an output that is not as the
        manifest says.
        """
        check_feeds(feeds, self.graph, self.manifest)
        names = self._output_names(outputs)
        found = dict(zip(names, self._engine.run(feeds, names), strict=True))
        check_outputs(found, feeds, self.graph, self.manifest)
        return found

    def described(self) -> dict[str, str]:
        """Return what a person wants to know of the session first."""
        axes = {axis for spec in self.graph.inputs for axis in spec.shape if isinstance(axis, str)}
        limits = {name: axis for name, axis in self.manifest.axes.items() if name in axes}
        return {
            "task": self.manifest.task,
            "graph": f"{self.path}, variant {self.graph.variant}",
            "provider": self.provider,
            "precision": self.manifest.recipe,
            "inputs": ", ".join(map(_spec_in_words, self.graph.inputs)),
            "outputs": ", ".join(map(_spec_in_words, self.graph.outputs)),
            "limits": ", ".join(
                f"{name} from {axis.minimum}" + ("" if axis.maximum is None else f" to {axis.maximum}")
                for name, axis in limits.items()
            ),
        }

    def _output_names(self, outputs: Sequence[str] | None) -> Sequence[str]:
        known = [spec.name for spec in self.graph.outputs]
        for name in outputs or ():
            if name not in known:
                raise InputError(f"unknown output {name!r}: the graph gives {', '.join(known)}.")
        return known if outputs is None else outputs


def _spec_in_words(spec: TensorSpec) -> str:
    return f"{spec.name} {spec.dtype} {_shown(spec.shape)}"


def _graph_from_variant(manifest: Manifest, variant: str | None) -> Graph:
    if variant is None:
        return manifest.graphs[0]
    graphs = {graph.variant: graph for graph in manifest.graphs}
    if variant not in graphs:
        raise ManifestError(f"the bundle has no variant {variant!r}: expected one of {', '.join(graphs)}.")
    return graphs[variant]


def _check_signature(engine: Engine, graph: Graph, path: str) -> None:
    """Compare the names, dtypes and shapes in the file with those in the manifest, on which all later checks rely.

    An axis that the file leaves open is compared when the graph runs. Raises ManifestError if they differ.
    """
    for side, specs in (("inputs", graph.inputs), ("outputs", graph.outputs)):
        found = getattr(engine, side)
        expected = {spec.name: spec.dtype for spec in specs}
        if not expected.items() <= found.items() or (side == "inputs" and found != expected):
            raise ManifestError(
                f"{path} has the {side} {found}, the manifest says {expected}. Export the checkpoint again."
            )
    shapes = engine.shapes
    for spec in (*graph.inputs, *graph.outputs):
        sizes = shapes[spec.name]
        if sizes is not None and not _has_shape(spec.shape, sizes):
            raise ManifestError(
                f"{path} has {spec.name!r} of the shape {_shown(sizes)}, the manifest says {_shown(spec.shape)}. "
                "Export the checkpoint again."
            )


def _has_shape(stated: Sequence[str | int], found: Sequence[int | None]) -> bool:
    """Return whether a graph whose sizes are `found` may have the shape that the manifest has `stated`."""
    return len(stated) == len(found) and all(
        size is None or size == own for own, size in zip(stated, found, strict=True)
    )


def _shown(shape: Sequence[str | int | None]) -> str:
    return f"[{', '.join('?' if size is None else str(size) for size in shape)}]"
