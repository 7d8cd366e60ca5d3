"""Measures a server under load, overload and malformed requests: `python -m benchmarks.triton_load`.

Without an address it exports the embedded tagger, starts the tests' server (make .venv-triton/.installed) with its
repository, and writes triton-load.md to benchmarks/results. With --http it asks a server that runs already and speaks
the Open Inference Protocol; --bundle is the bundle that this server answers with. Every answer is compared with that of
`pipeline`. All parts take about eleven minutes; --parts chooses some. The results of some parts, or of a server that
runs already, are printed and not written.
"""

import argparse
import asyncio
import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.load_clients import ANSWER
from benchmarks.load_parts import PARTS, Bench
from benchmarks.load_target import Target, started
from benchmarks.machine import describe_machine
from rpln_runtime import pipeline

RESULTS: Final = Path(__file__).with_name("results") / "triton-load.md"
SENTENCE: Final = "The old man walked to the boat and his crew watched the stars of a cold night"
TEXTS: Final = 100
"""How many texts there are of each kind."""
SHORT, LONG, LIMIT, MEDIAN = (3, 10), (150, 200), 200, 30
"""Words of short and of long texts, the most of a mixed one, and the median of these."""


def main() -> None:
    """Measure, and write or print the results."""
    parser = _parser()
    arguments = parser.parse_args()
    if (arguments.http is None) != (arguments.bundle is None) or (arguments.grpc and not arguments.http):
        parser.error("--http and --bundle go together, and --grpc with them: an address, and what is served there.")
    with tempfile.TemporaryDirectory() as folder, _target(arguments, Path(folder)) as (target, bundle):
        texts = make_texts()
        bench = Bench(
            target=target,
            texts=texts,
            expected=expected_answers(bundle, [text for kind in texts.values() for text in kind]),
            seconds=arguments.seconds,
            overload_seconds=arguments.overload_seconds,
            malformed=arguments.malformed,
        )
        lines = asyncio.run(measure(bench, arguments.parts))
    text = "\n".join(lines) + "\n"
    if arguments.http or set(arguments.parts) != set(PARTS):
        print(text)
    else:
        RESULTS.write_text(text, encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what to measure (default: all)")
    parser.add_argument("--seconds", type=float, default=4, help="how long a run takes (default: %(default)s)")
    parser.add_argument("--overload-seconds", type=float, default=45, help="how long the server is asked too much")
    parser.add_argument("--malformed", type=int, default=10_000, help="how many malformed requests are sent")
    parser.add_argument("--http", metavar="HOST:PORT", help="a server that runs already")
    parser.add_argument("--grpc", metavar="HOST:PORT", help="the same server, over gRPC")
    parser.add_argument("--model", default="tagger", help="the model's name on that server (default: %(default)s)")
    parser.add_argument("--bundle", type=Path, help="the bundle that that server answers with")
    return parser


@contextlib.contextmanager
def _target(arguments: argparse.Namespace, folder: Path) -> Iterator[tuple[Target, Path]]:
    """Yield the server and its bundle."""
    if arguments.http is not None:
        addresses = {"http": arguments.http} | ({"grpc": arguments.grpc} if arguments.grpc else {})
        yield Target(addresses=addresses, models={"as it runs": arguments.model}), arguments.bundle
        return
    from rpln_export.pipeline import export
    from rpln_export.plan.export_plan import make_plan

    bundle = folder / "bundle"
    export(make_plan(None, task="token-classification", destination=bundle, optimize="none"))
    with started(bundle, folder) as target:
        yield target, bundle


def make_texts() -> dict[str, list[str]]:
    """Return short, mixed and long texts. The words of mixed ones are lognormal in number."""
    random, words = np.random.default_rng(0), SENTENCE.split()
    lengths = {
        "short": random.uniform(*SHORT, TEXTS),
        "mixed": random.lognormal(np.log(MEDIAN), 0.8, TEXTS).clip(1, LIMIT),
        "long": random.uniform(*LONG, TEXTS),
    }
    return {kind: [" ".join(random.choice(words, int(count))) for count in counts] for kind, counts in lengths.items()}


def expected_answers(bundle: Path, texts: Sequence[str]) -> dict[str, object]:
    """Return the answer of the pipeline to each text, as the clients return those of a server."""
    tag: Any = pipeline(bundle, provider="cpu", threads=1)
    answers: Mapping[str, Any] = {text: tag(text) for text in texts}
    keys = ["entity" if name == "label" else name for name in ANSWER]
    return {text: tuple(tuple(token[key] for token in answer) for key in keys) for text, answer in answers.items()}


async def measure(bench: Bench, parts: Sequence[str]) -> list[str]:
    """Return the page: a section for each part."""
    machine = ", ".join(f"{name}: {value}" for name, value in describe_machine(threads=1).items())
    lines: list[str] = []
    for protocol in bench.target.addresses:
        for model in bench.target.models.values():
            await bench.burst("mixed", requests=100, together=4, protocol=protocol, model=model)  # a warm-up
    memory = {"start": bench.target.memory()}
    for name in parts:
        title = str(PARTS[name].__doc__).removesuffix(".")
        lines += [f"## {title}", "", *await PARTS[name](bench), ""]
        memory[name] = bench.target.memory()
    used = ", ".join(f"{name} {mebibytes:.0f}" for name, mebibytes in memory.items())
    return [
        f"# {bench.target.named()} under load",
        "",
        f"The embedded tagger, {machine}.",
        f"The load and the server share the cores. {bench.compared} answers were compared with those of `pipeline`:",
        f"{bench.wrong} are wrong.",
        "",
        *lines,
        *(
            ["## Memory", "", f"MiB of the server and all steps after each part: {used}."]
            if bench.target.server
            else []
        ),
    ]


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
