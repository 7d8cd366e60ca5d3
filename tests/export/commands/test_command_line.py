"""`rpln-export` as people type it: what it prints, where bundles go, and what every option changes."""

import json
import os
import pty
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import transformers
from click.testing import CliRunner, Result

import rpln_export
from rpln_export.cli import INTERRUPTED, export_command, rpln_command
from rpln_export.plan.export_plan import make_plan
from rpln_export.plan.targets import TARGETS
from rpln_export.plan.workloads import WORKLOADS
from rpln_export.validation import calibration
from rpln_graphs import errors as graph_errors
from rpln_graphs.calibrate import measure_ranges
from rpln_graphs.forms import FORMS
from rpln_graphs.recipes import RECIPES
from rpln_graphs.tensorrt.backends import BACKENDS
from rpln_graphs.trace import DEFAULT_OPSET, NEWEST_OPSET, OLDEST_OPSET
from rpln_graphs.trace_methods import FULL, REPEAT, TRACE_METHODS
from rpln_model.errors import RplnModelError
from rpln_runtime import load
from rpln_runtime.errors import RplnError
from rpln_runtime.manifest import read_manifest
from rpln_runtime.tasks import DECODERS, TASKS
from tests.export.checkpoints import HIDDEN, make_checkpoint, make_tokenizer
from tests.export.conftest import Export
from tests.export.progress_lines import without_progress

COMMAND = [sys.executable, "-c", "from rpln_export.cli import export_command; export_command()"]
RPLN = [sys.executable, "-c", "from rpln_export.cli import rpln_command; rpln_command()"]

CODE = re.compile(r"(?:^|; |: )\s*(\d+) ", re.MULTILINE)
SENTENCE = "The dog barked in London."


def export(*arguments: object) -> Result:
    return CliRunner().invoke(export_command, [str(argument) for argument in arguments])


# What it says


@pytest.mark.parametrize("width", [80, 110, 200])
def test_help_is_as_wide_as_the_terminal_and_has_examples(width: int) -> None:
    text = CliRunner().invoke(export_command, ["--help"], terminal_width=width).stdout
    assert max(map(len, text.splitlines())) <= max(width, 110)
    assert "rpln-export --task token-classification --fp16" in text


def test_help_lists_the_rows_of_the_tables() -> None:
    text = re.sub(r"[-\s]+", "", CliRunner().invoke(export_command, ["--help"]).stdout)
    for table in (TASKS, RECIPES, FORMS, TARGETS, WORKLOADS, BACKENDS, DECODERS, TRACE_METHODS):
        assert re.sub(r"[-\s]+", "", ", ".join(table)) in text


def test_options_are_in_groups() -> None:
    text = CliRunner().invoke(export_command, ["--help"]).stdout
    groups = re.findall(r"^(\w[\w ]*):$", text, re.MULTILINE)
    assert groups[1:-2] == [
        *("Checkpoint", "Checkpoints of fairseq", "Precision", "Graph", "Speed", "TensorRT engines", "Output"),
    ]
    others = text[text.index("Other options:") : text.index("Examples:")]
    assert re.findall(r"--\w+", others) == ["--version", "--help"]


def test_help_names_every_option() -> None:
    text = CliRunner().invoke(export_command, ["--help"]).stdout
    asked = "--task --fp16 --bf16 --output --opset --inputs --outputs --io-dtype --tokenizer --calibration --is-decoder"
    assert [name for name in (*asked.split(), "--allow-random-head", "--json") if f"{name} " not in text] == []
    assert f"[default: {DEFAULT_OPSET}]" in text


def test_help_documents_every_exit_code_and_no_other() -> None:
    text = CliRunner().invoke(export_command, ["--help"]).stdout
    documented = {int(number) for number in CODE.findall(text[text.index("Exit codes") :])}
    assert graph_errors.GraphError in subclasses(RplnError)
    errors = [*subclasses(RplnError), *subclasses(RplnModelError)]
    assert documented == {0, INTERRUPTED} | {error.exit_code for error in errors}


def subclasses(error: Any) -> list[Any]:
    return [error, *(deeper for one in error.__subclasses__() for deeper in subclasses(one))]


