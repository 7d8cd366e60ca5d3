"""An export's graphs, each with the torch module that it is traced from and compared with."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from rpln_export.errors import PlanError
from rpln_export.plan.export_plan import ExportPlan
from rpln_export.plan.graphs import GraphPlan
from rpln_graphs.calls import CACHED, GraphCall
from rpln_graphs.feeds import Feeds
from rpln_graphs.rewriting.traits import GraphTraits
from rpln_graphs.stages import EncoderStage
from rpln_runtime.tasks import BATCH, ENCODER_MASK, MASKED_LOGITS, PAST, Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedGraph:
    """A graph of the plan, together with the network in eager torch.

    Attributes:
        plan: the graph's variant, file, inputs and outputs.
        call: the network, called with the graph's inputs and returning the graph's outputs.
        traits: what the formulas of passes depend on.
    """

    plan: GraphPlan
    call: GraphCall
    traits: GraphTraits

    @property
    def name(self) -> str:
        """The name of the graph's variant."""
        return self.plan.variant.name

    @property
    def is_encoder(self) -> bool:
        """Whether the graph runs once, before a decoder's steps."""
        return self.plan.variant.standalone

    @property
    def own_inputs(self) -> tuple[Tensor, ...]:
        """The inputs that describe the graph's own tokens: they are neither cached nor made by the encoder's graph."""
        made = {*CACHED, ENCODER_MASK.name}
        return tuple(tensor for tensor in self.plan.inputs if tensor.name not in made)

    @property
    def compared(self) -> tuple[Tensor, ...]:
        """The outputs that are compared with eager torch. Keys and values are proven by the steps that read them."""
        return tuple(tensor for tensor in self.plan.outputs if tensor.name not in {"present", *CACHED})

    @property
    def mask_token_id(self) -> int | None:
        """The id of the mask tokens that the graph looks for; None where it looks for none."""
        return self.call.model.config.mask_token_id if MASKED_LOGITS in self.plan.outputs else None

    def empty_past(self, rows: int) -> Feeds:
        """Return the inputs of an empty cache for `rows` texts: keys and values of no token."""
        sizes = {BATCH: rows, PAST: 0}
        return {
            name: np.zeros(shape, dtype=np.float32)
            for tensor in self.plan.inputs
            if tensor.name == "past_key_values"
            for name, shape in self.call.shapes(tensor, sizes).items()
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedGraph:
    """A graph of the plan, and the ONNX model that it was traced into."""

    planned: PlannedGraph
    model: ir.Model


def planned_graphs_from_model(plan: ExportPlan, model: Any, *, mask_token_id: int | None = None) -> list[PlannedGraph]:
    """Return the plan's graphs, each with the part of `model` that it holds; `mask_token_id` is the tokenizer's.

    Raises PlanError where a graph is to look for mask tokens and there are none.
    """
    decoder = getattr(model, "decoder", model)
    if any(MASKED_LOGITS in graph.outputs for graph in plan.graphs):
        if mask_token_id is None:
            raise PlanError(
                "--logits masked looks for mask tokens, but the tokenizer has none. Name a tokenizer that has one with "
                "--tokenizer, or choose --logits positions."
            )
        decoder.config.mask_token_id = mask_token_id
    return [
        PlannedGraph(
            plan=graph,
            call=GraphCall(
                EncoderStage(model) if graph.variant.standalone else decoder, graph.inputs, graph.outputs
            ).eval(),
            traits=plan.traits_of(graph),
        )
        for graph in plan.graphs
    ]
