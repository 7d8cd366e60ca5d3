"""The graph from texts (--with-tokenizer): what a plan must be like to have one."""

from collections.abc import Sequence
from typing import Final

import onnx_ir as ir

from rpln_export.errors import PlanError
from rpln_export.extras import require_extra
from rpln_export.plan.graphs import GraphPlan
from rpln_graphs.recipes import Recipe
from rpln_graphs.text import TOKENS
from rpln_runtime.tasks import TASKS, Task

EXTRA: Final = "tokenizer-op"
"""The extra whose operators tokenize within a graph."""
TEXT_GRAPH: Final = "model.text.onnx"
"""The name of the graph from texts in a bundle."""

_INPUTS: Final = {*TOKENS, "token_type_ids"}
"""The inputs that a graph from texts can compute."""


def check_text_graph(task: Task, recipe: Recipe, graphs: Sequence[GraphPlan]) -> None:
    """Refuse a task, inputs or a precision that a graph from texts cannot have.

    Raises PlanError, and MissingExtraError without the operators' library.
    """
    require_extra(EXTRA)
    inputs = {tensor.name for graph in graphs for tensor in graph.inputs}
    if not task.single_texts:
        raise PlanError(
            f"--with-tokenizer makes a graph that takes single texts and nothing else, but {task.name} takes more. It "
            f"is offered for {', '.join(row.name for row in TASKS.values() if row.single_texts)}."
        )
    if more := inputs - _INPUTS:
        raise PlanError(
            f"--with-tokenizer computes all inputs from the text, but cannot compute {', '.join(sorted(more))}. Leave "
            "out --with-tokenizer, or export without these inputs."
        )
    if recipe.computes_in == ir.DataType.BFLOAT16:
        raise PlanError(
            "--with-tokenizer does not go with --bf16: its operators run on the CPU, where ONNX Runtime has no bf16 "
            "kernels, so that the graph could not be proven. Choose another precision."
        )
