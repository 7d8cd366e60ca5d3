"""Whether a pass changed as many places as its formula says, and if not, which node it refused and why."""

import onnx_ir as ir

from rpln_graphs.errors import PassError
from rpln_graphs.rewriting.base import CountingPass, GraphTraits, counts_from_model, refusals_from_model

MOST_NAMED = 3
"""Of a dozen layers with one trouble, the first few tell it."""


def check_count(model: ir.Model, applied: CountingPass, traits: GraphTraits) -> None:
    """Compare the count of the pass just `applied` to `model` with its formula. Raises PassError."""
    if (shortage := shortage_from_model(model, applied, traits)) is not None:
        raise PassError(shortage)


def shortage_from_model(model: ir.Model, applied: CountingPass, traits: GraphTraits) -> str | None:
    """What is wrong with the count of the pass just `applied` to `model`; None where nothing is.

    Refusals that a pass concedes are as good as rewrites.
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
            f"{name} changed {count} places of the graph, its formula says {expected}. The traced graph is not the one "
            "this pass knows: please report it with the versions of torch and onnxscript (rpln doctor)."
        )
    return "\n".join(
        [
            f"{name} changed {count} of {expected} places of the graph. It refused",
            *(f"  {reason}" for reason in reasons),
            "Go on with --allow-partial-fusion, or choose another with --optimize. Please report it (rpln doctor).",
        ]
    )
