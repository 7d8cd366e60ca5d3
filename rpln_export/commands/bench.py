"""`rpln bench`: measure how fast bundles are, and how much memory they take."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import click
import cloup

from rpln_export.commands import table_option
from rpln_export.commands.settings import HELP
from rpln_export.commands.table_option import TableOption
from rpln_export.commands.user_errors import INTERRUPTED, user_errors
from rpln_export.commands.values import integers, names

_PATH = click.Path(path_type=Path)


def _lengths(context: click.Context, parameter: click.Parameter, value: str | None) -> list[int] | Path | None:
    """Return the integers in a list that is separated by commas, or the path of a file of lengths."""
    if value is None or not value.endswith(".json"):
        return integers(context, parameter, value)
    return Path(value)


@cloup.command("bench", context_settings=HELP, short_help="Measure how fast bundles are, side by side.")
@cloup.argument("folders", metavar="FOLDER...", type=_PATH, nargs=-1, required=True, help="The folders of bundles.")
@cloup.option_group(
    "What runs",
    cloup.option(
        "--batch", "batches", callback=integers, metavar="N,N", help="The numbers of texts in a batch. [default: 1,8]"
    ),
    cloup.option(
        "--lengths",
        callback=_lengths,
        metavar="N,N or FILE.JSON",
        help="The numbers of tokens of a text, or a JSON file with the lengths of texts or of batches of texts. "
        "[default: 32,128]",
    ),
    cloup.option(
        "--new-tokens",
        type=int,
        default=16,
        show_default=True,
        help="Decoders: how many tokens follow the first new one.",
    ),
    cloup.option(
        "--provider",
        "providers",
        cls=TableOption,
        rows=table_option.providers,
        callback=lambda context, parameter, value: names(context, parameter, value) if value else None,
        metavar="NAME,NAME",
        help="The providers that run the graphs: {rows}. [default: the one that the export found fastest]",
    ),
    cloup.option(
        "--threads",
        callback=integers,
        metavar="N,N",
        help="The most threads that one operator uses. [default: the number that the export found fastest]",
    ),
)
@cloup.option_group(
    "The reference",
    cloup.option(
        "--checkpoint",
        help="The checkpoint of the first bundle, to run in eager torch. [default: the one that its manifest names, as "
        "rpln validate finds it]",
    ),
    cloup.option("--no-torch", is_flag=True, help="Take the first bundle for the reference."),
)
@cloup.option_group(
    "How long",
    cloup.option("--seconds", type=float, default=20.0, show_default=True, help="About how long the rounds go on."),
    cloup.option("--rounds", type=int, help="How many rounds there are, whatever time they take."),
    cloup.option("--no-memory", is_flag=True, help="Do not measure memory, which takes a process for each contender."),
)
@cloup.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@cloup.option("--plot", type=_PATH, metavar="FILE.SVG", help="Write the latencies as bars to this file.")
def bench_command(
    folders: Sequence[Path],
    batches: list[int] | None,
    lengths: list[int] | Path | None,
    new_tokens: int,
    providers: list[str] | None,
    threads: list[int] | None,
    checkpoint: str | None,
    no_torch: bool,
    seconds: float,
    rounds: int | None,
    no_memory: bool,
    as_json: bool,
    plot: Path | None,
) -> None:
    """Measure the latency, throughput and memory of the bundles in FOLDER..., in turns, beside eager torch.

    \b
    rpln bench tagger
    rpln bench tagger tagger-int8 --batch 1,32 --lengths 16,128 --plot speed.svg
    rpln bench tagger --provider cpu,openvino --threads 1,2 --json > speed.json
    """
    if no_torch and checkpoint:
        raise click.UsageError("--checkpoint is what runs in torch, and --no-torch leaves it out. Drop one of them.")
    with user_errors(interrupted="Interrupted: nothing was measured yet."):
        from rpln_export.commands.show.progress import ProgressWatcher

        with ProgressWatcher() as watcher:
            from rpln_runtime.manifest import read_manifest

            for folder in folders:
                read_manifest(folder, verify=False)  # before torch is imported

            from rpln_export.bench import measure

            report = measure(
                folders,
                batches=batches,
                lengths=lengths,
                new_tokens=new_tokens,
                providers=providers,
                threads=threads,
                with_torch=not no_torch,
                checkpoint=checkpoint,
                memory=not no_memory,
                seconds=seconds,
                rounds=rounds,
                watcher=watcher,
            )
            drawn = None
            if plot is not None:
                from rpln_export.bench.plot import plot_report

                drawn = plot_report(report)
        click.echo(json.dumps(report.to_json(), indent=2) if as_json else report.table())
        if plot is not None and drawn is not None:
            plot.write_text(drawn, encoding="utf-8")
    if report.interrupted:
        click.echo(f"Interrupted after {report.rounds} of {report.planned_rounds} rounds.", err=True)
        sys.exit(INTERRUPTED)
