"""`rpln eval`: the metrics of a bundle or a checkpoint on labelled data."""

import json
from pathlib import Path

import click
import cloup

from rpln_export.commands import table_option
from rpln_export.commands.checkpoint_options import fairseq_options, is_decoder_option, revision_option, task_option
from rpln_export.commands.settings import HELP
from rpln_export.commands.table_option import TableOption
from rpln_export.commands.user_errors import user_errors


@cloup.command("eval", context_settings=HELP, short_help="Measure a bundle or a checkpoint on labelled data.")
@cloup.argument(
    "folder",
    metavar="FOLDER",
    help="The folder of a bundle; or a checkpoint, as rpln-export takes it, to run in torch.",
)
@cloup.argument(
    "data",
    metavar="DATA.JSONL",
    type=click.Path(path_type=Path),
    help="The examples: one JSON object on each line, with the fields of the task and what is right.",
)
@cloup.option(
    "--truncate", is_flag=True, help="Cut texts that are too long. [default: refuse them, or read them in windows]"
)
@cloup.option_group(
    "Bundles",
    cloup.option(
        "--provider",
        cls=TableOption,
        rows=table_option.providers,
        help="The provider that runs the graphs: {rows}. [default: the one that the export found fastest]",
    ),
)
@cloup.option_group(
    "Checkpoints",
    task_option,
    revision_option,
    cloup.option("--tokenizer", help="The folder or hub id of the tokenizer. [default: FOLDER]"),
    is_decoder_option,
)
@fairseq_options
@cloup.option("--json", "as_json", is_flag=True, help="Print the metrics as JSON.")
def evaluate_command(
    folder: str,
    data: Path,
    truncate: bool,
    provider: str | None,
    task: str | None,
    revision: str | None,
    tokenizer: str | None,
    is_decoder: bool,
    dictionary: Path | None,
    bpe: tuple[Path, Path] | None,
    as_json: bool,
) -> None:
    """Measure how well the bundle or checkpoint FOLDER does its task on the examples in DATA.JSONL.

    \b
    rpln eval ./my-checkpoint test.jsonl       the checkpoint in torch, before the export
    rpln eval tagger-fp16 test.jsonl           its bundle, on the same data, with the same metrics
    """
    with user_errors(interrupted="Interrupted."):
        from rpln_export.commands.show.progress import ProgressWatcher

        with ProgressWatcher() as watcher:
            from rpln_export.extras import require_extra
            from rpln_runtime.errors import InputError
            from rpln_runtime.manifest import MANIFEST_NAME, read_manifest

            require_extra("eval")
            # What is quickly found out is found out before torch is imported.
            is_bundle = (Path(folder) / MANIFEST_NAME).is_file()
            for_checkpoints = (task, revision, tokenizer, dictionary, bpe, is_decoder or None)
            if is_bundle and any(option is not None for option in for_checkpoints):
                raise click.UsageError(f"{folder} is a bundle, so that the options for checkpoints have no effect.")
            if not is_bundle and provider is not None:
                raise click.UsageError(f"{folder} is no bundle, and a checkpoint runs in torch. Leave --provider out.")
            if is_bundle:
                read_manifest(Path(folder), verify=False)
            if not data.is_file():
                raise InputError(f"{data} is not a file. Expected a file of JSON lines.")

            from rpln_export.commands.show.evaluation import evaluation_to_json, print_evaluation
            from rpln_export.evaluation.evaluate import evaluate
            from rpln_export.evaluation.examples import read_examples
            from rpln_export.evaluation.runners import runner_from_bundle, runner_from_checkpoint
            from rpln_export.steps import Steps

            steps = Steps(watcher)
            with steps.step("load"):
                runner = (
                    runner_from_bundle(Path(folder), provider=provider)
                    if is_bundle
                    else runner_from_checkpoint(
                        folder,
                        task=task,
                        revision=revision,
                        tokenizer=tokenizer,
                        is_decoder=is_decoder,
                        dictionary=dictionary,
                        bpe=bpe,
                    )
                )
                examples = read_examples(data, runner.manifest, runner.tokenizer, truncation=truncate)
            with steps.step("evaluate") as advance:
                evaluation = evaluate(runner, examples, advance=advance)
        if as_json:
            click.echo(json.dumps(evaluation_to_json(runner, evaluation), indent=2))
        else:
            print_evaluation(folder, runner, examples, evaluation)
