"""Labels of a model's logits, for Triton's classification extension: a file with one a line."""

from typing import Final

from rpln_runtime.manifest import TensorSpec
from rpln_runtime.triton.pbtxt import Message
from rpln_runtime.triton.plan import RepositoryPlan

LABELS_FILE: Final = "labels.txt"
_LABELLED: Final = frozenset({"text_classification", "token_classification"})


def labels_field(spec: TensorSpec, plan: RepositoryPlan) -> Message:
    """What an output's configuration says of its labels: nothing where its last axis is none of labels."""
    labelled = spec.name == "logits" and plan.postprocess in _LABELLED
    return {"label_filename": LABELS_FILE} if labelled else {}


def labels_of(plan: RepositoryPlan) -> tuple[str, ...]:
    """What the last axis of the model's logits stands for, where it is labels."""
    return plan.manifest.labels if any(labels_field(spec, plan) for spec in plan.graph.outputs) else ()
