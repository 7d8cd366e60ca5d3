"""A graph to be looked at: an ONNX file, with the bundle that says how it is fed, where there is one."""

from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from rpln_graphs.errors import GraphError
from rpln_runtime.manifest import MANIFEST_NAME, Graph, Manifest, read_manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphFile:
    """The graph in the file `path`; `manifest` is that of the bundle it lies in and `graph` its row there."""

    path: Path
    model: ir.Model
    manifest: Manifest | None = None
    graph: Graph | None = None


def open_graph(path: Path, *, variant: str | None = None) -> GraphFile:
    """Open the ONNX file `path`, or of the bundle in the folder `path` the graph of `variant` (None: its first).

    Raises ManifestError for a bundle that is incomplete or has no such variant, GraphError for what is no graph.
    """
    if path.suffix != ".onnx":
        manifest = read_manifest(path)
        graph = _graph_from_variant(manifest, variant)
        return GraphFile(path=path / graph.path, model=_load(path / graph.path), manifest=manifest, graph=graph)
    model = _load(path)
    if not (path.parent / MANIFEST_NAME).is_file():
        return GraphFile(path=path, model=model)
    manifest = read_manifest(path.parent, verify=False)
    forms = {form.path: graph for graph in manifest.graphs for form in graph.rewritten}
    graphs = {graph.path: graph for graph in manifest.graphs} | forms
    # A file that the manifest does not know is taken for another form of the bundle's first graph.
    graph = graphs.get(path.name, manifest.graphs[0])
    return GraphFile(path=path, model=model, manifest=manifest, graph=graph)


def _graph_from_variant(manifest: Manifest, variant: str | None) -> Graph:
    graphs = {graph.variant: graph for graph in manifest.graphs}
    if variant is None:
        return manifest.graphs[0]
    if variant not in graphs:
        raise GraphError(f"the bundle has no variant {variant!r}: expected one of {', '.join(graphs)}.")
    return graphs[variant]


def _load(path: Path) -> ir.Model:
    try:
        return ir.load(path)
    except Exception as error:  # protobuf's own, the system's, or that of a model without a graph
        raise GraphError(f"{path} cannot be read as an ONNX graph ({error}). Name a bundle or a .onnx file.") from error
