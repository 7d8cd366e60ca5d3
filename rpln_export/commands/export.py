"""`rpln-export`: a checkpoint becomes a bundle. Its options are the arguments of `rpln_export.export`."""

import json
from pathlib import Path
from typing import Any, Final

import click
import cloup

from rpln_export._version import __version__
from rpln_export.commands import table_option
from rpln_export.commands.checkpoint_options import fairseq_options, is_decoder_option, revision_option, task_option
from rpln_export.commands.engine_options import engine_options
from rpln_export.commands.settings import HELP, Program
from rpln_export.commands.table_option import TableOption
from rpln_export.commands.user_errors import user_errors
from rpln_export.commands.values import names

EXAMPLES: Final = """
\b
Examples:
  rpln-export --task token-classification --fp16        the embedded part-of-speech tagger
  rpln-export ./my-checkpoint                           the task that its config names, in fp32
  rpln-export org/name --task fill-mask --bf16 -o out   a checkpoint on the Hugging Face hub
  rpln-export best.pt --dict dict.txt --bpe encoder.json vocab.bpe     a checkpoint of fairseq
  rpln-export ./lm --fp16 --engine tensorrt-rtx --gpu sm89,sm120       compiled for these GPUs
\b
Exit codes: 0 done; 1 any other error; 2 not possible as asked; 3 input that the graph cannot take;
  4 broken bundle; 5 provider not available; 6 extra not installed (the message names the pip command);
  7 broken checkpoint; 8 graph not made; 9 destination not written; 10 graph not equal to eager torch;
  11 engine not built; 12 int8, int4 or fp8 not accurate enough; 130 interrupted.
"""

_PATH: Final = click.Path(path_type=Path)


class _Int8(click.Choice[str]):
    """The kinds of int8. --int8 takes the word behind it for one, which may have been meant as the checkpoint."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the kind called `value`, or say what to type if it is none."""
        if value not in self.choices:
            self.fail(
                f"{value!r} is no kind of int8: choose one of {', '.join(self.choices)}. If it is the checkpoint, name "
                f"it first: rpln-export {value} --int8",
                param,
                ctx,
            )
        return str(value)


