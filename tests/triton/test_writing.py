"""A repository is written completely or not at all, choices are checked, and both commands write the same."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from rpln_export.cli import rpln_command
from rpln_runtime import InputError, ManifestError, MissingExtraError
from rpln_runtime.manifest import TensorSpec, read_manifest, write_manifest
from rpln_runtime.tasks import MASKED_LOGITS
from rpln_runtime.triton import RepositoryDestinationError, check_repository, publishing, write_repository
from rpln_runtime.triton.__main__ import main
from rpln_runtime.triton.buckets import default_buckets
from tests.runtime.bundles import make_tokenizer
from tests.triton.conftest import ENCODERS
from tests.triton.networks import ToyBundle, make_toy_bundle

MODELS = ["tagger", "tagger_tokenizer", "tagger_model", "tagger_answers"]


@pytest.fixture
def tagger(bundle_of: Callable[[str], ToyBundle]) -> Path:
    return bundle_of("token-classification").folder


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ENCODERS)
def test_what_is_written_passes_the_check(bundle_of: Callable[[str], ToyBundle], tmp_path: Path, name: str) -> None:
    models = write_repository(bundle_of(name).folder, tmp_path / "repository", name="tagger")
    assert models == MODELS
    assert check_repository(tmp_path / "repository") == models
    assert sorted(path.name for path in tmp_path.iterdir()) == ["repository"]


@pytest.mark.parametrize("end", ["\n", "\r"])
def test_a_label_of_two_lines_is_refused(tmp_path: Path, end: str) -> None:
    bundle = make_toy_bundle(tmp_path, "text-classification", labels=["good", f"b{end}ad"])
    with pytest.raises(ManifestError, match=r"label 'b\\[nr]ad'"):
        write_repository(bundle.folder, tmp_path / "repository")


def test_writing_needs_no_protobufs(tagger: Path, tmp_path: Path) -> None:
    hidden = "import sys; sys.modules['google'] = sys.modules['tritonclient'] = None"
    code = f"{hidden}; from rpln_runtime.triton.__main__ import main; sys.exit(main())"
    command = [sys.executable, "-c", code, str(tagger), "-o", str(tmp_path / "repository")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    checked = subprocess.run([*command[:3], str(tmp_path / "repository"), "--check"], capture_output=True, check=False)
    assert checked.returncode == MissingExtraError.exit_code
    assert b'pip install "rpln-runtime[triton]"' in checked.stderr


def test_both_commands_write_the_same(tagger: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [
        "--name",
        "tagger",
        "--batch-size",
        "8",
        "--buckets",
        "16,64",
        "--option",
        "stride=3",
        "--max-text-bytes",
        "777",
    ]
    assert main([str(tagger), "-o", str(tmp_path / "a"), *options]) == 0
    result = CliRunner().invoke(rpln_command, ["triton", str(tagger), "-o", str(tmp_path / "b"), *options])
    assert result.exit_code == 0, result.output
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    assert capsys.readouterr().out.replace(str(tmp_path / "a"), "") == result.output.replace(str(tmp_path / "b"), "")
    config = (tmp_path / "a/tagger_tokenizer/config.pbtxt").read_text()
    assert all(part in config for part in ("max_batch_size: 8", '"16,64"', r'"{\"stride\": 3}"', '"777"'))


def test_the_runtime_alone_writes_the_same(environment: Path, tagger: Path, tmp_path: Path) -> None:
    """The server's environment has neither torch nor click nor onnx."""
    python, variables = str(environment / "bin" / "python"), {"PATH": os.environ["PATH"]}
    alone = [python, "-m", "rpln_runtime.triton", str(tagger), "-o", str(tmp_path / "alone"), "--name", "tagger"]
    done = subprocess.run(alone, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    write_repository(tagger, tmp_path / "here", name="tagger")
    assert tree(tmp_path / "alone") == tree(tmp_path / "here")
    imports = [python, "-c", "import importlib.util as u, sys; sys.exit(any(map(u.find_spec, ['torch', 'onnx'])))"]
    assert subprocess.run(imports, env=variables, check=False).returncode == 0


@pytest.mark.parametrize(("arguments", "code"), [(["--check"], 0), ([], 2), (["--check", "-o", "x"], 2)])
def test_one_of_output_and_check(tagger: Path, tmp_path: Path, arguments: list[str], code: int) -> None:
    write_repository(tagger, tmp_path / "repository", name="tagger")
    command = [sys.executable, "-m", "rpln_runtime.triton", str(tmp_path / "repository"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    result = CliRunner().invoke(rpln_command, ["triton", str(tmp_path / "repository"), *arguments])
    assert (done.returncode, result.exit_code) == (code, code), (done.stderr, result.output)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--name", "other"], "--name has no effect with --check"),
        (["--batch-size", "0", "--buckets", "16,64"], "--batch-size, --buckets have no effect with --check"),
        (["--max-text-bytes", "5"], "--max-text-bytes has no effect"),
        (["--option", "stride=3", "--engine", "x"], "--option, --engine have no effect"),
    ],
)
def test_what_the_check_does_not_take_is_refused_by_both_commands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], given: list[str], says: str
) -> None:
    arguments = [str(tmp_path), "--check", *given]
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    result = CliRunner().invoke(rpln_command, ["triton", *arguments], env={"COLUMNS": "500"})
    assert (ended.value.code, result.exit_code) == (2, 2)
    assert says in capsys.readouterr().err
    assert says in result.output


