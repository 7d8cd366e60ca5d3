"""--with-tokenizer: the bundle's graph from texts to outputs, and the file that says how to run it."""

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Final

import onnx_ir as ir

from rpln_export.extras import EXTRAS
from rpln_export.forms.choice import Choice
from rpln_export.plan.export_plan import ExportPlan
from rpln_export.plan.text_graph import EXTRA, TEXT_GRAPH
from rpln_graphs.text import DOMAIN, BytePairs, text_graph
from rpln_runtime.session import DEFAULT_PROVIDER

DESCRIPTION: Final = "model.text.json"
"""The file that names the inputs and outputs of the graph from texts, and the library of its operators."""


def text_graphs(
    plan: ExportPlan, tokenizer: BytePairs | None, models: Mapping[str, ir.Model], choice: Choice, *, longest_text: int
) -> dict[str, ir.Model]:
    """Return the graph from texts, by its file; nothing without a `tokenizer`.

    It is the one of `models` that ONNX Runtime runs on the CPU, with the tokenizer in front. It cuts texts to
    `longest_text` tokens.
    """
    if tokenizer is None:
        return {}
    (graph,) = plan.graphs
    rewritten = choice.rewritten[graph.variant.name]
    path = next((row.path for row in rewritten if DEFAULT_PROVIDER in row.providers), graph.path)
    return {TEXT_GRAPH: text_graph(models[path], tokenizer, longest_text=longest_text)}


def write_text_graph_description(folder: Path, models: Mapping[str, ir.Model]) -> None:
    """Write DESCRIPTION to `folder` if `models` hold the graph from texts."""
    if TEXT_GRAPH not in models:
        return
    library = EXTRAS[EXTRA].distribution
    graph = models[TEXT_GRAPH].graph
    document = {
        "graph": TEXT_GRAPH,
        "operators": {"domain": DOMAIN, "library": library, "version": version(library)},
        "inputs": [value.name for value in graph.inputs],
        "outputs": [value.name for value in graph.outputs],
    }
    (folder / DESCRIPTION).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
