"""The README of a repository: its commands work on the server, and its limits are those of the configurations."""

import dataclasses
import json
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from rpln_runtime._version import __version__
from rpln_runtime.manifest import read_manifest, write_manifest
from rpln_runtime.triton import write_repository
from rpln_runtime.triton.readme import IMAGE
from tests.triton.conftest import ENCODERS
from tests.triton.networks import ToyBundle
from tests.triton.server import Server, server_help

DEPLOY = Path(__file__).parents[2] / "docs/deploy"
WHEEL = f"rpln_runtime-{__version__}-py3-none-any.whl"


@pytest.fixture
def readme_of(bundle_of: Callable[[str], ToyBundle], tmp_path: Path) -> Callable[[str], str]:
    def readme_of(name: str) -> str:
        write_repository(bundle_of(name).folder, tmp_path / name, name=name)
        return (tmp_path / name / "README.md").read_text(encoding="utf-8")

    return readme_of


def blocks_of(readme: str) -> list[str]:
    """Return what is in the blocks of code."""
    return re.findall(r"^```\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("name", ENCODERS)
def test_the_command_that_asks_is_answered(encoders: Server, readme_of: Callable[[str], str], name: str) -> None:
    (command,) = [block for block in blocks_of(readme_of(name)) if block.startswith("curl")]
    arguments = [part.replace("localhost:8000", encoders.http) for part in shlex.split(command)]
    answer = json.loads(subprocess.check_output([*arguments, "--silent"]))
    assert answer["model_name"] == name
    assert answer["outputs"]


def test_the_flags_are_those_of_the_server(environment: Path, readme_of: Callable[[str], str]) -> None:
    known = set(re.findall(r"--[\w-]+", server_help(environment)))
    text = readme_of("fill-mask") + (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    commands = [line.partition("tritonserver ")[2] for line in text.splitlines() if "tritonserver --" in line]
    named = {*re.findall(r"--[\w-]+", " ".join(commands)), "--model-config-name", "--exit-timeout-secs"}
    assert {"--model-repository", "--cache-config"} <= named <= known
    assert set(re.findall(r"--(?:http|grpc)-[\w-]+", text)) <= known


def test_the_container_runs_what_the_server_runs(readme_of: Callable[[str], str]) -> None:
    serve, container, _ = blocks_of(readme_of("fill-mask"))
    arguments = shlex.split(container.replace("\\\n", ""))
    image = arguments.index(IMAGE)
    assert arguments[:2] == ["docker", "run"]
    assert {"--rm", "--gpus=all", "--shm-size=1g", "--publish=127.0.0.1:8000-8002:8000-8002"} <= set(arguments[:image])
    assert arguments[image + 1 : -1] == ["sh", "-c"]
    install, run = serve.splitlines()
    inside = f"{install} && exec {run}".replace(WHEEL, f"/dist/{WHEEL}").replace("=. ", "=/repository ")
    assert arguments[-1] == inside


def test_the_image_is_that_of_the_dockerfile() -> None:
    assert f"FROM {IMAGE}\n" in (DEPLOY / "Dockerfile").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["token-classification", "multiple-choice"])
def test_the_limits_are_those_of_the_configurations(
    bundle_of: Callable[[str], ToyBundle], tmp_path: Path, name: str
) -> None:
    write_repository(bundle_of(name).folder, tmp_path / "r", name="one", batch_size=7, max_text_bytes=12_345)
    readme = (tmp_path / "r/README.md").read_text(encoding="utf-8")
    config = (tmp_path / "r/one_tokenizer/config.pbtxt").read_text(encoding="utf-8")
    assert "| items of a request | 7 |" in readme
    assert "| 7, of 64 tokens each |" in readme
    assert "| 12,345 |" in readme
    assert all(f'string_value: "{value}"' in config for value in ("7", "12345"))


def test_the_default_limit_is_that_of_all_rows_and_64_kib_at_least(
    bundle_of: Callable[[str], ToyBundle], tmp_path: Path
) -> None:
    for rows, expected in ((32, 65_536), (200, 16 * 64 * 200)):
        write_repository(bundle_of("fill-mask").folder, tmp_path / "r", name="one", batch_size=rows)
        assert f"| {expected:,} |" in (tmp_path / "r/README.md").read_text(encoding="utf-8")


def test_who_has_no_gpu_is_told_what_to_change(
    bundle_of: Callable[[str], ToyBundle], readme_of: Callable[[str], str], tmp_path: Path
) -> None:
    assert "On a machine without a GPU, add `--model-config-name=cpu`." in readme_of("fill-mask")
    bundle = bundle_of("fill-mask")
    for path in bundle.folder.iterdir():
        (tmp_path / "bf16").mkdir(exist_ok=True)
        (tmp_path / "bf16" / path.name).write_bytes(path.read_bytes())
    write_manifest(tmp_path / "bf16", dataclasses.replace(read_manifest(bundle.folder), precision="bfloat16"))
    write_repository(tmp_path / "bf16", tmp_path / "r", name="one")
    readme = (tmp_path / "r/README.md").read_text(encoding="utf-8")
    assert "This bundle computes in bf16, which needs a GPU." in readme
    assert "--model-config-name" not in readme
