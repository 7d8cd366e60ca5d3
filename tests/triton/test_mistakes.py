"""A repository with a mistake is refused: all by our check, most by Triton itself, and each as the table says."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rpln_runtime.triton import RepositoryError, check_repository, write_repository
from tests.triton.bad_configs import MISTAKES, Edit, Mistake
from tests.triton.conftest import BUCKETS
from tests.triton.networks import ToyBundle
from tests.triton.server import Server, triton_server

EACH = pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)


@pytest.fixture(scope="session")
def tagger(bundle_of: Callable[[str], ToyBundle], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository without a mistake."""
    repository = tmp_path_factory.mktemp("tagger") / "repository"
    write_repository(bundle_of("token-classification").folder, repository, name="tagger", buckets=BUCKETS)
    return repository


@pytest.fixture(scope="module")
def models(tagger: Path, environment: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator["Loading"]:
    """A server that loads one model at a time."""
    with loading(environment, tmp_path_factory) as server:
        yield server


@pytest.fixture(scope="module")
def ensembles(tagger: Path, environment: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator["Loading"]:
    """A server that keeps the steps of an ensemble, which it loads again."""
    with loading(environment, tmp_path_factory) as server:
        for name in ("tagger_tokenizer", "tagger_model", "tagger_answers"):
            assert server.load(tagger / name)[0] == 200
        yield server


@dataclass(frozen=True, slots=True)
class Loading:
    """A server that loads what it is told to, from `repository`."""

    server: Server
    repository: Path

    def load(self, model: Path, edit: Edit | None = None) -> tuple[int, Any]:
        """Load a copy of `model`, edited."""
        folder = self.repository / model.name
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(model, folder)
        if edit is not None:
            edit(folder)
        return self.server.post(f"repository/models/{model.name}/load")


@contextmanager
def loading(environment: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loading]:
    repository = tmp_path_factory.mktemp("served")
    work = tmp_path_factory.mktemp("server")
    with triton_server(environment, [repository], work, ["--model-control-mode=explicit"]) as server:
        yield Loading(server, repository)


def test_there_are_enough_of_each() -> None:
    assert len(MISTAKES) >= 40
    assert sum(mistake.refused is not True for mistake in MISTAKES.values()) >= 10


@EACH
def test_the_check_finds_the_mistake(tagger: Path, tmp_path: Path, mistake: Mistake) -> None:
    repository = shutil.copytree(tagger, tmp_path / "repository")
    assert "tagger_model" in check_repository(repository)
    mistake.edit(repository / mistake.model)
    with pytest.raises(RepositoryError, match=mistake.message):
        check_repository(repository)


@pytest.mark.parametrize("name", [name for name, mistake in MISTAKES.items() if mistake.refused is not None])
def test_triton_refuses_what_it_does(request: pytest.FixtureRequest, tagger: Path, name: str) -> None:
    mistake = MISTAKES[name]
    loading: Loading = request.getfixturevalue("ensembles" if mistake.model == "tagger" else "models")
    status, document = loading.load(tagger / mistake.model, mistake.edit)
    assert (status != 200) == mistake.refused, document