@pytest.mark.parametrize(
    ("command", "arguments", "says"),
    [
        (
            rpln_command,
            ["export", "x"],
            "No such command 'export'. To export a checkpoint, run: rpln-export CHECKPOINT",
        ),
        (export_command, ["--model", "x"], "No such option '--model'. Name the checkpoint without an option"),
        (export_command, ["-m", "x"], "No such option '-m'. Name the checkpoint without an option"),
        (export_command, ["checkpoint", "out"], "argument (out). To name the folder of the bundle, run: rpln-export"),
        (export_command, ["--task", "text-clasification"], "Did you mean 'text-classification'?"),
        (rpln_command, ["inspec"], "Did you mean 'inspect'?"),
    ],
)
def test_what_people_expect_of_an_exporter_has_a_hint(command: Any, arguments: list[str], says: str) -> None:
    result = CliRunner().invoke(command, arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert says in " ".join(result.stderr.split())


def test_help_does_not_wait_for_torch() -> None:
    code = "import sys; from rpln_export.cli import export_command; export_command(['--help'], standalone_mode=False)"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; print('torch' in sys.modules)"], capture_output=True, text=True, check=True
    )
    assert done.stdout.endswith("False\n")


def test_the_second_script_groups_what_follows() -> None:
    text = CliRunner().invoke(rpln_command, ["--help"]).stdout
    commands = re.findall(r"^  (\w+)  ", text[text.index("Run a bundle:") :], re.MULTILINE)
    assert commands == [
        *("run", "batch", "serve", "triton", "push"),
        *("inspect", "report", "engine", "validate", "eval", "bench", "doctor"),
        *("build", "convert", "optimize"),
    ]
    assert "..." not in text[text.index("Run a bundle:") :]  # no command's description is cut
    for command in commands:
        assert CliRunner().invoke(rpln_command, [command, "--help"]).exit_code == 0


@pytest.mark.parametrize("command", [export_command, rpln_command], ids=["rpln-export", "rpln"])
def test_version(command: Any) -> None:
    assert rpln_export.__version__ in CliRunner().invoke(command, ["--version"]).stdout


@pytest.mark.parametrize(
    "arguments", [["--no-such-option"], ["one", "two"], ["--opset", "twenty"]], ids=["option", "argument", "number"]
)
def test_what_cannot_be_parsed_is_refused_as_click_does(arguments: list[str]) -> None:
    result = export(*arguments)
    assert result.exit_code == 2
    assert "Usage:" in result.stderr


