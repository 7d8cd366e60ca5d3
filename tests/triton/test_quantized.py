"""The server, whose ONNX Runtime is older, answers from quantized bundles what the runtime in Python answers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from rpln_runtime import generator, pipeline
from rpln_runtime.manifest import read_manifest
from rpln_runtime.triton import write_repository
from tests.embedded import embedded_bundle
from tests.triton.clients import infer_grpc, texts
from tests.triton.server import Server, triton_server
from tests.triton.test_streaming import Stream

MAILS = ["Free money!!! Click here to win 1,000,000 dollars.", "The meeting of the committee is on Thursday.", "I"]
PROMPT = "The old man walked to the"
LONGEST = 8
BUNDLES: dict[str, dict[str, Any]] = {
    "static": {"task": "text-classification", "precision": "int8-static", "optimize": "static"},
    "dynamic": {"task": "text-classification", "precision": "int8-dynamic", "optimize": "dynamic"},
    "writer-4": {"task": "text-generation", "precision": "int4", "optimize": "weights-4"},
    "writer-8": {"task": "text-generation", "precision": "int8-weight-only", "optimize": "weights-8-fused"},
}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: embedded_bundle(tmp_path_factory, **choices) for name, choices in BUNDLES.items()}


def lengths(folder: Path) -> list[int]:
    """Return the lengths of MAILS. Buckets of these have no padding, by which dynamic scales would change."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return [*sorted(len(tokenizer.encode(mail).ids) for mail in MAILS), read_manifest(folder).usable_length]


@pytest.fixture(scope="module")
def server(environment: Path, bundles: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    repositories = tmp_path_factory.mktemp("repositories")
    for name, folder in bundles.items():
        writes = name.startswith("writer")
        options: dict[str, Any] = {"options": {"max_new_tokens": LONGEST}} if writes else {"buckets": lengths(folder)}
        write_repository(folder, repositories / name, name=name, **options)
    with triton_server(environment, sorted(repositories.iterdir()), tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.mark.parametrize("name", ["static", "dynamic"])
def test_answers_are_those_of_the_runtime(server: Server, bundles: dict[str, Path], name: str) -> None:
    classify = pipeline(bundles[name], provider="cpu", threads=1)
    for mail in MAILS:
        found, (expected, *_) = infer_grpc(server, name, {"text": texts(mail)}), classify(mail)
        assert found["label"][0, 0].decode() == expected["label"]
        assert found["score"][0, 0] == pytest.approx(expected["score"], abs=1e-4)


@pytest.mark.parametrize("name", ["writer-4", "writer-8"])
def test_texts_are_those_of_the_runtime(server: Server, bundles: dict[str, Path], name: str) -> None:
    ((expected,),) = generator(bundles[name], provider="cpu", threads=1, max_new_tokens=LONGEST)([PROMPT])
    with Stream(server) as stream:
        stream.ask(name, PROMPT)
        ((found,),) = (sequences.values() for sequences in stream.texts(1).values())
    assert PROMPT + found == expected["generated_text"]
