"""Repositories with one mistake each, what our check says of it, and whether Triton refuses it, too.

Each starts from the repository of a tagger, called tagger, whose model has six labels and takes 32 rows.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

Edit: TypeAlias = Callable[[Path], None]
"""A function that changes a model's folder."""

MASK = """input {
  name: "attention_mask"
  data_type: TYPE_INT64
  dims: [ -1 ]
}
"""
TOKENS = """output {
  name: "tokens"
  data_type: TYPE_INT64
  dims: [ -1, 7 ]
}
"""
QUEUE = """REJECT
    default_timeout_microseconds: 30000000
    allow_timeout_override: true
    max_queue_size: 1024"""
POLICY = f"""
  default_queue_policy {{
    timeout_action: {QUEUE}
  }}"""
GPU_ACCELERATOR = 'optimization { execution_accelerators { gpu_execution_accelerator { name: "tensorrt" } } }'


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistake:
    """A mistake: what is edited in which model of tagger, what our check says, and whether Triton refuses to load it.

    `refused` is None if Triton 24.10 may wait for ever or crash instead. `later` says that the line which is named is a
    later one than the edited ones: the second of two, or where the parser stops.
    """

    model: str
    edit: Edit
    message: str
    refused: bool | None
    later: bool = False


def replace(old: str, new: str) -> Edit:
    """Return an edit that replaces a text in the configuration that a server without a GPU reads."""

    def edit(folder: Path) -> None:
        config = next(path for path in (folder / "configs/cpu.pbtxt", folder / "config.pbtxt") if path.exists())
        text = config.read_text(encoding="utf-8")
        assert old in text
        config.write_text(text.replace(old, new, 1), encoding="utf-8")

    return edit


def append(text: str) -> Edit:
    """Return an edit that appends a text to the configuration."""
    return replace("name:", f"{text}\nname:")


def parameter(key: str, value: str) -> Edit:
    return append(f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}')


def remove(path: str) -> Edit:
    def edit(folder: Path) -> None:
        target = folder / path
        if target.is_dir():
            shutil.rmtree(target)
        else:
            target.unlink()

    return edit