# The main job, in processes of its own


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Run `rpln-export --task token-classification --fp16` in an empty folder, without a terminal."""
    folder = tmp_path_factory.mktemp("demo")
    arguments = ["--task", "token-classification", "--fp16"]
    done = subprocess.run([*COMMAND, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    return folder, done


def test_the_demo_is_quiet_and_says_where_the_bundle_is(
    demo: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, done = demo
    assert (done.returncode, without_progress(done.stderr)) == (0, "")
    assert "pos-tagger-brown-token-classification-fp16: " in done.stdout
    assert [path.name for path in folder.iterdir()] == ["pos-tagger-brown-token-classification-fp16"]


def test_the_demo_tags_a_sentence(demo: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, _ = demo
    bundle = "pos-tagger-brown-token-classification-fp16"
    done = subprocess.run(
        [*RPLN, "run", bundle, "The dog barked.", "--json"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    (tags,) = json.loads(done.stdout)
    assert [(tag["entity"], tag["start"], tag["end"]) for tag in tags][:2] == [("DET", 0, 3), ("NOUN", 4, 7)]


def test_the_demo_is_proven_again_against_the_embedded_checkpoint(
    demo: tuple[Path, subprocess.CompletedProcess[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(demo[0])
    result = CliRunner().invoke(rpln_command, ["validate", "pos-tagger-brown-token-classification-fp16"])
    assert result.exit_code == 0, result.output


def test_a_terminal_sees_each_step(exported: Callable[..., Export], tmp_path: Path) -> None:
    traced = exported("token-classification", "--optimize", "none").folder / "model.onnx"
    code = (
        "import onnx_ir as ir\nfrom rpln_export import cli, pipeline\n"
        f"pipeline.trace_model = lambda *args, **kwargs: ir.load({str(traced)!r})\ncli.export_command()"
    )
    ours, theirs = pty.openpty()
    arguments = [str(exported("token-classification").checkpoint), "-o", str(tmp_path / "out"), "--optimize", "none"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.DEVNULL, stderr=theirs, env=environment
    )
    os.close(theirs)
    shown = b"".join(iter(lambda: read_all(ours), b"")).decode()
    os.close(ours)
    assert process.wait(timeout=60) == 0
    assert [step for step in ("load", "trace", "rewrite", "optimize", "save", "validate") if step not in shown] == []
    assert "━" in shown


def read_all(descriptor: int) -> bytes:
    """Return what can be read next, or nothing at the end.

    Linux reports the end as an error if the other side of the terminal is closed.
    """
    try:
        return os.read(descriptor, 65536)
    except OSError:
        return b""


# Where bundles go


@pytest.mark.parametrize("source", ["my.model-v1", "my.model-v1/", "./my.model-v1", "../here/my.model-v1"])
def test_a_bundle_is_named_after_checkpoint_task_and_precision(
    checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    here = tmp_path / "here"
    shutil.copytree(checkpoint("text-classification"), here / "my.model-v1")
    monkeypatch.chdir(here)
    assert make_plan(source).destination == Path("my.model-v1-text-classification-fp32")
    assert make_plan(source, precision="bf16").destination == Path("my.model-v1-text-classification-bf16")


@pytest.mark.usefixtures("traced_once")
def test_a_bundle_lands_in_the_current_folder_or_where_it_is_sent(
    checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = checkpoint("text-classification")
    monkeypatch.chdir(tmp_path)
    for options, folder in (([], f"{source.name}-text-classification-fp32"), (["-o", "deep/er"], "deep/er")):
        result = export(source, *options)
        assert result.exit_code == 0, result.output
        assert f"{folder}: " in result.stdout
        assert read_manifest(tmp_path / folder).source.name == source.name


@pytest.mark.parametrize("task", TASKS)
def test_the_task_is_read_from_the_config(checkpoint: Callable[[str], Path], task: str) -> None:
    assert make_plan(str(checkpoint(task))).task == TASKS[task]


def test_the_task_that_was_read_is_in_the_bundle(exported: Callable[..., Export]) -> None:
    assert read_manifest(exported("question-answering").folder).task == "question-answering"


# What the options do


def test_json_is_the_report_and_nothing_else(exported: Callable[..., Export]) -> None:
    found = exported("text-classification", "--json")
    assert found.result.stderr == ""
    assert json.loads(found.result.stdout) == json.loads((found.folder / "report.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("opset", [OLDEST_OPSET, NEWEST_OPSET])
def test_the_opset_is_the_one_asked_for(exported: Callable[..., Export], opset: int) -> None:
    found = exported("token-classification", "--opset", str(opset))
    model = onnx.load(found.folder / "model.onnx")
    assert {entry.domain: entry.version for entry in model.opset_import}[""] == opset
    ids = np.array([[0, 40, 41, 42, 2]])
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    default = load(exported("token-classification").folder).run(feeds)["logits"]
    np.testing.assert_allclose(load(found.folder).run(feeds)["logits"], default, atol=1e-5)


def test_the_default_opset(exported: Callable[..., Export]) -> None:
    assert read_manifest(exported("token-classification").folder).graphs[0].opset == DEFAULT_OPSET


@pytest.mark.parametrize(("options", "method"), [((), REPEAT), (("--trace", FULL), FULL)])
def test_layers_are_traced_as_asked(
    checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: Any, method: str
) -> None:
    asked = []

    def trace_model(*_: Any, trace: str, **__: Any) -> None:
        asked.append(trace)
        raise graph_errors.GraphError("far enough")

    monkeypatch.setattr("rpln_export.pipeline.trace_model", trace_model)
    result = export(checkpoint("fill-mask"), *options, "-o", tmp_path / "out")
    assert (result.exit_code, asked) == (graph_errors.GraphError.exit_code, [method])


def test_internals_are_given_where_they_are_asked_for(exported: Callable[..., Export]) -> None:
    found = exported(
        "feature-extraction",
        "--allow-random-head",
        "--inputs=inputs_embeds,position_ids,token_type_ids",
        "--outputs=hidden_states,attentions",
    )
    session = load(found.folder)
    assert [spec.name for spec in session.graph.inputs] == [
        "attention_mask",
        "inputs_embeds",
        "position_ids",
        "token_type_ids",
    ]
    rng = np.random.default_rng(0)
    mask = np.array([[1, 1, 1, 1], [0, 1, 1, 1]])
    feeds = {
        "inputs_embeds": rng.standard_normal((2, 4, HIDDEN)).astype(np.float32),
        "attention_mask": mask,
        "position_ids": np.array([[2, 3, 4, 5], [9, 8, 7, 6]]),
        "token_type_ids": np.zeros((2, 4), dtype=np.int64),
    }
    outputs = session.run(feeds)
    model = transformers.RobertaPreLayerNormModel.from_pretrained(found.checkpoint, attn_implementation="eager")
    with torch.inference_mode():
        expected = model(
            **{name: torch.from_numpy(array) for name, array in feeds.items()},
            output_hidden_states=True,
            output_attentions=True,
        )
    pairs = {
        "last_hidden_state": expected.last_hidden_state,
        # The last hidden state comes before the final LayerNorm here and in transformers 4.57, and after it in 5.
        **{f"hidden_states.{index}": state for index, state in enumerate(expected.hidden_states[:-1])},
        **{f"attentions.{index}": weights for index, weights in enumerate(expected.attentions)},
    }
    assert outputs.keys() == {*pairs, "hidden_states.2"}
    for name, tensor in pairs.items():
        real = np.moveaxis(outputs[name] - tensor.numpy(), -2, 1)[mask == 1]
        assert np.abs(real).max() <= 1e-4


def test_a_head_mask_switches_heads_off(exported: Callable[..., Export]) -> None:
    session = load(exported("text-classification", "--inputs", "head_mask").folder)
    ids = np.array([[0, 40, 41, 42, 2]])
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    plain = load(exported("text-classification").folder).run(feeds)["logits"]
    on, off = (session.run({**feeds, "head_mask": np.full((2, 2), value, np.float32)})["logits"] for value in (1, 0))
    np.testing.assert_allclose(on, plain, atol=1e-5)
    assert np.abs(off - plain).max() > 1e-3


def test_outputs_stay_fp16_where_that_is_asked_for(exported: Callable[..., Export]) -> None:
    options = ["--fp16", "--io-dtype", "fp16", "--inputs", "inputs_embeds", "--outputs", "pooler_output"]
    found = exported("feature-extraction", *options, "--allow-random-head")
    session = load(found.folder)
    assert {spec.name: spec.dtype for spec in (*session.graph.inputs, *session.graph.outputs)} == {
        "attention_mask": "int64",
        "inputs_embeds": "float16",
        "last_hidden_state": "float16",
        "pooler_output": "float16",
    }


def test_inputs_and_outputs_are_fp32_by_default(exported: Callable[..., Export]) -> None:
    (graph,) = read_manifest(exported("text-classification", "--fp16").folder).graphs
    assert {spec.name: spec.dtype for spec in (*graph.inputs, *graph.outputs)} == {
        "input_ids": "int64",
        "attention_mask": "int64",
        "logits": "float32",
    }


def test_token_types_are_an_input_where_the_network_tells_them_apart(exported: Callable[..., Export]) -> None:
    names = {
        task: [spec.name for spec in read_manifest(exported(task).folder).graphs[0].inputs]
        for task in ("text-classification", "question-answering")
    }
    assert names == {
        "text-classification": ["input_ids", "attention_mask"],
        "question-answering": ["input_ids", "attention_mask", "token_type_ids"],
    }


@pytest.mark.usefixtures("traced_once")
def test_the_tokenizer_may_lie_elsewhere(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    make_tokenizer(tmp_path / "tokenizer", corpus=["another text about other things"])
    result = export(checkpoint("text-classification"), "-o", tmp_path / "out", "--tokenizer", tmp_path / "tokenizer")
    assert result.exit_code == 0, result.output
    found, own = (
        transformers.AutoTokenizer.from_pretrained(folder)
        for folder in (tmp_path / "out", checkpoint("text-classification"))
    )
    assert found.tokenize("another thing") != own.tokenize("another thing")
    assert found.get_vocab() == transformers.AutoTokenizer.from_pretrained(tmp_path / "tokenizer").get_vocab()


@pytest.mark.usefixtures("traced_once")
def test_ranges_are_measured_on_the_texts_given(
    checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[list[int]] = []

    def spy(model: Any, feeds: Iterable[dict[str, np.ndarray]]) -> Any:
        batches = list(feeds)
        measured.extend(batch["input_ids"][0].tolist() for batch in batches if len(batch["input_ids"]) == 1)
        return measure_ranges(model, batches)

    monkeypatch.setattr(calibration, "measure_ranges", spy)
    (tmp_path / "texts.txt").write_text(f"{SENTENCE}\n\n{SENTENCE * 20}\n", encoding="utf-8")
    source = checkpoint("text-classification")
    result = export(source, "--fp16", "-o", tmp_path / "out", "--calibration", tmp_path / "texts.txt")
    assert result.exit_code == 0, result.output
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    assert tokenizer(SENTENCE)["input_ids"] in measured
    # A line that is too long for the network is cut.
    assert tokenizer(SENTENCE * 20, truncation=True, max_length=64)["input_ids"] in measured


def test_a_decoder_is_recorded_as_one(exported: Callable[..., Export]) -> None:
    found = exported("fill-mask", "--task", "text-generation", "--is-decoder")
    config = transformers.AutoConfig.from_pretrained(found.folder)
    assert (config.is_decoder, config.architectures) == (True, ["RobertaPreLayerNormForCausalLM"])


def test_a_random_head_is_made_where_that_is_allowed(tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "base", "feature-extraction", num_labels=7)
    result = export(source, "--task", "text-classification", "--allow-random-head", "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert read_manifest(tmp_path / "out").graphs[0].outputs[0].shape == ("batch", 7)
