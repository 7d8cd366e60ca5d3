"""Which TensorRT engines are served, with what lengths and batches, and which are refused. No engine runs here."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from rpln_runtime import InputError
from rpln_runtime.triton import RepositoryError, check_repository, write_repository
from tests.triton.networks import ToyBundle
from tests.triton.repositories import NAME, profile, with_engine
from tests.triton.server import Server, triton_server


@pytest.fixture
def bundle(bundle_of: Callable[[str], ToyBundle], tmp_path: Path) -> Path:
    return with_engine(bundle_of("token-classification"), tmp_path / "bundle")


def test_an_engine_is_served_within_its_profiles(bundle: Path, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    write_repository(bundle, repository, name="tagger", engine=NAME)
    assert check_repository(repository) == ["tagger", "tagger_tokenizer", "tagger_model", "tagger_answers"]
    text = (repository / "tagger_model/config.pbtxt").read_text()
    config = text_format.Parse(text, model_config_pb2.ModelConfig())
    assert (config.platform, config.max_batch_size) == ("tensorrt_plan", 16)
    assert [(group.kind, list(group.profile)) for group in config.instance_group] == [(1, ["0", "1"])]
    assert list(config.dynamic_batching.preferred_batch_size) == [4, 8]
    assert {path.name for path in (repository / "tagger_model/1").iterdir()} == {
        "model.plan",
        "engine.json",
        "rpln.json",
    }
    # Longer texts are read in windows that fit the engine.
    tokenizer = repository / "tagger_tokenizer"
    assert '"32,48"' in (tokenizer / "config.pbtxt").read_text()
    assert json.loads((tokenizer / "1/rpln.json").read_text())["usable_length"] == 48


@pytest.mark.parametrize(
    ("fields", "choices", "message"),
    [
        ({"builder": "tensorrt-rtx"}, {}, f"{NAME}.*tensorrt-rtx.* tensorrt"),
        ({"stripped": True}, {}, "weights"),
        ({"variant": "decode"}, {}, "decode, expected full"),
        ({"profiles": (profile((2, 4, 8), (1, 8, 64)),) * 2}, {}, "no batch of 1"),
        ({}, {"engine": "other"}, f"'other', it has {NAME}"),
        ({}, {"batch_size": 17}, "the engine takes 16 rows of every bucket"),
        ({}, {"buckets": [16, 64]}, "a bucket is 64"),
        ({"profiles": (profile((1, 4, 8), (8, 8, 64)),) * 2}, {"buckets": [4, 64]}, "the engine takes 0 rows"),
    ],
)
def test_what_an_engine_cannot_serve_is_refused(
    bundle_of: Callable[[str], ToyBundle],
    tmp_path: Path,
    fields: dict[str, Any],
    choices: dict[str, Any],
    message: str,
) -> None:
    folder = with_engine(bundle_of("token-classification"), tmp_path / "bundle", **fields)
    with pytest.raises(InputError, match=message):
        write_repository(folder, tmp_path / "repository", **({"engine": NAME} | choices))


MISTAKES = {
    "batch": ("max_batch_size: 16", "max_batch_size: 65", "max_batch_size is 65: expected 16", True),
    "profile": ('"1" ]', '"2" ]', r'profile is \["0", "2"\]: expected profiles of the engine: 0, 1', True),
    "type": ("TYPE_FP32", "TYPE_FP16", "data_type is TYPE_FP16: expected TYPE_FP32", True),
    "file": ('"model.plan"', '"other.plan"', 'default_model_filename is "other.plan": expected "model.plan"', True),
    "platform": (
        '"tensorrt_plan"',
        '"onnxruntime_onnx"',
        'platform is "onnxruntime_onnx": expected "tensorrt_plan"',
        True,
    ),
    "none": ("KIND_GPU", "KIND_CPU", "kind is KIND_CPU: expected KIND_GPU", False),
}
"""What is replaced, what our check says of it, and whether a server refuses it, which needs no GPU."""


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_found(bundle: Path, server: tuple[Server, Path], tmp_path: Path, mistake: str) -> None:
    old, new, message, refused = MISTAKES[mistake]
    repository = tmp_path / "repository"
    write_repository(bundle, repository, name="tagger", engine=NAME)
    config = repository / "tagger_model/config.pbtxt"
    assert old in config.read_text()
    config.write_text(config.read_text().replace(old, new, 1))
    with pytest.raises(RepositoryError, match=message):
        check_repository(repository)
    running, folder = server
    shutil.rmtree(folder / "tagger_model", ignore_errors=True)
    shutil.copytree(repository / "tagger_model", folder / "tagger_model")
    text = config.read_text().replace("KIND_GPU", "KIND_CPU").partition("model_warmup")[0]
    (folder / "tagger_model/config.pbtxt").write_text(text)
    status, document = running.post("repository/models/tagger_model/load")
    assert (status != 200) == refused, document


@pytest.fixture(scope="module")
def server(environment: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    repository, work = tmp_path_factory.mktemp("served"), tmp_path_factory.mktemp("server")
    with triton_server(environment, [repository], work, ["--model-control-mode=explicit"]) as running:
        yield running, repository


def test_another_plan_is_found(bundle: Path, tmp_path: Path) -> None:
    write_repository(bundle, tmp_path / "repository", name="tagger", engine=NAME)
    (tmp_path / "repository/tagger_model/1/model.plan").write_bytes(b"another")
    with pytest.raises(RepositoryError, match=r"model\.plan: it is not the file that rpln\.json describes"):
        check_repository(tmp_path / "repository")
