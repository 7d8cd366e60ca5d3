"""The two commands: `rpln-export` makes a bundle, `rpln` does what follows. click only: parse -> plan -> call.

What a command needs is imported when it runs: `--help` must not wait for torch.
"""

import dataclasses
import json
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from rpln_export._version import __version__
from rpln_export.engine_options import engine_options, names

if TYPE_CHECKING:
    from rpln_export.engine_plans import EngineRequest

EXAMPLES: Final = """
\b
Examples:
  rpln-export --task token-classification --fp16        the embedded part-of-speech tagger
  rpln-export ./my-checkpoint                           the task its config names, in fp32
  rpln-export org/name --task fill-mask --bf16 -o out   a checkpoint on the Hugging Face hub
  rpln-export ./mlm --task feature-extraction --outputs hidden_states,attentions
  rpln-export checkpoint_best.pt --dict dict.txt --bpe encoder.json vocab.bpe
  rpln-export ./lm --task text-generation               a decoder with a cache, for ONNX Runtime
  rpln-export ./lm --fp16 --variants prefill,decode     the same as two graphs, for TensorRT
  rpln-export ./my-checkpoint --fp16 --engine tensorrt-rtx --gpu sm89,sm120     compiled for these GPUs
\b
Exit codes: 0 done; 1 other error; 2 not possible as asked; 3 input the graph cannot take; 4 broken bundle;
  5 provider not available; 6 extra not installed (the message names the pip command); 7 broken checkpoint;
  8 graph could not be made; 9 destination; 10 not equal to eager torch; 11 engine not built; 130 interrupted.
"""


INTERRUPTED: Final = 130


def _pairs(context: click.Context, parameter: click.Parameter, values: Sequence[str]) -> list[tuple[str, str]]:
    for value in values:
        if "=" not in value:
            raise click.BadParameter(f"{value!r} is not NAME=VALUE.")
    return [(name, text) for name, _, text in (value.partition("=") for value in values)]


def _fairseq_options(command: Callable[..., None]) -> Callable[..., None]:
    """--dict and --bpe, the files of a fairseq vocabulary."""
    path = click.Path(path_type=Path)
    bpe = click.option("--bpe", type=(path, path), help="Of fairseq: encoder.json and vocab.bpe.")
    dictionary = click.option("--dict", "dictionary", type=path, help="Of fairseq: dict.txt, with --bpe.")
    return dictionary(bpe(command))


