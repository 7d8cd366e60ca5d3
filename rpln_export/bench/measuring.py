"""`rpln bench`: several bundles are measured side by side, and beside the checkpoint in eager torch."""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, NamedTuple

from rpln_export.bench.cases import BenchCase, make_cases
from rpln_export.bench.contenders import TORCH, BenchContender, contender_from_bundle, torch_contender
from rpln_export.bench.machine import MachineWatch
from rpln_export.bench.memory import peak_memory, peak_memory_of_torch
from rpln_export.bench.report import BenchReport, report_from_rounds
from rpln_export.bench.rounds import run_rounds
from rpln_export.steps import Silent, Steps, Watcher
from rpln_runtime.engines.providers import provider_row
from rpln_runtime.errors import InputError, RplnError
from rpln_runtime.limits import MOST_THREADS
from rpln_runtime.manifest import Manifest, read_manifest
from rpln_runtime.options import check_integer, path_from_value
from rpln_runtime.session import default_provider

DEFAULT_SECONDS: Final = 20.0
"""How long rounds go on where the user says nothing."""
DEFAULT_NEW_TOKENS: Final = 16
"""How many tokens a decoder adds after its first one where the user says nothing."""


def measure(
    folders: Sequence[str | Path],
    *,
    batches: Sequence[int] | None = None,
    lengths: Sequence[int] | Path | None = None,
    new_tokens: int = DEFAULT_NEW_TOKENS,
    providers: Sequence[str] | None = None,
    threads: Sequence[int] | None = None,
    with_torch: bool = True,
    checkpoint: str | None = None,
    memory: bool = True,
    seconds: float = DEFAULT_SECONDS,
    rounds: int | None = None,
    watcher: Watcher | None = None,
) -> BenchReport:
    """Measure the latency, throughput and memory of bundles, and return a report.

    Args:
        folders: the bundles: all of encoders, or all of decoders.
        batches: the numbers of texts in a batch; None means 1 and 8.
        lengths: the numbers of tokens of a text, or a JSON file with lengths or batches of lengths. None means 32 and
            128, or the longest text that the bundles take.
        new_tokens: how many tokens a decoder adds after its first one, by greedy search.
        providers: names of providers; None means the one that each export measured to be the fastest.
        threads: the most threads that one operator uses; None means each bundle's own choice.
        with_torch: whether the checkpoint of the first bundle is measured in eager torch, as the reference. Where it is
            not found, or torch is missing, the report says so, and the first bundle is the reference.
        checkpoint: that checkpoint; None means the one that the manifest names, as `rpln validate` finds it.
        memory: whether the peak memory of each contender is measured, in a process of its own.
        seconds: how long rounds go on, beyond the fewest that tell anything.
        rounds: how many rounds there are, whatever time they take.
        watcher: is told of the steps.

    An interrupt during the rounds ends them, and `BenchReport.interrupted` says so. Raises, before anything is
    measured, InputError for a size that no bundle takes, ManifestError for a damaged bundle, ProviderError for a
    provider that is unknown or cannot run here, and PlanError for a broken file of lengths. With a `checkpoint`, it
    raises what `revalidate` raises where that is another one.
    """
    _check_options(folders, new_tokens, threads or (), seconds, rounds)
    for provider in providers or ():
        provider_row(provider)
    steps = Steps(watcher or Silent())
    notes: list[str] = []
    with ExitStack() as stack:
        with steps.step("load"):
            opened = _opened(folders)
            cases = make_cases(batches, lengths, limit=_longest_text(opened, new_tokens))
            sources = _sources(opened, cases, providers=providers, threads=threads, new_tokens=new_tokens)
            contenders = [contender for contender, _ in sources.values()]
            if with_torch:
                try:
                    reference = torch_contender(
                        opened[0].folder,
                        opened[0].manifest,
                        checkpoint,
                        threads=max(threads) if threads else None,
                        new_tokens=new_tokens,
                    )
                    contenders.insert(0, stack.enter_context(reference))
                except (RplnError, ImportError) as error:
                    if checkpoint is not None:
                        raise
                    notes.append(f"Eager torch was left out: {error}")
        peaks = (
            _peaks(steps, contenders, sources, cases, checkpoint=checkpoint, new_tokens=new_tokens, notes=notes)
            if memory
            else {}
        )
        watch = MachineWatch.begin()
        with steps.step("measure") as advance:
            runs = [[contender.prepare(case) for contender in contenders] for case in cases]
            measured = run_rounds(runs, seconds=seconds, rounds=rounds, advance=advance)
        return report_from_rounds(
            cases,
            contenders,
            measured,
            machine=watch.end(),
            peaks=peaks,
            new_tokens=None if opened[0].manifest.generation is None else new_tokens,
            notes=notes,
        )