@cloup.command(cls=Program, epilog=EXAMPLES, context_settings=HELP)
@cloup.argument(
    "checkpoint",
    required=False,
    help="A folder, an id on the Hugging Face hub, or a .pt file of fairseq. An adapter of peft is merged into its "
    "network. [default: the embedded checkpoint of the task]",
)
@cloup.option_group(
    "Checkpoint",
    task_option,
    revision_option,
    cloup.option("--tokenizer", help="The folder or hub id of the tokenizer. [default: CHECKPOINT]"),
    is_decoder_option,
    cloup.option(
        "--allow-random-head",
        is_flag=True,
        help="Use random weights for the task's head if the checkpoint lacks it.",
    ),
    cloup.option(
        "--tie/--no-tie",
        default=None,
        help="Whether a language model projects onto its word embeddings, or has weights of its own for that "
        "(lm_head.decoder.weight). [default: what the config says]",
    ),
    cloup.option(
        "--ignore-unexpected",
        is_flag=True,
        help="Leave out weights of the checkpoint that the network has no place for. The report lists them.",
    ),
)
@fairseq_options
@cloup.option_group(
    "Precision",
    cloup.option(
        "--precision",
        cls=TableOption,
        rows=table_option.precisions,
        help="The type that the graph computes in and that its weights are stored in: {rows}. [default: fp32]",
    ),
    cloup.option("--fp16", is_flag=True, help="Short for --precision fp16: half precision, for CUDA and TensorRT."),
    cloup.option("--bf16", is_flag=True, help="Short for --precision bf16: bfloat16, for CUDA and TensorRT."),
    cloup.option(
        "--int8",
        is_flag=False,
        flag_value="auto",
        type=_Int8(["auto", "static", "dynamic", "weight-only"]),
        help="Short for --precision int8: products in 8 bits, for CPUs. static has scales measured before, dynamic "
        "takes them from each batch, weight-only rounds nothing but weights. auto, if nothing is said, is the faster "
        "of static and dynamic for encoders, and weight-only for decoders. With --target tensorrt, or with --engine "
        "tensorrt or tensorrt-rtx, encoders are static with the rest in fp16 (--precision int8-tensorrt), and "
        "weight-only is laid out for TensorRT (--precision int8-weight-only-tensorrt).",
    ),
    cloup.option(
        "--int4",
        is_flag=True,
        help="Short for --precision int4: weights in 4 bits, for decoders on CPUs; with --target tensorrt or an engine "
        "of TensorRT's, laid out for that, with the rest in fp16 (--precision int4-tensorrt).",
    ),
    cloup.option(
        "--fp8",
        is_flag=True,
        help="Short for --precision fp8: products of encoders in floats of 8 bits, the rest in fp16, for TensorRT on "
        "GPUs from sm89 on.",
    ),
    cloup.option(
        "--quantize-embeddings",
        is_flag=True,
        help="Store the word embeddings of an int8 or int4 graph for CPUs, and its projection onto the vocabulary, in "
        "8 bits, too. The file becomes smaller; the speed stays.",
    ),
    cloup.option(
        "--io-dtype",
        cls=TableOption,
        rows=table_option.io_dtypes,
        default="fp32",
        show_default=True,
        help="The type of the graph's float inputs and outputs: {rows}.",
    ),
    cloup.option(
        "--calibration",
        type=_PATH,
        metavar="TEXTS.TXT",
        help="A file of texts like those that the model will read, on which activations of int8, int4, fp8, fp16 and "
        "bf16 graphs are measured: a .txt file with one on each line, or a .jsonl file with the fields text and "
        "text_pair. [default: built-in texts; to quantize an embedded checkpoint, its own]",
    ),
    cloup.option(
        "--min-agreement",
        type=float,
        metavar="SHARE",
        help="The least share of decisions that an int8, int4 or fp8 graph must make as the fp32 network does, on "
        "calibration texts that are held back. Layers that cost too much are not quantized. [default: 0.99; 0.9 for "
        "the words of a decoder]",
    ),
    cloup.option(
        "--eval",
        "evaluation",
        type=_PATH,
        metavar="DATA.JSONL",
        help="Examples with right answers, as rpln eval takes them. int8, int4 and fp8 graphs are measured by the "
        "task's metric on them, too.",
    ),
    cloup.option(
        "--max-drop",
        type=float,
        metavar="POINTS",
        help="The most points that this metric may be worse by than in fp32: per cent of a share such as accuracy, or "
        "of the value of another one, such as perplexity.",
    ),
)
@cloup.option_group(
    "Graph",
    cloup.option("--opset", type=int, help="The version of ONNX's operators. [default: 20]"),
    cloup.option(
        "--inputs",
        default="",
        callback=names,
        help="Extra graph inputs, separated by commas, for example position_ids,head_mask.",
    ),
    cloup.option(
        "--outputs",
        default="",
        callback=names,
        help="Extra graph outputs, separated by commas, for example hidden_states,attentions.",
    ),
    cloup.option(
        "--variants",
        cls=TableOption,
        rows=table_option.variants,
        default="",
        callback=names,
        help="The graphs of a decoder, separated by commas, of {rows}: with-past (default) is one graph for prompt and "
        "steps, prefill,decode are two graphs, full has no cache.",
    ),
    cloup.option(
        "--logits",
        help="Which positions get logits. Decoders: last (default) or all. fill-mask: all (default), masked (the graph "
        "finds the mask tokens) or positions (an input says where they are).",
    ),
    cloup.option(
        "--pooling",
        cls=TableOption,
        rows=table_option.poolings,
        default="",
        callback=names,
        help="How the graph pools the hidden states of a text's tokens to one vector, for feature-extraction: {rows}; "
        "several, separated by commas, are joined. none gives all hidden states. [default: what modules.json of "
        "sentence-transformers says, otherwise none]",
    ),
    cloup.option(
        "--trace",
        cls=TableOption,
        rows=table_option.trace_methods,
        default="repeat",
        show_default=True,
        help="How layers get into the graph: {rows}. repeat traces three and repeats the third; full, which traces all "
        "of them, gives the same graph and takes longer.",
    ),
    cloup.option("--with-tokenizer", is_flag=True, help="Add a graph that takes texts and tokenizes them itself."),
)
@cloup.option_group(
    "Speed",
    cloup.option(
        "--optimize",
        cls=TableOption,
        rows=table_option.optimizations,
        default="auto",
        show_default=True,
        help="The form of the graph: {rows}. auto measures all forms on this machine, none leaves the graph as traced.",
    ),
    cloup.option(
        "--target",
        cls=TableOption,
        rows=table_option.targets,
        help="What the graph is to run on: {rows}. [default: cpu for fp32, int8 and int4, cuda for fp16 and bf16, "
        "tensorrt for fp8, and for int8 and int4 with an --engine]",
    ),
    cloup.option(
        "--workload",
        cls=TableOption,
        rows=table_option.workloads,
        help="The batches that forms are measured on: {rows} (single texts, full batches, texts of unequal lengths). "
        "[default: latency]",
    ),
    cloup.option(
        "--workload-file",
        type=_PATH,
        metavar="LENGTHS.JSON",
        help="A workload of your own: a JSON list of the lengths of texts in tokens, or a list of such lists, one "
        "for each batch.",
    ),
    cloup.option(
        "--pack-padding", is_flag=True, help="Skip all computation on padding; for batches of texts of unequal lengths."
    ),
    cloup.option(
        "--allow-partial-fusion", is_flag=True, help="Accept a form or an engine that fuses less than it should."
    ),
)
@engine_options(required=False)
@cloup.option_group(
    "Output",
    cloup.option(
        "-o",
        "--output",
        type=_PATH,
        help="The folder that becomes the bundle. [default: CHECKPOINT-TASK-PRECISION in this folder]",
    ),
    cloup.option("--json", "as_json", is_flag=True, help="Print the report as JSON."),
)
@cloup.version_option(__version__)
def export_command(
    precision: str | None,
    fp16: bool,
    bf16: bool,
    int8: str | None,
    int4: bool,
    fp8: bool,
    as_json: bool,
    **options: Any,  # the other options have the names of the arguments that they become
) -> None:
    """Export a RoBERTa-PreLayerNorm CHECKPOINT to ONNX, proven equal to eager PyTorch before anything is published."""
    chosen = _precision(precision, fp16=fp16, bf16=bf16, int8=int8, int4=int4, fp8=fp8)
    with user_errors():
        from rpln_export.commands.show.progress import ProgressWatcher

        with ProgressWatcher() as watcher:
            from rpln_export.api.exporting import export

            report = export(precision=chosen, progress=watcher, **options).report
            from rpln_export.commands.show.report import print_report  # last, since it imports torch
        if as_json:
            click.echo(json.dumps(report.to_json(), indent=2))
        else:
            print_report(report)


def _precision(name: str | None, *, fp16: bool, bf16: bool, int8: str | None, int4: bool, fp8: bool) -> str:
    """Return the one precision that was asked for."""
    given = [
        (name or "", name is not None),
        ("fp16", fp16),
        ("bf16", bf16),
        ("int8" if int8 == "auto" else f"int8-{int8}", int8 is not None),
        ("int4", int4),
        ("fp8", fp8),
    ]
    asked = [precision for precision, is_given in given if is_given]
    if len(asked) > 1:
        raise click.UsageError(
            "--precision, --fp16, --bf16, --int8, --int4 and --fp8 all name a precision. Give only one of them."
        )
    return asked[0] if asked else "fp32"
