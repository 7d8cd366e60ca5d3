"""Measures how far the graphs of one large network are from fp64 in every form, and how far faults take them.

Tests do the same on many small networks (tests/export/validation/test_acceptance.py). This one has 24 layers of 1,024
by default, and channels that are larger than the others. It takes minutes and some 10 GB. Nothing is timed. The
results go to benchmarks/results/acceptance.md.
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import onnx_ir as ir

from benchmarks.machine import versions_of
from rpln_export.validation.comparison import Comparison, sample_from_cases
from rpln_graphs.forms import FORMS, write_form
from rpln_graphs.recipes import RECIPES
from rpln_graphs.rewriting.traits import HIDDEN_STATES, GraphTraits
from tests.export.validation.noisy_networks import NoisyNetwork
from tests.export.validation.test_acceptance import FAULTS
from tests.graphs.networks import copied

RESULTS: Final = Path(__file__).with_name("results") / "acceptance.md"
TASK: Final = "fill-mask"
OUTLIERS: Final = 20
"""How many times some channels are larger than the others."""
TOLERANCE: Final = RECIPES["fp32"].tolerance


def main() -> None:
    """Compare the graphs, and write the table after each of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--width", type=int, default=1024)
    arguments = parser.parse_args()
    rows: list[str] = []
    sizes = {"layers": arguments.layers, "width": arguments.width}
    with tempfile.TemporaryDirectory() as folder:
        network = NoisyNetwork(task=TASK, outliers=OUTLIERS, seed=1, folder=Path(folder), **sizes)
        network.cases = sample_from_cases(network.cases)  # fp64 is computed for these alone
        for name, graph in _graphs(network):
            worst = max(network.comparisons(graph), key=lambda row: row.share)
            read_back = network.faults(graph) if name in FAULTS else []
            rows.append(_row(name, worst, read_back=bool(read_back)))
            print(rows[-1], flush=True)
            _write(rows, **sizes)


def _graphs(network: NoisyNetwork) -> Iterator[tuple[str, ir.Model]]:
    """Yield the graph as traced, in every form, and with each fault, each with its name."""
    traits = GraphTraits(layers=network.layers, features=frozenset({HIDDEN_STATES}))
    yield "traced", network.traced
    for name, form in FORMS.items():
        yield f"folded, {name}", write_form(network.folded, form, traits, allow_partial=True)
    for name, change in FAULTS.items():
        graph = copied(network.traced)
        change(graph)
        yield name, graph


def _row(name: str, worst: Comparison, *, read_back: bool) -> str:
    assert worst.distance is not None
    assert worst.noise is not None
    rms, largest = worst.distance.rms / worst.noise.rms, worst.distance.largest / worst.noise.largest
    refused = [] if worst.accepted(TOLERANCE) else ["by its outputs"]
    refused += ["by its structure"] if read_back else []
    verdict = f"refused {' and '.join(refused)}" if refused else "accepted"
    return f"| {name} | {worst.output} | {rms:.2f} | {largest:.2f} | {worst.share:.2f} | {verdict} |"


def _write(rows: list[str], *, layers: int, width: int) -> None:
    versions = ", ".join(f"{name} {version}" for name, version in versions_of(("torch", "onnxruntime")).items())
    lines = [
        f"# Acceptance of a network of {layers} layers of {width:,}",
        "",
        f"`python -m benchmarks.acceptance`: {TASK} in fp32, with {versions}.",
        "",
        "For each graph there is the output that comes closest to the limit, or is furthest beyond it: its distance",
        "from fp64 as a multiple of eager torch's own, and its share of what the tolerance accepts. The last four",
        "graphs have faults. Of each kind of mask there is the case with the most tokens. docs/validation.md has the",
        "rules.",
        "",
        "| graph | output | rms | largest | share | verdict |",
        "|---|---|---|---|---|---|",
        *rows,
    ]
    RESULTS.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
