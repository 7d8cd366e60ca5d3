"""An ONNX file to look at, and the bundle that it lies in, if it lies in one."""

from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from rpln_graphs.errors import GraphError
from rpln_runtime.manifest import MANIFEST_NAME, Graph, Manifest, read_manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphFile:
    """A graph that was read from a file.

    Attributes:
        path: the file.
        model: the graph.
        manifest: the manifest of the bundle that the file lies in; None where there is none.
        graph: the manifest's description of the graph; None where there is no manifest.
    """

    path: Path
    model: ir.Model
    manifest: Manifest | None = None
    graph: Graph | None = None


def open_graph(path: Path, *, variant: str | None = None) -> GraphFile:
    """Open the ONNX file `path`, or a graph of the bundle in the folder `path`: that of `variant`, or its first one.

    Raises ManifestError for a broken bundle, and GraphError for an unknown variant and for a file that is no graph.
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
    # A file that the manifest does not name is taken for the bundle's first graph in another form.
    graph = graphs.get(path.name, manifest.graphs[0])
    return GraphFile(path=path, model=model, manifest=manifest, graph=graph)


def _graph_from_variant(manifest: Manifest, variant: str | None) -> Graph:
    graphs = {graph.variant: graph for graph in manifest.graphs}
    if variant is None:
        return manifest.graphs[0]
    if variant not in graphs:
        raise GraphError(f"the bundle has no variant {variant!r}. Choose one of {', '.join(graphs)}.")
    return graphs[variant]


def _load(path: Path) -> ir.Model:
    try:
        return ir.load(path)
    except Exception as error:  # of protobuf, of the system, or of onnx_ir
        raise GraphError(f"{path} cannot be read as an ONNX graph ({error}). Name a bundle or a .onnx file.") from error