@click.command(epilog=EXAMPLES, context_settings={"max_content_width": 110})
@click.argument("checkpoint", required=False)
@click.option("--task", help="Task. [default: of its config's architectures]")
@click.option("--fp16", is_flag=True, help="Half precision, for CUDA and TensorRT.")
@click.option("--bf16", is_flag=True, help="bfloat16, for CUDA and TensorRT.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder. [default: CHECKPOINT-TASK-PRECISION]")
@click.option("--opset", type=int, help="ONNX opset. [default: 20]")
@click.option(
    "--inputs", default="", callback=names, help="More inputs: inputs_embeds,position_ids,token_type_ids,head_mask."
)
@click.option(
    "--outputs",
    default="",
    callback=names,
    help="More outputs: hidden_states,attentions,pooler_output,cross_attentions.",
)
@click.option("--variants", default="", callback=names, help="Of a decoder: with-past, or full, prefill,decode.")
@click.option(
    "--logits",
    help="Of a decoder: last, or all. Of fill-mask: all, masked, or positions (an input). [default: the first]",
)
@click.option("--io-dtype", default="fp32", help="Float inputs and outputs: fp32, or fp16 with --fp16.")
@click.option("--tokenizer", help="Its folder or hub id. [default: CHECKPOINT]")
@_fairseq_options
@click.option("--revision", help="Branch, tag or commit of a hub id.")
@click.option(
    "--calibration", type=click.Path(path_type=Path), help="Text file, one example a line, to measure ranges on."
)
@click.option("--is-decoder", is_flag=True, help="Make a causal decoder of a masked-LM checkpoint.")
@click.option("--allow-random-head", is_flag=True, help="Go on where the checkpoint lacks the task's head.")
@click.option(
    "--optimize", default="auto", show_default=True, help="Form of the graph: auto measures, or none, or a form's name."
)
@click.option("--target", help="cpu, cuda, tensorrt or portable. [default: cpu for fp32, cuda for fp16 and bf16]")
@click.option("--workload", help="What auto measures on: latency, throughput or ragged. [default: latency]")
@click.option(
    "--workload-file", type=click.Path(path_type=Path), help="Your own: JSON, the lengths of texts in tokens."
)
@click.option("--pack-padding", is_flag=True, help="No work on padding: for texts of unequal lengths.")
@click.option("--with-tokenizer", is_flag=True, help="Add a graph of texts, which tokenizes within itself.")
@click.option("--allow-partial-fusion", is_flag=True, help="Go on where a pass fuses less than it should.")
@engine_options("auto")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.version_option(__version__)
def export_command(
    checkpoint: str | None,
    task: str | None,
    fp16: bool,
    bf16: bool,
    output: Path | None,
    opset: int | None,
    inputs: Sequence[str],
    outputs: Sequence[str],
    variants: Sequence[str],
    logits: str | None,
    io_dtype: str,
    tokenizer: str | None,
    dictionary: Path | None,
    bpe: tuple[Path, Path] | None,
    revision: str | None,
    calibration: Path | None,
    is_decoder: bool,
    allow_random_head: bool,
    optimize: str,
    target: str | None,
    workload: str | None,
    workload_file: Path | None,
    pack_padding: bool,
    with_tokenizer: bool,
    allow_partial_fusion: bool,
    engines: "EngineRequest",
    as_json: bool,
) -> None:
    """Export a RoBERTa-PreLayerNorm CHECKPOINT (folder, hub id, fairseq's .pt) to ONNX proven equal to eager torch."""
    with ExitStack() as stack, _user_errors():
        from rpln_export.conversion import as_transformers, tokenizer_for, vocabulary_from_options
        from rpln_export.pipeline import export
        from rpln_export.plan import make_plan
        from rpln_export.show import ProgressWatcher, print_report
        from rpln_graphs.trace import DEFAULT_OPSET

        if fp16 and bf16:
            raise click.UsageError("--fp16 and --bf16 exclude each other: a graph has one precision.")
        vocabulary = vocabulary_from_options(dictionary, bpe)
        readable = stack.enter_context(as_transformers(checkpoint, task=task, revision=revision))
        plan = make_plan(
            readable.source,
            origin=readable.origin,
            task=task,
            precision="fp16" if fp16 else "bf16" if bf16 else "fp32",
            destination=output,
            revision=revision,
            inputs=inputs,
            outputs=outputs,
            opset=DEFAULT_OPSET if opset is None else opset,
            io_dtype=io_dtype,
            tokenizer=stack.enter_context(tokenizer_for(readable, tokenizer=tokenizer, vocabulary=vocabulary)),
            calibration=calibration,
            variants=variants,
            logits=logits,
            is_decoder=is_decoder,
            allow_random_head=allow_random_head,
            optimize=optimize,
            target=target,
            workload=workload,
            workload_file=workload_file,
            pack_padding=pack_padding,
            allow_partial_fusion=allow_partial_fusion,
            with_tokenizer=with_tokenizer,
            engines=engines,
        )
        with ProgressWatcher() as watcher:
            report = export(plan, watcher)
        if as_json:
            click.echo(json.dumps(report.to_json(), indent=2))
        else:
            print_report(report)


@click.group(context_settings={"max_content_width": 110})
@click.version_option(__version__)
def rpln_command() -> None:
    """What follows an export: run a bundle, validate it again, look inside, and check this machine."""


