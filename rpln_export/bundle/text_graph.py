"""--with-tokenizer: a graph from texts to outputs in the bundle, and what is needed to run it."""

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


def text_graphs(
    plan: ExportPlan, tokenizer: BytePairs | None, models: Mapping[str, ir.Model], choice: Choice
) -> dict[str, ir.Model]:
    """The graph from texts by its file: that one of `models` which ONNX Runtime runs on the CPU, behind a tokenizer."""
    if tokenizer is None:
        return {}
    (graph,) = plan.graphs
    rewritten = choice.rewritten[graph.variant.name]
    path = next((row.path for row in rewritten if DEFAULT_PROVIDER in row.providers), graph.path)
    return {TEXT_GRAPH: text_graph(models[path], tokenizer, usable_length=plan.limits.usable_length)}


def describe_text_graph(folder: Path, models: Mapping[str, ir.Model]) -> None:
    """Write what runs the graph from texts beside it, where there is one."""
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
