"""A session: one graph of a bundle on one execution provider, numpy arrays in, numpy arrays out."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from rpln_runtime.errors import InputError, ManifestError, ProviderError
from rpln_runtime.inputs import check_feeds
from rpln_runtime.manifest import Graph, Manifest, read_manifest
from rpln_runtime.options import check_integer
from rpln_runtime.providers import PROVIDERS, inference_session

_ONNXRUNTIME_TYPES: Final = {
    "float32": "tensor(float)",
    "float16": "tensor(float16)",
    "bfloat16": "tensor(bfloat16)",
    "int64": "tensor(int64)",
}


def load(
    folder: str | Path,
    *,
    provider: str = "cpu",
    threads: int | None = None,
    variant: str | None = None,
    verify: bool = True,
) -> "Session":
    """Open the bundle in `folder`.

    `provider` is a name of `rpln_runtime.providers.PROVIDERS`, `threads` how many threads one operator may use (None:
    as many as there are cores), `variant` the graph to run (None: the bundle's first); `verify` hashes
    every file of the bundle first.

    Raises ManifestError for an incomplete, altered or foreign bundle, ProviderError when another provider than
    `provider` would run, MissingExtraError without onnxruntime, InputError for an argument out of range.
    """
    if threads is not None:
        check_integer("threads", threads, minimum=1)
    folder = Path(folder)
    manifest = read_manifest(folder, verify=verify)
    graph = _graph_from_variant(manifest, variant)
    if provider == "cpu" and manifest.precision == "bfloat16":
        raise ProviderError(
            f"{folder} computes in bf16, for which ONNX Runtime's CPU provider has no kernels. Choose provider='cuda' "
            "on a machine with a GPU, or export the checkpoint in fp32."
        )
    onnx_session = inference_session(folder / graph.path, provider=provider, threads=threads)
    _check_signature(onnx_session, graph, folder)
    return Session(manifest, graph, onnx_session, provider=provider)


class Session:
    """A loaded graph. Threads may share it.

    Attributes:
        manifest: what the bundle says of itself.
        graph: the graph that runs, with the names, dtypes and axes of its inputs and outputs.
        provider: the provider it runs on, as it was asked for.
        onnx_session: onnxruntime's own session, for callers that bind memory of theirs.
    """

    def __init__(self, manifest: Manifest, graph: Graph, onnx_session: Any, *, provider: str) -> None:
        self.manifest = manifest
        self.graph = graph
        self.provider = provider
        self.onnx_session = onnx_session

    @property
    def device(self) -> str:
        """The device that its tensors are on, as onnxruntime calls it."""
        return PROVIDERS[self.provider].device

    def run(self, feeds: Mapping[str, np.ndarray], *, outputs: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Run the graph on `feeds`, an array for every input, and return the named `outputs` (None: all of them).

        Dtypes, axes and their ranges are those of `graph.inputs` and `manifest.axes`; ids must lie in the vocabulary.
        Raises InputError for anything else, before the graph runs.
        """
        check_feeds(feeds, self.graph, self.manifest)
        names = self._output_names(outputs)
        binding = self.onnx_session.io_binding()
        for name, array in feeds.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(array))
        for name in names:
            # Into memory of onnxruntime's pool, which the arrays then share: fresh memory of numpy's own is slower.
            binding.bind_output(name, "cpu")
        self.onnx_session.run_with_iobinding(binding)
        return {name: value.numpy() for name, value in zip(names, binding.get_outputs(), strict=True)}

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


def _check_signature(onnx_session: Any, graph: Graph, folder: Path) -> None:
    """Compare names and dtypes in the file with the manifest's: all that runs later relies on the manifest."""
    for side, specs in (("inputs", graph.inputs), ("outputs", graph.outputs)):
        found = {node.name: node.type for node in getattr(onnx_session, f"get_{side}")()}
        expected = {spec.name: _ONNXRUNTIME_TYPES.get(spec.dtype, spec.dtype) for spec in specs}
        if found != expected:
            raise ManifestError(
                f"{folder / graph.path} has the {side} {found}, the manifest says {expected}. "
                "Export the checkpoint again."
            )