class _OpenedBundle(NamedTuple):
    """A bundle, with the name that tables give it."""

    name: str
    folder: Path
    manifest: Manifest


def _check_options(
    folders: Sequence[str | Path], new_tokens: int, threads: Sequence[int], seconds: float, rounds: int | None
) -> None:
    """Raise InputError for an option out of range."""
    if not folders:
        raise InputError("no bundle is named, expected one folder or more.")
    check_integer("new_tokens", new_tokens, minimum=1)
    for count in threads:
        check_integer("threads", count, minimum=1, maximum=MOST_THREADS)
    if rounds is not None:
        check_integer("rounds", rounds, minimum=1)
    if not seconds > 0:
        raise InputError(f"seconds is {seconds!r}, expected a number above 0.")


def _longest_text(opened: Sequence[_OpenedBundle], new_tokens: int) -> int:
    """Return the most tokens of a text that all bundles take, together with the new tokens that follow a prompt.

    The last new token is not fed. An encoder-decoder reads the text in its encoder, so that none follow there.
    """
    return min(
        one.manifest.usable_length
        - (new_tokens if one.manifest.generation and one.manifest.generation.start_token_id is None else 0)
        for one in opened
    )


def _sources(
    opened: Sequence[_OpenedBundle],
    cases: Sequence[BenchCase],
    *,
    providers: Sequence[str] | None,
    threads: Sequence[int] | None,
    new_tokens: int,
) -> dict[str, tuple[BenchContender, _OpenedBundle]]:
    """Open each bundle on each provider with each number of threads; return them by the names of the contenders."""
    rows = max(max(map(len, case.batches)) for case in cases)
    counts: Sequence[int | None] = threads or [None]
    found = {}
    for one in opened:
        for provider in dict.fromkeys(providers or [default_provider(one.manifest)]):
            for count in dict.fromkeys(counts):
                name = f"{one.name} {provider}" + (f" {count}t" if count else "")
                contender = contender_from_bundle(
                    one.folder,
                    one.manifest,
                    name=name,
                    provider=provider,
                    threads=count,
                    new_tokens=new_tokens,
                    rows=rows,
                )
                found[name] = contender, one
    return found


def _opened(folders: Sequence[str | Path]) -> list[_OpenedBundle]:
    """Open each bundle, whose files are compared with the manifest."""
    paths = list(dict.fromkeys(path_from_value("folder", folder) for folder in folders))
    counted = Counter(path.absolute().name for path in paths)
    opened = [
        _OpenedBundle(
            path.absolute().name if counted[path.absolute().name] == 1 else str(path), path, read_manifest(path)
        )
        for path in paths
    ]
    if len({one.manifest.generation is None for one in opened}) > 1:
        raise InputError("some bundles generate text and others do not, so that no case suits all. Name one kind.")
    return opened


def _peaks(
    steps: Steps,
    contenders: Sequence[BenchContender],
    sources: Mapping[str, tuple[BenchContender, _OpenedBundle]],
    cases: Sequence[BenchCase],
    *,
    checkpoint: str | None,
    new_tokens: int,
    notes: list[str],
) -> dict[str, int | None]:
    """Return the peak memory of each contender's own process, by its name.

    Where that of torch, which nobody asked for by a checkpoint, cannot be measured, `notes` gets the reason.
    """
    first = next(one for _, one in sources.values())
    peaks: dict[str, int | None] = {}
    with steps.step("memory") as advance:
        for contender in contenders:
            sizes: dict[str, Any] = {"threads": contender.threads, "new_tokens": new_tokens}
            if contender.provider == TORCH:
                try:
                    peak = peak_memory_of_torch(first.folder, checkpoint, cases, **sizes)
                except RplnError as error:
                    if checkpoint is not None:
                        raise
                    peak = None
                    notes.append(f"The memory of eager torch was left out: {error}")
            else:
                _, one = sources[contender.name]
                peak = peak_memory(one.folder, one.manifest, cases, provider=contender.provider, **sizes)
            peaks[contender.name] = peak
            advance(len(peaks), len(contenders))
    return peaks
