"""What a bundle holds, read from its manifest and its graphs."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from rpln_runtime.manifest import Manifest, read_manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """The manifest of a bundle, and the number of each operator's nodes in each of its graphs."""

    manifest: Manifest
    operators: Sequence[Mapping[str, int]]

    def to_json(self) -> dict[str, Any]:
        """Return all fields, for machines."""
        return dataclasses.asdict(self)


def inspect_bundle(folder: Path) -> Inspection:
    """Read the bundle in `folder` and check its hashes. Raises ManifestError for a broken bundle."""
    manifest = read_manifest(folder)
    return Inspection(manifest=manifest, operators=[_operators(folder / graph.path) for graph in manifest.graphs])


def _operators(path: Path) -> dict[str, int]:
    nodes = onnx.load(path, load_external_data=False).graph.node
    return dict(Counter(f"{node.domain}.{node.op_type}".lstrip(".") for node in nodes).most_common())