@rpln_command.command("run")
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("texts", nargs=-1)
@click.option(
    "--field", "fields", multiple=True, callback=_pairs, help="NAME=VALUE of a task with several, as question."
)
@click.option("--option", "options", multiple=True, callback=_pairs, help="NAME=VALUE of the task, as top_k=3.")
@click.option("--max-new-tokens", type=int, help="The most tokens to generate. [default: 20]")
@click.option(
    "--provider",
    help="cpu, cuda, onnxruntime-tensorrt, tensorrt, tensorrt-rtx or openvino, never another. [default: what the export "
    "found fastest]",
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
    with _user_errors(interrupted="\nInterrupted."):
        from rpln_export.show import print_answers, print_streams, to_json
        from rpln_runtime import Generator, pipeline

        if bool(texts) == bool(fields):
            raise click.UsageError("give either one or more texts, or --field NAME=VALUE.")
        answer = pipeline(folder, provider=provider)
        chosen = {name: _value(text) for name, text in options}
        if max_new_tokens is not None:
            chosen["max_new_tokens"] = max_new_tokens
        several = any(chosen.get(name, 1) != 1 for name in ("num_beams", "num_return_sequences"))
        if isinstance(answer, Generator) and texts and not (as_json or several):
            print_streams(answer, texts, chosen)
            return
        items = list(texts) if texts else [_item(fields)]
        answers = [answer(item, **chosen) for item in items]
        if as_json:
            click.echo(to_json(answers))
        else:
            print_answers(items, answers)


@rpln_command.command("batch")
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("source", metavar="IN.JSONL", type=click.Path(path_type=Path))
@click.argument("output", metavar="OUT.JSONL", type=click.Path(path_type=Path))
@click.option("--option", "options", multiple=True, callback=_pairs, help="NAME=VALUE of the task, as top_k=3.")
@click.option(
    "--on-error",
    type=click.Choice(["stop", "record"]),
    default="stop",
    show_default=True,
    help="A line without an answer ends the run, or gets an error in its place.",
)
@click.option("--batch-size", type=int, help="The most texts in a batch. [default: 32; 8 where text is generated]")
@click.option("--window", type=int, help="Lines that are sorted by length, and on disk, together. [default: 1024]")
@click.option("--provider", help="One of those of rpln run. [default: what the export found fastest]")
@click.option("--threads", type=int, help="Of one operator. [default: what the export found fastest; 1 with --ray]")
@click.option("--ray", is_flag=True, help="Answer on a Ray cluster: that of RAY_ADDRESS, else one on this machine.")
@click.option("--actors", type=int, help="With --ray: processes that answer. [default: as the cluster has CPUs]")
def batch_command(
    folder: Path,
    source: Path,
    output: Path,
    options: Sequence[tuple[str, str]],
    on_error: str,
    batch_size: int | None,
    window: int | None,
    provider: str | None,
    threads: int | None,
    ray: bool,
    actors: int | None,
) -> None:
    """Answer every line of IN.JSONL with the bundle in FOLDER. After a kill, the same command goes on.

    \b
    {"id": 7, "text": "The dog barked."}                        a line in, other fields than the task's are kept
    {"id": 7, "answer": [{"entity": "DET", "score": ...}, ...]}  the same line out
    """
    with _user_errors(interrupted=f"Interrupted. The same command goes on from here; {output} is written when whole."):
        from rpln_export.show import CorpusWatcher, lines_in_words
        from rpln_runtime.corpus import WINDOW, run_corpus

        with CorpusWatcher(source.name) as watcher:
            done = run_corpus(
                folder,
                source,
                output,
                provider=provider,
                threads=threads,
                batch_size=batch_size,
                window=WINDOW if window is None else window,
                on_error=on_error,
                ray=ray,
                actors=actors,
                options={name: _value(text) for name, text in options},
                on_progress=watcher,
            )
        click.echo(f"{output}: {lines_in_words(done)}")


@rpln_command.command("validate")
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("checkpoint", required=False)
@click.option("--revision", help="Branch, tag or commit of a hub id.")
@click.option("--json", "as_json", is_flag=True, help="Print the comparisons as JSON.")
def validate_command(folder: Path, checkpoint: str | None, revision: str | None, as_json: bool) -> None:
    """Compare the bundle in FOLDER with the CHECKPOINT it was made from (default: the embedded one) once more."""
    with _user_errors():
        from rpln_export.revalidate import revalidate
        from rpln_export.show import ProgressWatcher, print_comparisons

        with ProgressWatcher() as watcher:
            proof = revalidate(folder, checkpoint, watcher, revision=revision)
        if as_json:
            click.echo(json.dumps([comparison.to_json() for comparison in proof.comparisons], indent=2))
        else:
            print_comparisons(proof.comparisons)


@rpln_command.command("inspect")
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("other", type=click.Path(path_type=Path), required=False)
@click.option("--variant", help="With OTHER: the graph of a bundle. [default: its first]")
@click.option("--text", "texts", multiple=True, help="With OTHER: compare values on this text; may be repeated.")
@click.option("--feeds", type=click.Path(path_type=Path), help="With OTHER: compare values on the arrays of this .npz.")
@click.option("--difference", type=float, help="With OTHER: share of its range that a value may differ by.")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def inspect_command(
    folder: Path,
    other: Path | None,
    variant: str | None,
    texts: Sequence[str],
    feeds: Path | None,
    difference: float | None,
    as_json: bool,
) -> None:
    """Show what the bundle in FOLDER holds, or two graphs side by side and where their values part.

    \b
    rpln inspect tagger
    rpln inspect tagger tagger-fp16 --text "The dog barked."
    rpln inspect tagger/model.onnx tagger/model.ort.onnx
    """
    with _user_errors(interrupted="Interrupted."):
        from rpln_export.graph_comparison import compare_graphs
        from rpln_export.inspection import inspect_bundle
        from rpln_export.show import print_graph_comparison, print_inspection

        if other is None and (variant or texts or feeds or difference is not None):
            raise click.UsageError("--variant, --text, --feeds and --difference are for two graphs: name the OTHER.")
        if texts and feeds:
            raise click.UsageError("--text and --feeds exclude each other.")
        if other is None:
            inspection = inspect_bundle(folder)
            if as_json:
                click.echo(json.dumps(inspection.to_json(), indent=2))
            else:
                print_inspection(inspection)
            return
        comparison = compare_graphs(folder, other, variant=variant, texts=texts, feeds=feeds, bound=difference)
        if as_json:
            click.echo(json.dumps(comparison.to_json(), indent=2))
        else:
            print_graph_comparison(comparison)


@rpln_command.command("convert")
@click.argument("checkpoint")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The folder to write.")
@click.option("--task", help="Whose head to take, where there are several. [default: what it was trained for]")
@_fairseq_options
@click.option("--revision", help="Branch, tag or commit of a hub id.")
def convert_command(
    checkpoint: str,
    output: Path,
    task: str | None,
    dictionary: Path | None,
    bpe: tuple[Path, Path] | None,
    revision: str | None,
) -> None:
    """Write a CHECKPOINT of fairseq (a .pt file) or DinkyTrain (a folder) as a folder that transformers loads.

    \b
    rpln convert checkpoint_best.pt -o my-checkpoint --dict dict.txt --bpe encoder.json vocab.bpe
    """
    with _user_errors(interrupted="Interrupted: nothing was written."):
        from rpln_export.conversion import convert, vocabulary_from_options

        vocabulary = vocabulary_from_options(dictionary, bpe)
        convert(checkpoint, output, task=task, revision=revision, vocabulary=vocabulary)
        click.echo(f"{output}: {', '.join(sorted(path.name for path in output.iterdir()))}")


@rpln_command.command("optimize")
@click.argument("source", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The file to write.")
@click.option("--form", default="standard", show_default=True, help="standard, attention, merged, fused, packed, ...")
@click.option("--feeds", type=click.Path(path_type=Path), help="An .npz file to compare on, an array for each input.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def optimize_command(source: Path, output: Path, form: str, feeds: Path | None, as_json: bool) -> None:
    """Rewrite an ONNX file from anywhere into another form, as far as the passes know its graph."""
    with _user_errors():
        from rpln_export.foreign import optimize_file
        from rpln_export.show import print_file_optimization

        result = optimize_file(source, output, form=form, feeds=feeds)
        if as_json:
            click.echo(json.dumps(result.to_json(), indent=2))
        else:
            print_file_optimization(result)


@rpln_command.command("build")
@click.argument("folder", type=click.Path(path_type=Path))
@engine_options(None)
@click.option("--allow-partial-fusion", is_flag=True, help="Go on where attention is not one kernel.")
@click.option("--json", "as_json", is_flag=True, help="Print the engines as JSON.")
def build_command(folder: Path, engines: "EngineRequest", allow_partial_fusion: bool, as_json: bool) -> None:
    """Add TensorRT engines to the bundle in FOLDER: for this GPU, or for others.

    \b
    rpln build tagger --engine tensorrt
    rpln build tagger --engine tensorrt-rtx --gpu sm89,sm120 --profile batch=1:8:32,sequence=1:128:384
    """
    with _user_errors(interrupted="Interrupted: the bundle is whole, with the engines it has."):
        from rpln_export.engine_plans import make_engine_plan
        from rpln_export.engines import build_engines
        from rpln_export.show import ProgressWatcher, print_engines
        from rpln_export.steps import Steps
        from rpln_runtime.manifest import read_manifest

        plan = make_engine_plan(engines, precision=read_manifest(folder).recipe)
        if plan.backend is None:
            raise click.UsageError(f"nothing to build: {plan.why_not}.")
        with ProgressWatcher() as watcher, Steps(watcher).step("compile") as advance:
            built = build_engines(plan, folder, advance, allow_partial=allow_partial_fusion)
        if as_json:
            click.echo(json.dumps([dataclasses.asdict(one) for one in built], indent=2))
        else:
            print_engines(built)


@rpln_command.command("engine")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the engines as JSON.")
def engine_command(folder: Path, as_json: bool) -> None:
    """Show the TensorRT engines of the bundle in FOLDER, and the kernels that they run."""
    with _user_errors(interrupted="Interrupted."):
        from rpln_export.engines import engines_of_bundle
        from rpln_export.show import print_engines, print_kernels

        engines = engines_of_bundle(folder)
        if as_json:
            click.echo(json.dumps([dataclasses.asdict(one) for one in engines], indent=2))
            return
        print_engines(engines)
        for engine in engines:
            print_kernels(engine)


@rpln_command.command("triton")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The model repository to write.")
@click.option("--name", help="What clients ask for. [default: the bundle's folder]")
@click.option("--batch-size", type=int, help="The most rows the model takes at a time. [default: 32; 8 of generators]")
@click.option("--buckets", help="Lengths that rows are padded to, as 32,64,128. [default: powers of two]")
@click.option("--option", "options", multiple=True, help="NAME=VALUE of the task, for requests that bring none.")
@click.option(
    "--engine", help="A TensorRT engine of the bundle, by its file's name without .plan. [default: the graph]"
)
@click.option("--check", is_flag=True, help="Check the repository in FOLDER instead of writing one.")
def triton_command(
    folder: Path,
    output: Path | None,
    name: str | None,
    batch_size: int | None,
    buckets: str | None,
    options: Sequence[str],
    engine: str | None,
    check: bool,
) -> None:
    """Write the bundle in FOLDER as a model repository for Triton Inference Server, or --check one.

    \b
    rpln triton tagger -o repository --name tagger
    rpln triton repository --check
    """
    with _user_errors():
        from rpln_runtime.triton import command

        if check == (output is not None):
            raise click.UsageError("give either -o REPOSITORY, to write one, or --check.")
        if output is None:
            click.echo(command.check(folder))
        else:
            done = command.write(
                folder, output, name=name, batch_size=batch_size, buckets=buckets, options=options, engine=engine
            )
            click.echo(done)


@rpln_command.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def doctor_command(as_json: bool) -> None:
    """Show what is installed, what is missing and what that costs, and what is in conflict."""
    from rich.console import Console

    from rpln_export.doctor import diagnose, render_table, to_json

    findings = diagnose()
    if as_json:
        click.echo(to_json(findings))
    else:
        Console().print(render_table(findings))
    if any(finding.status == "problem" for finding in findings):
        sys.exit(1)


def _item(fields: Sequence[tuple[str, str]]) -> dict[str, str | list[str]]:
    """One item of a task with several fields; a field given more than once is a list."""
    item: dict[str, str | list[str]] = {}
    for name, text in fields:
        earlier = item.get(name)
        item[name] = text if earlier is None else [*([earlier] if isinstance(earlier, str) else earlier), text]
    return item


def _value(text: str) -> Any:
    """An option's value: JSON or Python's True, False and None where it is that, else the text itself."""
    try:
        return json.loads({"True": "true", "False": "false", "None": "null"}.get(text, text))
    except ValueError:
        return text


@contextmanager
def _user_errors(*, interrupted: str = "Interrupted: nothing was published.") -> Iterator[None]:
    """Report what the user can put right in a line on stderr and leave with its exit code; let bugs show themselves."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        click.echo(interrupted, err=True)
        sys.exit(INTERRUPTED)
    except Exception as error:
        code = getattr(error, "exit_code", None)
        if code is None or isinstance(error, click.ClickException):
            raise
        click.echo(f"Error: {error}", err=True)
        sys.exit(code)