def test_the_commands_that_are_printed_are_those_of_the_readme(
    tagger: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tagger), "-o", str(tmp_path / "repository"), "--name", "tagger"]) == 0
    printed = [line.strip() for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert [line.split()[0] for line in printed] == ["tritonserver", "curl"]
    readme = (tmp_path / "repository" / "README.md").read_text(encoding="utf-8").splitlines()
    assert set(printed) <= set(readme)


@pytest.mark.parametrize("buckets", ["\u0663\u0662,64", "3_2,64", "32, 64", "32;64", ""])
def test_buckets_are_numbers_with_commas_between_them(
    tagger: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], buckets: str
) -> None:
    assert main([str(tagger), "-o", str(tmp_path / "repository"), "--buckets", buckets]) == 3
    assert "expected lengths in tokens, such as 32,64,128" in capsys.readouterr().err


def test_a_mistake_is_reported_by_both_commands(
    tagger: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_repository(tagger, tmp_path / "repository", name="tagger")
    (tmp_path / "repository/tagger_model/labels.txt").unlink()
    assert main([str(tmp_path / "repository"), "--check"]) == 4
    result = CliRunner().invoke(rpln_command, ["triton", str(tmp_path / "repository"), "--check"])
    assert result.exit_code == 4
    assert "tagger_model/labels.txt: it is missing" in capsys.readouterr().err
    assert "tagger_model/labels.txt: it is missing" in result.output


def test_an_older_repository_is_replaced_whole(tagger: Path, tmp_path: Path) -> None:
    write_repository(tagger, tmp_path / "repository", name="old")
    write_repository(tagger, tmp_path / "repository", name="tagger")
    assert check_repository(tmp_path / "repository") == MODELS


def test_the_command_says_that_it_replaces_a_repository(tagger: Path, tmp_path: Path) -> None:
    command = ["triton", str(tagger), "-o", str(tmp_path / "repository"), "--name", "tagger"]
    said = [CliRunner().invoke(rpln_command, command).stdout.splitlines() for _ in range(2)]
    assert said[1] == ["The repository that was there is replaced, with whatever was edited in it.", *said[0]]


def test_a_failure_leaves_the_older_one(tagger: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_repository(tagger, tmp_path / "repository", name="old")
    before = tree(tmp_path / "repository")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rpln_runtime.triton.writer.shutil.copyfile", fail)
    with pytest.raises(RepositoryDestinationError, match="No space left on device"):
        write_repository(tagger, tmp_path / "repository", name="tagger")
    assert tree(tmp_path / "repository") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["repository"]


def test_an_interrupt_while_it_is_replaced_leaves_the_older_one(
    tagger: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(one: Path, other: Path) -> None:
        raise KeyboardInterrupt

    write_repository(tagger, tmp_path / "repository", name="old")
    before = tree(tmp_path / "repository")
    monkeypatch.setattr("rpln_runtime.replacing.exchange", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_repository(tagger, tmp_path / "repository", name="tagger")
    assert tree(tmp_path / "repository") == before


@pytest.mark.parametrize("moved", [True, False], ids=["between the renames", "before them"])
def test_what_a_killed_process_left_is_put_right(tagger: Path, tmp_path: Path, moved: bool) -> None:
    write_repository(tagger, tmp_path / "repository", name="old")
    before = tree(tmp_path / "repository")
    left = tmp_path / ".repository.0123abcd.partial"
    left.mkdir()
    (left / "lock").touch()
    if moved:
        (tmp_path / "repository").rename(left / "replaced")
    with pytest.raises(ZeroDivisionError), publishing.published(tmp_path / "repository"):
        raise ZeroDivisionError
    assert tree(tmp_path / "repository") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["repository"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_is_no_repository_is_not_replaced(tagger: Path, tmp_path: Path, kind: str) -> None:
    target = tmp_path / "mine"
    if kind == "file":
        target.write_text("mine")
    else:
        target.mkdir()
        (target / "notes.txt").write_text("mine")
    with pytest.raises(RepositoryDestinationError, match="mine exists"):
        write_repository(tagger, target)
    assert target.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine"]


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"name": "a/b"}, "the name 'a/b'"),
        ({"name": ".hidden"}, "the name '.hidden'"),
        ({"batch_size": -1}, "batch_size is -1"),
        ({"batch_size": 2**31}, "batch_size is 2147483648"),
        ({"buckets": [16, 32]}, "end with 64"),
        ({"buckets": [32, 16, 64]}, "rising lengths"),
        ({"buckets": [65]}, "a bucket is 65"),
        ({"buckets": []}, "rising lengths"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"max_text_bytes": 0}, "max_text_bytes is 0"),
        ({"max_text_bytes": 2**31}, "max_text_bytes is 2147483648"),
        ({"options": {"top_k": 3}}, "option 'top_k' .*token-classification"),
        ({"options": {"stride": -1}}, "stride is -1"),
    ],
)
def test_choices_are_checked(tagger: Path, tmp_path: Path, choices: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        write_repository(tagger, tmp_path / "repository", **choices)
    assert not any(tmp_path.iterdir())


def test_words_cannot_be_the_items_of_a_repository(tagger: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(tagger, tmp_path / "bundle")
    make_tokenizer(bundle, add_prefix_space=True)  # without it, the option is refused everywhere
    write_manifest(bundle, read_manifest(tagger))
    with pytest.raises(
        InputError, match=r"is_split_into_words, an item has other parts than .*classification \(text\)"
    ):
        write_repository(bundle, tmp_path / "repository", options={"is_split_into_words": True})
    assert write_repository(bundle, tmp_path / "repository", name="tagger", options={"is_split_into_words": False})


def test_a_graph_that_cannot_be_joined_is_refused(bundle_of: Callable[[str], ToyBundle], tmp_path: Path) -> None:
    manifest = bundle_of("fill-mask").manifest
    (graph,) = manifest.graphs
    logits = TensorSpec(name="logits", dtype="float32", shape=(MASKED_LOGITS.axes[0], manifest.vocab_size))
    folder = tmp_path / "bundle"
    folder.mkdir()
    for path in bundle_of("fill-mask").folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    graph = dataclasses.replace(graph, outputs=(logits,))
    write_manifest(folder, dataclasses.replace(manifest, graphs=(graph,)))
    with pytest.raises(ManifestError, match=r"logits .*batch axis.*--logits positions"):
        write_repository(folder, tmp_path / "repository")


def test_an_altered_bundle_is_refused(tagger: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    folder.mkdir()
    for path in tagger.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "tokenizer.json").write_bytes(b"{}")
    with pytest.raises(ManifestError, match=r"tokenizer\.json"):
        write_repository(folder, tmp_path / "repository")


@pytest.mark.parametrize(("limit", "expected"), [(512, [32, 64, 128, 256, 512]), (100, [32, 64, 100]), (20, [20])])
def test_default_buckets(limit: int, expected: list[int]) -> None:
    assert default_buckets(limit) == expected


def test_manifests_are_those_of_the_bundle(tagger: Path, tmp_path: Path) -> None:
    write_repository(tagger, tmp_path / "repository", name="tagger")
    for step in ("tagger_tokenizer", "tagger_answers"):
        found = json.loads((tmp_path / "repository" / step / "1/rpln.json").read_text())
        assert found == json.loads((tagger / "rpln.json").read_text())
    marker = json.loads((tmp_path / "repository" / publishing.MARKER).read_text())
    assert list(marker["models"]) == MODELS
    assert marker["source"] == dataclasses.asdict(read_manifest(tagger).source)
