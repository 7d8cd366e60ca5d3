"""Compares the C++ runtime with ONNX Runtime alone, and its tokenizer with the tokenizers library.

`python -m benchmarks.cpp` measures the time from a text of 128 tokens to its labels at base size, beside that of
`session.run` alone, with the bundle of the encoder benchmark's case "b1 s128"; and the tokenizer beside Hugging Face
tokenizers on one thread, in MB/s. It needs what .ci/install-tools installs, and writes cpp.json and cpp.md to
benchmarks/results.
"""

import argparse
import importlib.util
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from tokenizers import Tokenizer

from benchmarks.encoder_bundles import Workshop
from benchmarks.encoder_cases import CASES
from benchmarks.machine import describe_machine, versions_of
from rpln_export.plan.defaults import DEFAULT_CHECKPOINT

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parent
RESULTS: Final = HERE / "results"
TOKENS: Final = 128
SENTENCE: Final = "The jury praised the officers of the city, who had walked to the boat in the rain."


@dataclass(frozen=True, slots=True, kw_only=True)
class EndToEnd:
    """Median times in seconds. `ratio` is the median of the ratios of neighbouring runs."""

    tokens: int
    run_seconds: float
    answer_seconds: float
    ratio: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokenization:
    """Megabytes of UTF-8 per second, line by line, in the best round of each."""

    text: str
    megabytes: float
    cpp: float
    tokenizers: float
    ratio: float


def main() -> None:
    """Measure both and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--work", type=Path, help="folder for checkpoints and bundles; those that are there are used")
    arguments = parser.parse_args()
    (case,) = (case for case in CASES if case.name == "b1 s128")
    with tempfile.TemporaryDirectory() as folder:
        timer = build_timer(Path(folder))
        bundle = Workshop(folder=arguments.work or Path(folder), threads=arguments.threads).setup(case).chosen
        end_to_end = measure_answers(timer, bundle, rounds=arguments.rounds, threads=arguments.threads)
        tokenization = [measure_tokens(timer, Path(folder), *case) for case in texts().items()]
    write_results(end_to_end, tokenization, threads=arguments.threads)


def build_timer(folder: Path) -> Path:
    """Compile cpp_timer.cpp with the library of Python's onnxruntime, and return the program."""
    spec = importlib.util.find_spec("onnxruntime")
    assert spec is not None
    assert spec.origin is not None
    (library,) = (Path(spec.origin).parent / "capi").glob("libonnxruntime.so.*.*")
    (folder / "libonnxruntime.so.1").symlink_to(library)
    includes = ["-I", str(ROOT / "runtime/cpp/include"), "-isystem", str(ROOT / ".tools/onnxruntime/include")]
    linked = [str(folder / "libonnxruntime.so.1"), f"-Wl,-rpath,{folder}", "-pthread"]
    timer = folder / "cpp_timer"
    command = ["g++", "-std=c++17", "-O3", *includes, str(HERE / "cpp_timer.cpp"), *linked, "-o", str(timer)]
    subprocess.run(command, check=True)  # noqa: S603 - the compiler, on a file of this folder
    return timer


def measure_answers(timer: Path, bundle: Path, *, rounds: int, threads: int) -> EndToEnd:
    """Measure the time from a text of TOKENS tokens to its labels, and the time of the graph alone."""
    tokenizer = python_tokenizer(bundle / "tokenizer.json")
    words = SENTENCE.split() * TOKENS
    count = next(count for count in range(1, len(words)) if len(tokenizer.encode(" ".join(words[:count]))) >= TOKENS)
    times = run_timer(timer, "answers", bundle, " ".join(words[:count]), rounds + 5, threads)
    run, answer = times["run"][5:], times["answer"][5:]  # the first runs are a warm-up
    ratios = [both / alone for both, alone in zip(answer, run, strict=True)]
    return EndToEnd(
        tokens=times["tokens"],
        run_seconds=statistics.median(run),
        answer_seconds=statistics.median(answer),
        ratio=statistics.median(ratios),
    )


def texts() -> dict[str, str]:
    """Return English prose and pages of this project, code, and text that is mostly not ASCII."""
    prose = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md")))
    code = "\n".join(path.read_text(encoding="utf-8") for path in sorted(ROOT.glob("*/*/*.py")))
    foreign = "Быстрая лисица прыгает. 敏捷的棕色狐狸跳過懶狗。 素早い茶色の狐 😀 naïve café Zürich\n" * 4_000
    return {"documentation": prose * 3, "Python": code, "Cyrillic, Chinese, Japanese, accents": foreign}


def measure_tokens(timer: Path, folder: Path, name: str, text: str) -> Tokenization:
    """Measure both tokenizers in turn, and return the best round of each."""
    path = folder / "text"
    path.write_text(text, encoding="utf-8")
    lines = text.split("\n")
    file = DEFAULT_CHECKPOINT / "tokenizer.json"
    tokenizer = python_tokenizer(file)
    mine, theirs = [], []
    for _ in range(3):
        mine += run_timer(timer, "tokens", file, path, 3)["seconds"]
        start = time.perf_counter()
        for line in lines:
            tokenizer.encode(line)
        theirs.append(time.perf_counter() - start)
    megabytes = len(text.encode()) / 1e6
    return Tokenization(
        text=name,
        megabytes=megabytes,
        cpp=megabytes / min(mine),
        tokenizers=megabytes / min(theirs),
        ratio=min(theirs) / min(mine),
    )


def python_tokenizer(path: Path) -> Tokenizer:
    """Return the tokenizer of the tokenizers library, without truncation and padding."""
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def run_timer(timer: Path, *arguments: object) -> Any:
    """Run the timer, and return what it prints."""
    command = [str(timer), *map(str, arguments)]
    run = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 - what was compiled here
    return json.loads(run.stdout)


def write_results(end_to_end: EndToEnd, tokenization: Sequence[Tokenization], *, threads: int) -> None:
    """Write the results as JSON, and as tables."""
    machine = describe_machine(threads=threads)
    versions = versions_of(["onnxruntime", "tokenizers"])
    document = {
        "machine": machine,
        "versions": versions,
        "end_to_end": asdict(end_to_end),
        "tokenization": [asdict(row) for row in tokenization],
    }
    (RESULTS / "cpp.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    lines = [
        "# The C++ runtime",
        "",
        f"{machine['processor']}, {threads} thread(s); "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
        + ". Made by `python -m benchmarks.cpp`.",
        "",
        f"One text of {end_to_end.tokens} tokens, base size, fp32:",
        "",
        "| | ms | against `session.run` |",
        "|---|---|---|",
        f"| `session.run` alone | {end_to_end.run_seconds * 1e3:.2f} | 1 |",
        f"| text to labels | {end_to_end.answer_seconds * 1e3:.2f} | {end_to_end.ratio:.3f} |",
        "",
        "The tokenizer, line by line on one thread:",
        "",
        "| text | C++, MB/s | tokenizers, MB/s | ratio |",
        "|---|---|---|---|",
        *(f"| {row.text} | {row.cpp:.1f} | {row.tokenizers:.1f} | {row.ratio:.1f} |" for row in tokenization),
    ]
    text = "\n".join(lines) + "\n"
    (RESULTS / "cpp.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
