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
    """A bundle's manifest, and how many of each operator its graphs have, in the manifest's order of graphs."""

    manifest: Manifest
    operators: Sequence[Mapping[str, int]]

    def to_json(self) -> dict[str, Any]:
        """The manifest and the operator counts."""
        return dataclasses.asdict(self)


def inspect_bundle(folder: Path) -> Inspection:
    """Read the bundle in `folder`, its hashes checked. Raises ManifestError."""
    manifest = read_manifest(folder)
    return Inspection(manifest=manifest, operators=[_operators(folder / graph.path) for graph in manifest.graphs])


def _operators(path: Path) -> dict[str, int]:
    nodes = onnx.load(path, load_external_data=False).graph.node
    return dict(Counter(f"{node.domain}.{node.op_type}".lstrip(".") for node in nodes).most_common())
