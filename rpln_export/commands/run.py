"""`rpln run`: texts through a bundle."""

from collections.abc import Sequence
from pathlib import Path

import click

from rpln_export.commands.user_errors import user_errors
from rpln_export.commands.values import item_from_fields, pairs


@click.command("run")
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("texts", nargs=-1)
@click.option(
    "--field", "fields", multiple=True, callback=pairs, help="NAME=VALUE of a task with several, as question."
)
@click.option("--option", "options", multiple=True, callback=pairs, help="NAME=VALUE of the task, as top_k=3.")
@click.option("--max-new-tokens", type=int, help="The most tokens to generate. [default: 20]")
@click.option(
    "--provider",
    help="cpu, cuda, onnxruntime-tensorrt, tensorrt, tensorrt-rtx or openvino, never another. "
    "[default: what the export found fastest]",
)
@click.option("--json", "as_json", is_flag=True, help="Print the answers as JSON, at the end.")
def run_command(
    folder: Path,
    texts: Sequence[str],
    fields: Sequence[tuple[str, str]],
    options: Sequence[tuple[str, str]],
    max_new_tokens: int | None,
    provider: str | None,
    as_json: bool,
) -> None:
    """Run the bundle in FOLDER on TEXTS, or on the fields of one item. Generated text is shown as it comes.

    \b
    rpln run tagger "The dog barked."
    rpln run reader --field question="Who barked?" --field context="The dog barked."
    rpln run chooser --field prompt="It rained." --field choices="I got wet." --field choices="I slept."
    rpln run writer "It rained" --max-new-tokens 50 --option do_sample=true --option top_p=0.9
    """
    with user_errors(interrupted="\nInterrupted."):
        from rpln_export.commands.show.answers import print_answers, print_streams, to_json
        from rpln_runtime import Generator, pipeline
        from rpln_runtime.command_line import value_from_text

        if bool(texts) == bool(fields):
            raise click.UsageError("give either one or more texts, or --field NAME=VALUE.")
        answer = pipeline(folder, provider=provider)
        chosen = {name: value_from_text(text) for name, text in options}
        if max_new_tokens is not None:
            chosen["max_new_tokens"] = max_new_tokens
        several = any(chosen.get(name, 1) != 1 for name in ("num_beams", "num_return_sequences"))
        if isinstance(answer, Generator) and texts and not (as_json or several):
            print_streams(answer, texts, chosen)
            return
        items = list(texts) if texts else [item_from_fields(fields)]
        answers = [answer(item, **chosen) for item in items]
        if as_json:
            click.echo(to_json(answers))
        else:
            print_answers(items, answers)
