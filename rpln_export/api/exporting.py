"""`export`: a checkpoint becomes a bundle. The command `rpln-export` calls this function, too."""

import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from rpln_export.api.bundle import Bundle
from rpln_export.errors import PlanError
from rpln_export.plan.choices import AUTO
from rpln_export.plan.gate import check_gate
from rpln_export.steps import Watcher
from rpln_graphs.trace_methods import REPEAT
from rpln_runtime.manifest import read_manifest
from rpln_runtime.options import path_from_value, shown_kind

_Path = str | Path
_Names = str | Sequence[str]


def export(
    checkpoint: _Path | None = None,
    *,
    task: str | None = None,
    revision: str | None = None,
    tokenizer: _Path | None = None,
    is_decoder: bool = False,
    allow_random_head: bool = False,
    tie: bool | None = None,
    ignore_unexpected: bool = False,
    dictionary: _Path | None = None,
    bpe: tuple[_Path, _Path] | None = None,
    precision: str = "fp32",
    quantize_embeddings: bool = False,
    io_dtype: str = "fp32",
    calibration: _Path | None = None,
    min_agreement: float | None = None,
    evaluation: _Path | None = None,
    max_drop: float | None = None,
    opset: int | None = None,
    inputs: _Names = (),
    outputs: _Names = (),
    variants: _Names = (),
    logits: str | None = None,
    pooling: _Names = (),
    trace: str = REPEAT,
    with_tokenizer: bool = False,
    optimize: str = AUTO,
    target: str | None = None,
    workload: str | None = None,
    workload_file: _Path | None = None,
    pack_padding: bool = False,
    allow_partial_fusion: bool = False,
    engine: str = AUTO,
    gpus: _Names = (),
    profiles: Sequence[str] = (),
    workspace: int | None = None,
    version_compatible: bool = False,
    hardware_compatible: bool = False,
    strip_weights: bool = False,
    verbose: bool = False,
    output: _Path | None = None,
    progress: bool | Watcher = True,
) -> Bundle:
    """Export a RoBERTa-PreLayerNorm checkpoint to ONNX, proven equal to eager PyTorch before anything is published.

    The keywords are the options of `rpln-export`. Where several names can be given, a text with commas between the
    names does as well as a list.

    Args:
        checkpoint: a folder, an id on the Hugging Face hub, or a .pt file of fairseq. An adapter of peft is merged into
            its network. None means the embedded checkpoint of the task.
        task: what the checkpoint does, such as "token-classification". None means the task of the architecture in its
            config.
        revision: the branch, tag or commit of a hub id.
        tokenizer: the folder or hub id of the tokenizer. None means that of the checkpoint.
        is_decoder: whether to read the checkpoint as a decoder (causal LM), whatever its config says.
        allow_random_head: whether the task's head gets random weights if the checkpoint lacks it.
        tie: whether a language model projects onto its word embeddings, or has weights of its own for that
            (`lm_head.decoder.weight`). None means what the config says.
        ignore_unexpected: whether weights of the checkpoint that the network has no place for are left out. Otherwise
            they are refused.
        dictionary: the dictionary of a checkpoint of fairseq, dict.txt.
        bpe: the files of GPT-2's byte-level BPE that go with `dictionary`: encoder.json and vocab.bpe.
        precision: the type that the graph computes in and that its weights are stored in: "fp32", "fp16", "bf16",
            "int8", "int8-static", "int8-dynamic", "int8-weight-only", "int4", "int8-tensorrt", "fp8",
            "int8-weight-only-tensorrt" or "int4-tensorrt".
        quantize_embeddings: whether the word embeddings of an int8 or int4 graph for CPUs, and its projection onto the
            vocabulary, are stored in 8 bits, too.
        io_dtype: the type of the graph's float inputs and outputs: "fp32" or "fp16".
        calibration: a file of texts like those that the model will read, on which activations of quantized, fp16 and
            bf16 graphs are measured: a .txt file with one on each line, or a .jsonl file with the fields text and
            text_pair. None means built-in texts; to quantize an embedded checkpoint, its own.
        min_agreement: the least share of decisions that a quantized graph must make as the fp32 network does, on
            calibration texts that are held back. None means 0.99, and 0.9 for the words of a decoder.
        evaluation: a file of examples with right answers, as `rpln eval` takes them, on which quantized graphs are
            measured by the task's metric, too.
        max_drop: the most points that this metric may be worse by than in fp32.
        opset: the version of ONNX's operators. None means 20.
        inputs: extra inputs of the graph, such as "position_ids" and "head_mask".
        outputs: extra outputs of the graph, such as "hidden_states" and "attentions".
        variants: the graphs of a decoder: "with-past" (the default), "prefill" and "decode", or "full".
        logits: which positions get logits. Decoders: "last" (the default) or "all". fill-mask: "all" (the default),
            "masked" or "positions".
        pooling: how the graph pools the hidden states of a text's tokens to one vector, for feature-extraction: "cls",
            "mean" and others, or "none". An empty list means what the checkpoint says.
        trace: how layers get into the graph: "repeat" traces three and repeats the third, "full" traces all of them.
            Both give the same graph.
        with_tokenizer: whether the bundle gets a graph, too, that takes texts and tokenizes them itself.
        optimize: the form of the graph: "auto" measures all forms on this machine, "none" leaves the graph as traced,
            and the name of a form takes this one.
        target: what the graph is to run on, such as "cpu", "cuda" or "tensorrt". None means what suits the precision.
        workload: the batches that forms are measured on: "latency" (the default), "throughput" or "ragged".
        workload_file: a workload of your own: a JSON list of the lengths of texts in tokens, or a list of such lists.
        pack_padding: whether all computation on padding is skipped.
        allow_partial_fusion: whether a form or an engine may fuse less than it should.
        engine: the TensorRT that compiles the graphs: "auto", "none", "tensorrt" or "tensorrt-rtx".
        gpus: the GPUs that TensorRT-RTX builds for, as compute capabilities such as "sm89".
        profiles: sizes that engines are built for, such as "batch=1:8:32,sequence=1:128:384".
        workspace: the most memory of the GPU, in MiB, that a kernel may use for intermediate results. None means all.
        version_compatible: whether later versions of TensorRT must run the engines, too.
        hardware_compatible: whether later generations of GPUs must run the engines, too.
        strip_weights: whether weights are left out of the engines, and read from the graph when an engine is loaded.
        verbose: whether TensorRT's log is printed on stderr.
        output: the folder that becomes the bundle. None means CHECKPOINT-TASK-PRECISION in the current folder.
        progress: whether the steps are shown while they run: in a notebook below the cell, elsewhere on stderr. Or a
            watcher of your own, which is told of them.

    Returns the bundle. Raises an RplnError or RplnModelError that says what happened and what to do next, such as
    PlanError for options that do not go together, and ValidationError for a graph that differs from eager PyTorch.
    Nothing is then left at `output`, and an older bundle there is untouched.
    """
    named, tokenizer = _name("checkpoint", checkpoint), _name("tokenizer", tokenizer)
    destination, dictionary = _path("output", output), _path("dictionary", dictionary)
    calibration, evaluation = _path("calibration", calibration), _path("evaluation", evaluation)
    workload_file = _path("workload_file", workload_file)

    with ExitStack() as stack:
        from rpln_export.api.progress import watching
        from rpln_graphs.recipes import RECIPES

        watcher = stack.enter_context(watching(progress=progress))
        if precision in RECIPES and RECIPES[precision].quantizes:
            check_gate(min_agreement=min_agreement, data=evaluation, max_drop=max_drop)
        # These import torch, so that importing this module is quick.
        from rpln_export.checkpoint.conversion import as_transformers, tokenizer_for, vocabulary_from_options
        from rpln_export.pipeline import export as carry_out
        from rpln_export.plan.engines import engine_request
        from rpln_export.plan.export_plan import FAIRSEQ_SUFFIX, make_plan

        beside = destination or Path(Path(named or "").resolve().name.removesuffix(FAIRSEQ_SUFFIX))
        vocabulary = vocabulary_from_options(dictionary, None if bpe is None else (Path(bpe[0]), Path(bpe[1])))
        readable = stack.enter_context(as_transformers(named, task=task, revision=revision, beside=beside))
        own_tokenizer = tokenizer_for(
            readable,
            tokenizer=tokenizer,
            vocabulary=vocabulary,
            beside=beside,
        )
        plan = make_plan(
            readable.source,
            origin=readable.origin,
            task=task,
            precision=precision,
            destination=destination,
            revision=revision,
            inputs=_names(inputs),
            outputs=_names(outputs),
            opset=opset,
            trace=trace,
            io_dtype=io_dtype,
            tokenizer=stack.enter_context(own_tokenizer),
            calibration=calibration,
            min_agreement=min_agreement,
            evaluation=evaluation,
            max_drop=max_drop,
            quantize_embeddings=quantize_embeddings,
            variants=_names(variants),
            logits=logits,
            pooling=_names(pooling),
            is_decoder=is_decoder,
            allow_random_head=allow_random_head,
            ignore_unexpected=ignore_unexpected,
            tie=tie,
            optimize=optimize,
            target=target,
            workload=workload,
            workload_file=workload_file,
            pack_padding=pack_padding,
            allow_partial_fusion=allow_partial_fusion,
            with_tokenizer=with_tokenizer,
            engines=engine_request(
                engine=engine,
                gpus=_names(gpus),
                profiles=[profiles] if isinstance(profiles, str) else profiles,
                workspace=workspace,
                version_compatible=version_compatible,
                hardware_compatible=hardware_compatible,
                strip_weights=strip_weights,
                verbose=verbose,
            ),
        )
        report = carry_out(plan, watcher)
    return Bundle(path=plan.destination, manifest=read_manifest(plan.destination, verify=False), _report=report)


def _name(argument: str, value: object) -> str | None:
    """Return the folder, file or id that an argument names. Raises PlanError for an object in its place."""
    if value is None or isinstance(value, str | os.PathLike):
        return None if value is None else str(value)
    raise PlanError(
        f"{argument} is {shown_kind(value)}, expected a folder or an id on the Hugging Face hub. Save the object with "
        "its save_pretrained(FOLDER), and name this folder."
    )


def _path(argument: str, value: object) -> Path | None:
    return None if value is None else path_from_value(argument, value)


def _names(value: _Names) -> list[str]:
    """Return the names in a list, or in a text that has commas between them."""
    given = value.split(",") if isinstance(value, str) else value
    return [name.strip() for name in given if name.strip()]
