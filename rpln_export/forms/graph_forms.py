"""A graph of an export in the forms that code asks for. Each form is written once and kept."""

from collections.abc import Mapping

import onnx_ir as ir

from rpln_export.checkpoint.planned_graphs import PlannedGraph, TracedGraph
from rpln_export.plan.export_plan import ExportPlan
from rpln_graphs.forms import Form, write_form
from rpln_graphs.rewriting.base import Context


class GraphForms:
    """A graph after the recipe's passes, and its forms.

    Attributes:
        planned: the graph of the plan.
        model: the graph as its own file (model.onnx and the like) holds it: in standard operators.
    """

    def __init__(
        self, rewritten: TracedGraph, plan: ExportPlan, *, contexts: Mapping[str, Context] | None = None
    ) -> None:
        """Make a graph without forms. `contexts` say what forms round and how, by the names of the forms."""
        self.planned: PlannedGraph = rewritten.planned
        self._base = rewritten.model
        self._allow_partial = plan.allow_partial
        self._contexts: Mapping[str, Context] = contexts or {}
        self._written: dict[str, ir.Model] = {}
        # A machine that compiles model.onnx reads this file and no other, so that it has the form that was asked for.
        self.model: ir.Model = self.written(plan.form if plan.target.compiled else plan.recipe.standard)

    def written(self, form: Form) -> ir.Model:
        """Return the graph in `form`. Raises PassError where a pass fuses less than its formula says."""
        if form.name not in self._written:
            self._written[form.name] = write_form(
                self._base,
                form,
                self.planned.traits,
                context=self._contexts.get(form.accurate_as or form.name),
                allow_partial=self._allow_partial,
            )
        return self._written[form.name]
