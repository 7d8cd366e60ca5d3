"""`rpln-export`: a checkpoint becomes a bundle."""

import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from rpln_export._version import __version__
from rpln_export.commands.engine_options import engine_options
from rpln_export.commands.fairseq_options import fairseq_options
from rpln_export.commands.user_errors import user_errors
from rpln_export.commands.values import names

if TYPE_CHECKING:
    from rpln_export.plan.engines import EngineRequest

EXAMPLES: Final = """
\b
Examples:
  rpln-export --task token-classification --fp16        the embedded part-of-speech tagger
  rpln-export ./my-checkpoint                           the task its config names, in fp32
  rpln-export org/name --task fill-mask --bf16 -o out   a checkpoint on the Hugging Face hub
  rpln-export best.pt --dict dict.txt --bpe encoder.json vocab.bpe     of fairseq
  rpln-export ./lm --fp16 --engine tensorrt-rtx --gpu sm89,sm120       compiled for these GPUs
\b
Exit codes: 0 done; 1 other error; 2 not possible as asked; 3 input the graph cannot take; 4 broken bundle;
  5 provider not available; 6 extra not installed (the message names the pip command); 7 broken checkpoint;
  8 graph not made; 9 destination; 10 not equal to eager torch; 11 engine not built; 130 interrupted.
"""


@click.command(epilog=EXAMPLES, context_settings={"max_content_width": 110})
@click.argument("checkpoint", required=False)
@click.option("--task", help="Task. [default: of its config's architectures]")
@click.option("--fp16", is_flag=True, help="Half precision, for CUDA and TensorRT.")
@click.option("--bf16", is_flag=True, help="bfloat16, for CUDA and TensorRT.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="[default: CHECKPOINT-TASK-PRECISION]")
@click.option("--opset", type=int, help="ONNX opset. [default: 20]")
@click.option("--inputs", default="", callback=names, help="More of them, as position_ids or head_mask.")
@click.option(
    "--outputs",
    default="",
    callback=names,
    help="More of them, as hidden_states,attentions.",
)
@click.option("--variants", default="", callback=names, help="Of a decoder: with-past, full, or prefill,decode.")
@click.option(
    "--logits",
    help="last or all; all, masked or positions (masks).",
)
@click.option("--io-dtype", default="fp32", help="Of float inputs and outputs: fp32, or fp16.")
@click.option("--tokenizer", help="Its folder or hub id. [default: CHECKPOINT]")
@fairseq_options
@click.option("--revision", help="Branch, tag or commit of a hub id.")
@click.option("--calibration", type=click.Path(path_type=Path), help="Texts to measure ranges on, one a line.")
@click.option("--is-decoder", is_flag=True, help="Make a causal decoder of a masked-LM checkpoint.")
@click.option("--allow-random-head", is_flag=True, help="Go on where the task's head is missing.")
@click.option("--optimize", default="auto", help="Form of the graph: auto (measures), none, NAME.")
@click.option("--target", help="cpu, cuda, tensorrt, portable. [default: by type]")
@click.option("--workload", help="To measure on: latency, throughput, ragged.")
@click.option("--workload-file", type=click.Path(path_type=Path), help="Your own: JSON, lengths of texts in tokens.")
@click.option("--pack-padding", is_flag=True, help="No work on padding: for unequal texts.")
@click.option("--with-tokenizer", is_flag=True, help="Add a graph that takes texts.")
@click.option("--allow-partial-fusion", is_flag=True, help="Go on where less is fused than should be.")
@engine_options(required=False)
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
    with ExitStack() as stack, user_errors():
        from rpln_export.checkpoint.conversion import as_transformers, tokenizer_for, vocabulary_from_options
        from rpln_export.commands.show.progress import ProgressWatcher
        from rpln_export.commands.show.report import print_report
        from rpln_export.pipeline import export
        from rpln_export.plan.export_plan import make_plan

        vocabulary = vocabulary_from_options(dictionary, bpe)
        readable = stack.enter_context(as_transformers(checkpoint, task=task, revision=revision))
        plan = make_plan(
            readable.source,
            origin=readable.origin,
            task=task,
            precision=_precision(fp16=fp16, bf16=bf16),
            destination=output,
            revision=revision,
            inputs=inputs,
            outputs=outputs,
            opset=opset,
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


def _precision(*, fp16: bool, bf16: bool) -> str:
    if fp16 and bf16:
        raise click.UsageError("--fp16 and --bf16 exclude each other: a graph has one precision.")
    return "fp16" if fp16 else "bf16" if bf16 else "fp32"
