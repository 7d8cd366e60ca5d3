"""Measures OpenVINO's memory over batches of ever new sizes: `python -m benchmarks.openvino_memory BUNDLE`.

OpenVINO keeps what it prepared for the sizes of earlier batches, and so does oneDNN below it. The runtime limits both;
this shows the memory of the process with these limits and with their own, each in a process of its own. Sizes are drawn
without repetition. It writes openvino-memory.json and openvino-memory.md to benchmarks/results.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.machine import describe_machine, versions_of
from rpln_runtime import load
from rpln_runtime.engines import openvino

RESULTS: Final = Path(__file__).with_name("results")
LIMITED: Final = "limited"
DEFAULT: Final = "default"
BATCHES: Final = {LIMITED: 10_000, DEFAULT: 2_000}
"""How many batches are run with the runtime's limits, and with the libraries' own, which take much more memory."""
ONEDNN_KEEPS: Final = "1024"
"""How many kernels oneDNN keeps where nothing is set."""
SHOWN: Final = (0, 100, 500, 1_000, 2_000, 4_000, 6_000, 8_000, 10_000)
"""The numbers of batches after which memory is read."""


def main() -> None:
    """Measure each limit in a process of its own, write the results and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--only", choices=BATCHES, help="measure this limit in this process, and print it as JSON")
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps(measure(arguments.bundle, arguments.only)))
        return
    command = [sys.executable, "-m", "benchmarks.openvino_memory", str(arguments.bundle), "--only"]
    found = {
        name: json.loads(subprocess.run([*command, name], capture_output=True, check=True).stdout)  # noqa: S603 # itself
        for name in BATCHES
    }
    write(found, arguments.bundle)


def measure(bundle: Path, name: str) -> dict[str, Any]:
    """Run batches, no two of one size, and return megabytes after some of them, and seconds for the first 2,000."""
    if name == DEFAULT:
        openvino.OPTIONS = {name: value for name, value in openvino.OPTIONS.items() if name != openvino.CAPACITY}
        os.environ[openvino.PRIMITIVES] = ONEDNN_KEEPS
    session = load(bundle, provider="openvino", threads=1)
    longest = session.manifest.usable_length
    sizes = [(rows, tokens) for rows in range(1, max(SHOWN) // longest + 2) for tokens in range(1, longest + 1)]
    random.Random(0).shuffle(sizes)
    megabytes, seconds, start = {}, 0.0, time.process_time()
    for count, size in enumerate(sizes[: BATCHES[name] + 1]):
        if count in SHOWN:
            megabytes[str(count)] = resident()
        if count == BATCHES[DEFAULT]:
            seconds = round(time.process_time() - start, 1)
        session.run({spec.name: np.ones(size, np.int64) for spec in session.graph.inputs})
    return {"megabytes": megabytes, "seconds": seconds}


def resident() -> float:
    """Return the megabytes of memory that this process has, as Linux counts them."""
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return round(pages * 4096 / 1e6, 1)


def write(found: dict[str, Any], bundle: Path) -> None:
    """Write the figures as JSON and as a page, and print the page."""
    machine = describe_machine(threads=1)
    versions = versions_of(("openvino",))
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    told = (
        f"{machine['processor']}, 1 thread. {named}. {bundle.name}, batches of which no two have one size. Megabytes "
        f"of the process. The first {BATCHES[DEFAULT]:,} took {found[LIMITED]['seconds']} s of processor time with the "
        f"limits that the runtime sets, and {found[DEFAULT]['seconds']} s with those of the libraries. "
        f"The runtime lets OpenVINO keep {openvino.CACHE} kernels, and oneDNN {openvino.KEPT_PRIMITIVES}."
    )
    limited, default = (found[name]["megabytes"] for name in (LIMITED, DEFAULT))
    page = "\n".join(
        [
            "# OpenVINO's memory over batches of different sizes",
            "",
            told,
            "",
            "| batches | with the runtime's limits | with the libraries' own |",
            "|---|---|---|",
            *(f"| {int(count):,} | {limited[count]} | {default.get(count, '')} |" for count in limited),
            "",
        ]
    )
    document = {"machine": machine, "versions": versions, "bundle": bundle.name, **found}
    (RESULTS / "openvino-memory.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    (RESULTS / "openvino-memory.md").write_text(page, encoding="utf-8")
    print(page)


if __name__ == "__main__":
    main()
