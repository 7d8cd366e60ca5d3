"""`rpln_export.export`: it does what the command does, has all of its options, and raises errors instead of exiting."""

import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

import rpln_export
from rpln_export import Bundle, PlanError, RplnError, RplnModelError, export
from rpln_export.api import exporting
from rpln_export.cli import export_command
from rpln_export.commands.show.progress import ProgressWatcher
from rpln_graphs.recipes import RECIPES
from rpln_runtime.manifest import BundleFile, read_manifest
from tests.export.api.conftest import Recorder

KEYWORDS = inspect.signature(export).parameters
SHORT_FOR_PRECISION = {"fp16", "bf16", "int8", "int4", "fp8"}
OF_THE_COMMAND_ALONE = {*SHORT_FOR_PRECISION, "as_json", "version"}
OF_THE_FUNCTION_ALONE = {"progress"}
REPORTS = {"report.json", "report.md", "report.html"}
"""The files that hold times, and the folder of the bundle."""


def contents(folder: Path) -> set[BundleFile]:
    return {file for file in read_manifest(folder).files if file.path not in REPORTS}


def test_the_function_and_the_command_write_the_same_files(tagger: Bundle, tmp_path: Path) -> None:
    arguments = ["--task", "token-classification", "-o", str(tmp_path / "tagger")]
    result = CliRunner().invoke(export_command, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    written = contents(tmp_path / "tagger")
    assert written == contents(tagger.path)
    assert {file.path for file in written} >= {"model.onnx", "config.json", "tokenizer.json"}


def test_every_option_of_the_command_is_a_keyword() -> None:
    options = {parameter.name for parameter in export_command.params} - OF_THE_COMMAND_ALONE
    assert options == set(KEYWORDS) - OF_THE_FUNCTION_ALONE


def test_all_but_the_checkpoint_are_keywords_with_a_type_and_a_description() -> None:
    documented = inspect.cleandoc(export.__doc__ or "").split("Args:")[1].split("Returns ")[0]
    for name, parameter in KEYWORDS.items():
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD if name == "checkpoint" else inspect.Parameter.KEYWORD_ONLY
        assert parameter.kind is kind, name
        assert parameter.annotation is not inspect.Parameter.empty, name
        assert f"\n    {name}: " in documented, name
    for precision in RECIPES:
        assert f'"{precision}"' in documented


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch, tagger: Bundle) -> Callable[..., dict[str, Any]]:
    """Return a function that gives the keywords with which the command calls `export`."""

    def call(*arguments: str) -> dict[str, Any]:
        found: dict[str, Any] = {}

        def record(**options: Any) -> Bundle:
            found.update(options)
            return tagger

        monkeypatch.setattr(exporting, "export", record)
        result = CliRunner().invoke(export_command, arguments, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        assert isinstance(found.pop("progress"), ProgressWatcher)
        return found

    return call


def test_defaults_are_those_of_the_command(passed: Callable[..., dict[str, Any]]) -> None:
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in passed().items()}
    assert given == {name: KEYWORDS[name].default for name in set(KEYWORDS) - OF_THE_FUNCTION_ALONE}


def test_short_options_name_a_precision(passed: Callable[..., dict[str, Any]]) -> None:
    kinds = {"int8": ["--int8", "auto"], **{f"int8-{kind}": ["--int8", kind] for kind in ("static", "dynamic")}}
    for precision in (*SHORT_FOR_PRECISION, *kinds):
        assert passed(*kinds.get(precision, [f"--{precision}"]))["precision"] == precision


def test_each_option_reaches_the_keyword_of_its_name(passed: Callable[..., dict[str, Any]]) -> None:
    values = {"optimize": "none", "engine": "none", "trace": "full", "io_dtype": "fp16", "bpe": "a b", "opset": "21"}
    for parameter in export_command.params:
        name = str(parameter.name)
        if name in OF_THE_COMMAND_ALONE or not isinstance(parameter, click.Option):
            continue
        texts = [] if parameter.is_flag else values.get(name, "7").split()
        found = passed(parameter.opts[-1], *texts)[name]
        assert found != KEYWORDS[name].default, name
        assert found is True or all(text in str(found) for text in texts), name


def test_names_may_stand_in_a_list_or_between_commas(tagger: Bundle, tmp_path: Path) -> None:
    for names in ("position_ids, token_type_ids", ["position_ids", "token_type_ids"]):
        with pytest.raises(PlanError, match="'no_such_output'"):
            export(tagger.path, inputs=names, outputs="no_such_output", output=tmp_path / "out", progress=False)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"task": "token-clasification"}, "Did you mean 'token-classification'"),
        ({"precision": "fp61"}, "unknown precision 'fp61'"),
        ({"precision": "INT8"}, "unknown precision 'INT8'.* Did you mean 'int8'"),
        ({"workspace": 0}, "--workspace is 0 MiB"),
        ({"engine": "none", "gpus": "sm89"}, "--engine none builds no engines"),
        ({"dictionary": "dict.txt"}, "--dict and --bpe go together"),
        ({"checkpoint": "no/such/folder"}, "does not exist"),
    ],
)
def test_what_is_wrong_is_raised(options: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises((RplnError, RplnModelError), match=says):
        export(**options, output=tmp_path / "out", progress=False)
    assert list(tmp_path.iterdir()) == []


def test_a_watcher_is_told_of_every_step(tagger: Bundle, recorder: Recorder) -> None:
    # The report holds the steps before it.
    assert recorder.started == recorder.finished == [*(step.name for step in tagger.report.steps), "report"]
    assert {"load", "trace", "save", "validate"} <= set(recorder.started)
    assert recorder.shares[-1] == 1.0


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import rpln_export, sys; dir(rpln_export); print({'torch', 'numpy', 'onnx', 'rich'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "set()\n"


def test_importing_what_exports_and_uploads_imports_no_torch() -> None:
    code = "from rpln_export import Bundle, export, push_to_hub, RplnError, PlanError; import sys; "
    code += "print({'torch', 'transformers', 'onnx'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"checkpoint": object()}, r"^checkpoint is of type object, expected a folder .* save_pretrained\(FOLDER\)"),
        ({"tokenizer": object()}, r"^tokenizer is of type object, .* save_pretrained\(FOLDER\)"),
        ({"calibration": ["a text"]}, "^calibration is of type list, expected a path as a str"),
        ({"evaluation": {}}, "^evaluation is of type dict, expected a path"),
        ({"output": 3}, "^output is of type int, expected a path"),
    ],
)
def test_objects_in_the_place_of_paths_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(RplnError, match=says):
        export(**options, progress=False)


def test_public_names_exist_and_no_others() -> None:
    assert set(rpln_export._MODULES) == set(rpln_export.__all__) - {"__version__"}
    assert all(getattr(rpln_export, name) is not None for name in rpln_export.__all__)
    assert set(rpln_export.__all__) <= set(dir(rpln_export))
    with pytest.raises(AttributeError, match="expected one of Bundle"):
        rpln_export.__getattr__("no_such_name")
