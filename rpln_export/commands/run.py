"""`rpln run`: answer texts with a bundle."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import cloup

from rpln_export.commands.settings import HELP
from rpln_export.commands.table_option import TableOption, providers
from rpln_export.commands.user_errors import user_errors
from rpln_export.commands.values import item_from_fields, pairs

if TYPE_CHECKING:
    from rpln_runtime import Generator


@cloup.command("run", context_settings=HELP, short_help="Answer texts with a bundle.")
@cloup.argument("folder", type=click.Path(path_type=Path), help="The folder of the bundle.")
@cloup.argument(
    "texts",
    nargs=-1,
    help="The texts to answer, each an item of its own. - stands for the lines of the standard input.",
)
@cloup.option(
    "--field",
    "fields",
    multiple=True,
    callback=pairs,
    metavar="NAME=VALUE",
    help="A field of the item, for tasks that take several: question and context, prompt and choices, text and "
    "text_pair.",
)
@cloup.option(
    "--option",
    "options",
    multiple=True,
    callback=pairs,
    metavar="NAME=VALUE",
    help="An option of the task, for example top_k=3. Give it again for another option.",
)
@cloup.option("--max-new-tokens", type=int, help="The most tokens to generate. [default: 20]")
@cloup.option(
    "--provider",
    cls=TableOption,
    rows=providers,
    help="The provider that runs the graph: {rows}. It is an error if it does not run here. [default: the one that "
    "the export found fastest]",
)
@cloup.option("--full", is_flag=True, help="Print all numbers of vectors, not only how many and the first.")
@cloup.option("--json", "as_json", is_flag=True, help="Print the answers as JSON, all together at the end.")
def run_command(
    folder: Path,
    texts: Sequence[str],
    fields: Sequence[tuple[str, str]],
    options: Sequence[tuple[str, str]],
    max_new_tokens: int | None,
    provider: str | None,
    full: bool,
    as_json: bool,
) -> None:
    """Run the bundle in FOLDER on TEXTS, or on one item that --field describes. Generated text is shown as it comes.

    \b
    rpln run tagger "The dog barked."
    rpln run reader --field question="Who barked?" --field context="The dog barked."
    rpln run chooser --field prompt="It rained." --field choices="I got wet." --field choices="I slept."
    head -n 3 texts.txt | rpln run tagger -
    rpln run writer "It rained" --max-new-tokens 50 --option do_sample=true --option top_p=0.9
    """
    with user_errors(interrupted="\nInterrupted."):
        from rpln_export.commands.show.progress import ProgressWatcher

        if bool(texts) == bool(fields):
            raise click.UsageError(
                "give either one or more texts, - for those on the standard input, or --field NAME=VALUE."
            )
        with ProgressWatcher("opening"):
            from rpln_export.commands.show.answers import print_answers, print_streams, to_json
            from rpln_runtime import Generator, pipeline
            from rpln_runtime.command_line import texts_from_arguments, value_from_text

            answer = pipeline(folder, provider=provider)
        _check_items(
            ["text"] if isinstance(answer, Generator) else [field.name for field in answer.postprocess.fields],
            are_texts=bool(texts),
        )
        chosen = {name: value_from_text(text) for name, text in options}
        if max_new_tokens is not None:
            chosen["max_new_tokens"] = max_new_tokens
        if isinstance(answer, Generator) and texts and not as_json and _gives_one(answer, chosen):
            print_streams(answer, texts_from_arguments(texts), chosen)
            return
        items = list(texts_from_arguments(texts)) if texts else [item_from_fields(fields)]
        with ProgressWatcher("answering") as watcher:
            answers = []
            for item in items:
                answers.append(answer(item, **chosen))
                watcher.advance(len(answers), len(items))
        if as_json:
            click.echo(to_json(answers), file=sys.stdout)
        else:
            print_answers(items, answers, full=full)


def _gives_one(generator: "Generator", options: Mapping[str, Any]) -> bool:
    """Return whether a text gets a single answer, which can be shown as it comes."""
    names = ("num_beams", "num_return_sequences")
    return all(options.get(name, getattr(generator.options, name)) == 1 for name in names)


def _check_items(fields: Sequence[str], *, are_texts: bool) -> None:
    """Raise InputError for texts where the task's items have several `fields`, and for fields where they are texts."""
    from rpln_runtime import InputError

    if are_texts and "text" not in fields:
        raise InputError(f"this bundle takes no texts. Give {' and '.join(f'--field {name}=...' for name in fields)}.")
    if not are_texts and list(fields) == ["text"]:
        raise InputError("this bundle takes texts. Give them as they are, without --field.")
