"""This project's graphs, traced from a checkpoint and written in the forms of a precision, and their texts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import AutoTokenizer

from rpln_export.checkpoint.model import load_model
from rpln_export.checkpoint.planned_graphs import TracedGraph, planned_graphs_from_model
from rpln_export.plan.calibration import calibration_texts
from rpln_export.plan.defaults import DEFAULTS
from rpln_export.plan.export_plan import make_plan
from rpln_graphs.forms import Form, write_form
from rpln_graphs.recipes import RECIPES
from rpln_graphs.rewriting.base import Context
from rpln_graphs.save import save_graph
from rpln_graphs.trace import trace_model


def traced(task: str, checkpoint: Path, *, precision: str, logits: str | None = None) -> TracedGraph:
    """Return the graph of a checkpoint after the exact folds of a precision."""
    plan = make_plan(str(checkpoint), task=task, precision=precision, logits=logits)
    (planned,) = planned_graphs_from_model(plan, load_model(plan)[0])
    model = trace_model(
        planned.call.model, planned.plan.inputs, planned.plan.outputs, opset=plan.opset, trace=plan.trace
    )
    for fold in plan.folds:
        fold.configure(model, Context())(model)
    return TracedGraph(planned=planned, model=model)


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A graph whose forms are written to `folder`, each of them once; `context` has ranges and rounded weights."""

    graph: TracedGraph
    folder: Path
    context: Context

    def path(self, form: Form) -> Path:
        """Return the file of a form."""
        path = self.folder / f"{form.name}.onnx"
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            traits = self.graph.planned.traits
            save_graph(write_form(self.graph.model, form, traits, context=self.context), path)
        return path


def tokenizer_of(task: str) -> Any:
    """Return the tokenizer of the task's embedded checkpoint."""
    return AutoTokenizer.from_pretrained(DEFAULTS[task].folder)


def texts_of(task: str) -> list[NDArray[np.int64]]:
    """Return the built-in texts as the ids of the task's embedded checkpoint, each [1, S]."""
    tokenizer = tokenizer_of(task)
    return [np.array([tokenizer(text.text)["input_ids"]]) for text in calibration_texts(None, RECIPES["int8"])]