def shorten(path: str) -> Edit:
    """Return an edit that cuts a file in half."""

    def edit(folder: Path) -> None:
        content = (folder / path).read_bytes()
        (folder / path).write_bytes(content[: len(content) // 2])

    return edit


def rewrite(path: str, old: str, new: str) -> Edit:
    """Return an edit that replaces a text in a file."""

    def edit(folder: Path) -> None:
        text = (folder / path).read_text(encoding="utf-8")
        assert old in text
        (folder / path).write_text(text.replace(old, new), encoding="utf-8")

    return edit


def reverse(path: str) -> Edit:
    """Return an edit that turns the order of a file's lines around."""

    def edit(folder: Path) -> None:
        lines = (folder / path).read_text(encoding="utf-8").splitlines(keepends=True)
        (folder / path).write_text("".join(reversed(lines)), encoding="utf-8")

    return edit


def on_model(edit: Edit, message: str, *, refused: bool | None, later: bool = False) -> Mistake:
    return Mistake(model="tagger_model", edit=edit, message=message, refused=refused, later=later)


def on_tokenizer(edit: Edit, message: str, *, refused: bool | None, later: bool = False) -> Mistake:
    return Mistake(model="tagger_tokenizer", edit=edit, message=message, refused=refused, later=later)


def on_ensemble(edit: Edit, message: str, *, refused: bool | None) -> Mistake:
    return Mistake(model="tagger", edit=edit, message=message, refused=refused)


MISTAKES = {
    # Text
    "unknown field": on_model(
        replace("max_batch_size", "max_batchsize"), 'no field named "max_batchsize"', refused=True
    ),
    "unknown field within": on_model(
        replace("count: ", "counts: "), 'ModelInstanceGroup.* no field named "counts"', refused=True
    ),
    "open brace": on_model(append("input {"), 'ModelInput.* no field named "platform"', refused=True, later=True),
    "no colon": on_model(replace("count: ", "count "), 'Expected ":"', refused=True),
    "no enum": on_model(replace("TYPE_INT64", "TYPE_INT"), "DataType.* no value named TYPE_INT", refused=True),
    "string for a number": on_model(
        replace("max_batch_size: 32", 'max_batch_size: "32"'), "parse integer", refused=True
    ),
    "given twice": on_model(append("max_batch_size: 16"), 'multiple "max_batch_size"', refused=True, later=True),
    "open string": on_model(replace('"input_ids"', '"input_ids'), "missing ending quote", refused=True),
    # Names and versions
    "another name": on_model(
        replace('"tagger_model"', '"tagger"'), 'name is "tagger": expected "tagger_model"', refused=True
    ),
    "another backend": on_model(
        replace('"onnxruntime"', '"onnxrt"'), 'backend is "onnxrt": expected "onnxruntime"', refused=True
    ),
    "another platform": on_model(
        replace("onnxruntime_onnx", "tensorflow_graphdef"),
        'platform is "tensorflow_graphdef": expected "onnxruntime_onnx"',
        refused=True,
    ),
    "no such file": on_model(
        replace('"model.onnx"', '"model2.onnx"'), 'default_model_filename is "model2.onnx"', refused=True
    ),
    "half a file": on_model(
        shorten("1/model.onnx"), r"1/model\.onnx: it has 6,\d+ bytes, rpln\.json says 13,", refused=True
    ),
    "no version": on_model(remove("1"), "there is no version", refused=True),
    "no versions wanted": on_model(
        replace("num_versions: 1", "num_versions: 0"), r"num_versions is 0: expected 1", refused=True
    ),
    "version not there": on_model(
        replace("latest {\n    num_versions: 1\n  }", "specific { versions: [ 7 ] }"),
        r"versions is \[7\]: expected versions that are there: 1",
        refused=True,
    ),
    # Tensors
    "another input type": on_model(
        replace("TYPE_INT64", "TYPE_INT32"), "input_ids.*data_type is TYPE_INT32: expected TYPE_INT64", refused=True
    ),
    "another output type": on_model(
        replace("TYPE_FP32", "TYPE_FP16"), "logits.*data_type is TYPE_FP16: expected TYPE_FP32", refused=True
    ),
    "misspelt input": on_model(
        replace('"input_ids"', '"input_id"'),
        r'"input_id".* does not write it: did you mean input\["input_ids"\]',
        refused=True,
    ),
    "rank": on_model(replace("dims: [ -1 ]", "dims: [ -1, -1 ]"), r"dims is \[-1, -1\]: expected \[-1\]", refused=True),
    "size": on_model(
        replace("dims: [ -1, 6 ]", "dims: [ -1, 5 ]"), r"dims is \[-1, 5\]: expected \[-1, 6\]", refused=True
    ),
    "size 0": on_model(replace("dims: [ -1 ]", "dims: [ 0 ]"), r"dims is \[0\]: expected \[-1\]", refused=True),
    "size -2": on_model(replace("dims: [ -1 ]", "dims: [ -2 ]"), r"dims is \[-2\]: expected \[-1\]", refused=True),
    "no dims": on_model(replace("dims: [ -1 ]", "dims: [ ]"), r"dims is \[\]: expected \[-1\]", refused=True),
    "input left out": on_model(replace(MASK, ""), r'input\["attention_mask"\] is missing', refused=True),
    "input twice": on_tokenizer(
        append('input { name: "text" data_type: TYPE_STRING dims: [ 1 ] }'),
        r'input\["text"\] is there 2 times',
        refused=False,
        later=True,
    ),
    "output left out": on_tokenizer(replace(TOKENS, ""), r'output\["tokens"\] is missing', refused=False),
    # Batches, queues, instances
    "negative batch": on_model(
        replace("max_batch_size: 32", "max_batch_size: -1"), "max_batch_size is -1: expected 32", refused=True
    ),
    "batch beyond an int32": on_model(
        replace("max_batch_size: 32", "max_batch_size: 2147483648"), "out of range: 2147483648", refused=True
    ),
    "batcher without batches": on_tokenizer(
        replace("max_batch_size: 32", "max_batch_size: 0"), "max_batch_size is 0: expected 32", refused=False
    ),
    "preferred beyond the largest": on_model(
        replace("dynamic_batching {", "dynamic_batching { preferred_batch_size: [ 64 ]"),
        r"preferred_batch_size is \[64\]: expected rising numbers of 1 to max_batch_size, 32",
        refused=True,
    ),
    "preferred 0": on_model(
        replace("dynamic_batching {", "dynamic_batching { preferred_batch_size: [ 0 ]"),
        r"preferred_batch_size is \[0\]: expected rising",
        refused=True,
    ),
    "negative delay": on_model(replace("microseconds: 1000", "microseconds: -1"), "out of range: -1", refused=True),
    "no timeout": on_tokenizer(
        replace("default_timeout_microseconds: 30000000", "default_timeout_microseconds: 0"),
        "default_timeout_microseconds is 0: expected 1,000 to 600,000,000",
        refused=False,
    ),
    "what is late waits for ever": on_tokenizer(
        replace(QUEUE, "DELAY\n    default_timeout_microseconds: 1"),
        "max_queue_size is missing: expected 1",
        refused=False,
    ),
    "queue policy of a single instance": on_tokenizer(
        replace("count: 2", "count: 1"), r"instance_group\[0\].count is 1: expected 2 to 64", refused=False
    ),
    "queue of any size": on_tokenizer(
        replace("max_queue_size: 1024", "max_queue_size: 0"), "max_queue_size is 0: expected 1 to", refused=False
    ),
    "delay of a minute": on_model(
        replace("microseconds: 1000", "microseconds: 60000000"), "is 60000000: expected 0 to 100,000", refused=False
    ),
    "default priority out of range": on_model(
        replace("dynamic_batching {", "dynamic_batching { priority_levels: 2 default_priority_level: 5"),
        "default_priority_level is 5: expected 1 to priority_levels, 2",
        refused=True,
    ),
    "no queue policy": on_tokenizer(
        replace(POLICY, ""), "default_queue_policy is missing: expected one for several instances", refused=False
    ),
    "negative count": on_model(replace("count: ", "count: -"), r"count is -\d: expected 1 to 64", refused=False),
    "count 0": on_model(replace("count: ", "count: 0 # "), "count is 0: expected 1 to 64", refused=False),
    "GPU on a server without": on_model(
        replace("KIND_CPU", "KIND_GPU"), "kind is KIND_GPU: expected KIND_CPU", refused=True
    ),
    "GPUs of the CPU": on_model(
        replace("count: ", "gpus: [ 0 ] count: "),
        r"gpus is \[0\]: expected none on instances of the CPU",
        refused=True,
    ),
    "GPU accelerator on the CPU": on_model(
        append(GPU_ACCELERATOR), '"tensorrt".* is there: expected none, it has no effect', refused=False
    ),
    # Parameters
    "misspelt parameter": on_model(
        parameter("intra_op_threads", "1"),
        "intra_op_threads.* does not write it: did you mean .*intra_op_thread_count",
        refused=False,
    ),
    "parameter that is no number": on_model(
        parameter("intra_op_thread_count", "two"), 'is "two": expected a number', refused=True
    ),
    "parameter twice": on_tokenizer(
        parameter("options", "{}"), r'parameters\["options"\] is there 2 times', refused=False, later=True
    ),
    "parameter left out": on_tokenizer(
        replace('key: "options"', 'key: "option"'), r'parameters\["options"\] is missing', refused=True
    ),
    "options that are no JSON": on_tokenizer(replace('"{}"', '"{"'), "options is not JSON", refused=True),
    "unknown option": on_tokenizer(replace('"{}"', '"{\\"stripe\\": 3}"'), "unknown option 'stripe'", refused=True),
    "option out of range": on_tokenizer(replace('"{}"', '"{\\"stride\\": -3}"'), "stride is -3", refused=True),
    "falling buckets": on_tokenizer(replace('"16,32,64"', '"32,16,64"'), "expected rising lengths", refused=False),
    "bucket beyond the model": on_tokenizer(replace('"16,32,64"', '"16,32,128"'), "a bucket is 128", refused=False),
    "more rows than the model takes": on_tokenizer(
        replace('string_value: "32"', 'string_value: "64"'), 'most_rows.* is "64": expected "32"', refused=False
    ),
    "text bytes that are no number": on_tokenizer(
        replace('"65536"', '"64K"'), r'max_text_bytes.* is "64K": expected a number', refused=True
    ),
    "no text bytes": on_tokenizer(
        replace('"65536"', '"0"'), r'max_text_bytes.* is "0": expected a number, 1 to', refused=False
    ),
    "another version of the runtime": on_tokenizer(
        replace('"0.1.0"', '"0.0.9"'), 'rpln_runtime.* is "0.0.9": expected', refused=True
    ),
    # Files
    "no labels": on_model(remove("labels.txt"), "labels.txt: it is missing", refused=True),
    "too few labels": on_model(shorten("labels.txt"), "labels.txt, line 4: it differs", refused=False),
    "no code": on_tokenizer(remove("1/model.py"), "1/model.py: it is missing", refused=None),
    "no tokenizer": on_tokenizer(remove("1/tokenizer.json"), "tokenizer.json: it is missing", refused=True),
    "labels swapped": on_model(reverse("labels.txt"), "labels.txt, line 1: it differs", refused=False),
    "syntax error": on_tokenizer(
        rewrite("1/model.py", "make_step =", "make_step :="), "1/model.py, line 10: it differs", refused=True
    ),
    "code of another step": on_tokenizer(
        rewrite("1/model.py", "tokenizer import TokenizerStep", "answers import AnswerStep as TokenizerStep"),
        "1/model.py, line 4: it differs",
        refused=False,
    ),
    # Warm-up
    "warm-up of another input": on_model(
        replace('key: "input_ids"', 'key: "input_id"'), '"input_id".* does not write it', refused=True
    ),
    "no warm-up file": on_model(remove("warmup/ones_16"), "warmup/ones_16: it is missing", refused=True),
    "short warm-up file": on_model(
        shorten("warmup/ones_16"), "warmup/ones_16: it differs from the 128 bytes", refused=True
    ),
    "large warm-up batch": on_model(
        replace("batch_size: 1", "batch_size: 100"), "batch_size is 100: expected 1 to 32", refused=None
    ),
    # Wiring
    "no such step": on_ensemble(
        replace('model_name: "tagger_model"', 'model_name: "tagger_modell"'),
        'tagger_modell".* does not write it: did you mean',
        refused=True,
    ),
    "step of another version": on_ensemble(
        replace("model_version: -1", "model_version: 3"), "model_version is 3: expected -1", refused=True
    ),
    "nothing fed": on_ensemble(
        replace('key: "text"\n', 'key: "texts"\n'), r'input_map\["text"\] is missing: expected "text"', refused=True
    ),
    "fed by nothing": on_ensemble(
        replace('value: "tokens"', 'value: "token"'),
        r'output_map\["tokens"\] is "token": expected "tokens"',
        refused=True,
    ),
    "not given": on_ensemble(
        replace('key: "count"', 'key: "counts"'),
        r'output_map\["counts"\] is "count", but rpln triton does not write it',
        refused=True,
    ),
    "start and end swapped": on_ensemble(
        replace(
            'key: "start"\n      value: "start"\n    }\n    output_map {\n      key: "end"\n      value: "end"',
            'key: "start"\n      value: "end"\n    }\n    output_map {\n      key: "end"\n      value: "start"',
        ),
        r'output_map\["start"\] is "end": expected "start"',
        refused=False,
    ),
    "another type than its step": on_ensemble(
        replace("TYPE_FP32", "TYPE_FP64"), "data_type is TYPE_FP64: expected TYPE_FP32", refused=True
    ),
    "more rows than its steps": on_ensemble(
        replace("max_batch_size: 32", "max_batch_size: 64"), "max_batch_size is 64: expected 32", refused=True
    ),
    "input that goes nowhere": on_ensemble(
        append('input { name: "more" data_type: TYPE_STRING dims: [ 1 ] }'),
        r'input\["more"\] is there, but rpln triton does not write it: take it out',
        refused=True,
    ),
    "output of nothing": on_ensemble(
        append('output { name: "more" data_type: TYPE_STRING dims: [ 1 ] }'),
        r'output\["more"\] is there, but rpln triton does not write it: take it out',
        refused=True,
    ),
}
