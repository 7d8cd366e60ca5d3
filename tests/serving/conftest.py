"""A server of bundles of every task, for all tests of this folder."""

import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from rpln_runtime.tasks import TASKS
from tests.runtime.bundles import make_tokenizer
from tests.runtime.decoders import decoder_plan, encoder_plan, make_decoder_bundle, make_encoder_decoder
from tests.serving.server import Server, running_server
from tests.triton.networks import make_toy_bundle, make_vectors_bundle

EXTRA = ("ray", "fastapi", "pydantic", "uvicorn", "prometheus_client")
VECTORS = "vectors-of-texts"
WRITER, TRANSLATOR = "writer", "translator"
_KEPT = Path(__file__).parents[1] / "data" / "bundles-0.1.0" / "text-generation"


@pytest.fixture(scope="session")
def _extra() -> None:
    """Skip where the extra is not installed."""
    for name in EXTRA:
        if find_spec(name) is None:
            pytest.skip(f'no {name}: pip install "rpln-runtime[serve]"')


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the folder of a bundle of each task, by the name that it is served by."""
    root = tmp_path_factory.mktemp("bundles")
    encoders = [task for task, row in TASKS.items() if row.postprocess]
    found = {name: root / name for name in (*encoders, VECTORS, TRANSLATOR)}
    for folder in found.values():
        folder.mkdir()
    for task in encoders:
        make_toy_bundle(found[task], task)
    make_vectors_bundle(found[VECTORS])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's exporter warns of its own internals
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        tokenizer = make_tokenizer(found[TRANSLATOR])
        model = make_encoder_decoder(len(tokenizer))
        make_decoder_bundle(
            found[TRANSLATOR], model, tokenizer, [decoder_plan(model, "with-past"), encoder_plan(model)]
        )
        torch.set_num_threads(threads)
    return {**found, WRITER: _KEPT}


@pytest.fixture(scope="session")
def server(_extra: None, folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Return a server of all `folders`."""
    arguments = [f"{name}={folder}" for name, folder in folders.items()]
    with running_server([*arguments, "--body-bytes", "300000"], tmp_path_factory.mktemp("server")) as server:
        yield server
