"""Comparison of a pass's count with its formula: if places are missing, the message names the refused nodes and why."""

import onnx_ir as ir

from rpln_graphs.errors import PassError
from rpln_graphs.rewriting.base import CountingPass, counts_from_model, refusals_from_model
from rpln_graphs.rewriting.traits import GraphTraits

MOST_NAMED = 3
"""The most refusals that a message names: a dozen layers are usually refused for one reason."""


def check_count(model: ir.Model, applied: CountingPass, traits: GraphTraits) -> None:
    """Compare the count of the pass just `applied` to `model` with its formula. Raises PassError if it does not fit."""
    if (shortage := shortage_from_model(model, applied, traits)) is not None:
        raise PassError(shortage)


def shortage_from_model(model: ir.Model, applied: CountingPass, traits: GraphTraits) -> str | None:
    """Return what is wrong with the count of the pass just `applied` to `model`, or None if nothing is.

    A conceded refusal counts like a rewrite.
    """
    name = type(applied).__name__
    expected = applied.expected(traits)
    refused = refusals_from_model(model).get(name, [])
    count = counts_from_model(model)[name]
    if expected is None or count <= expected <= count + sum(refusal.conceded for refusal in refused):
        return None
    reasons = [f"{refusal.node}: {refusal.reason}" for refusal in refused if not refusal.conceded][:MOST_NAMED]
    if not reasons:
        return (
            f"{name} changed {count} places of the graph, but its formula says {expected}: the traced graph is not the "
            "one that the pass knows. Please report it with the versions of torch and onnxscript (rpln doctor)."
        )
    return "\n".join(
        [
            f"{name} changed {count} of {expected} places of the graph. It refused these nodes:",
            *(f"  {reason}" for reason in reasons),
            "Export without these changes by --allow-partial-fusion, or choose another form with --optimize.",
            "Please report it (rpln doctor).",
        ]
    )
