"""The file of label names that Triton's classification extension reads: one label a line."""

from typing import Final

from rpln_runtime.errors import ManifestError
from rpln_runtime.manifest import Manifest, TensorSpec
from rpln_runtime.tasks import TASKS
from rpln_runtime.triton.pbtxt import Message

LABELS_FILE: Final = "labels.txt"


def labels_field(spec: TensorSpec, manifest: Manifest) -> Message:
    """Return the field that names the labels of an output, or none where its last axis is not one of labels."""
    tensors = {tensor.name: tensor for tensor in TASKS[manifest.task].outputs}
    labelled = spec.name in tensors and tensors[spec.name].axes[-1] == "num_labels"
    return {"label_filename": LABELS_FILE} if labelled else {}


def labels_of(manifest: Manifest) -> tuple[str, ...]:
    """Return the labels to write to the file; none where no output of the graph has labels.

    Raises ManifestError for a label that does not fit a line.
    """
    if not any(labels_field(spec, manifest) for spec in manifest.graphs[0].outputs):
        return ()
    for label in manifest.labels:
        if "\n" in label or "\r" in label:
            raise ManifestError(
                f"the bundle has the label {label!r}, and Triton reads one label a line. Export the checkpoint with "
                "another id2label in its config.json."
            )
    return manifest.labels
