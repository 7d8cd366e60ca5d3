"""Our check refuses every repository with a mistake, and Triton most of them, as the table says."""

import difflib
import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from rpln_runtime.triton import RepositoryError, check_repository, write_repository
from tests.triton.bad_configs import MISTAKES, Mistake
from tests.triton.networks import ToyBundle
from tests.triton.repositories import BUCKETS
from tests.triton.server import Server, triton_server

EACH = pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)


@pytest.fixture(scope="session")
def tagger(bundle_of: Callable[[str], ToyBundle], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a repository without a mistake."""
    repository = tmp_path_factory.mktemp("tagger") / "repository"
    write_repository(bundle_of("token-classification").folder, repository, name="tagger", buckets=BUCKETS)
    return repository


@pytest.fixture(scope="module")
def outcomes(tagger: Path, environment: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, Any]]:
    """Return, for each mistake, what a server answers that is told to load the models: a status and a document."""
    repository, work = tmp_path_factory.mktemp("served"), tmp_path_factory.mktemp("server")
    tried = {name: mistake for name, mistake in MISTAKES.items() if mistake.refused is not None}
    found: dict[str, tuple[int, Any]] = {}
    with triton_server(environment, [repository], work, ["--model-control-mode=explicit"]) as server:
        steps = [name for name, mistake in tried.items() if mistake.model != "tagger"]
        # The server mostly waits for a process in Python to start.
        with ThreadPoolExecutor(4) as pool:
            loaded = [pool.submit(load_step, server, repository, tagger, name) for name in steps]
            found |= {name: future.result() for name, future in zip(steps, loaded, strict=True)}
        for step in ("tagger_tokenizer", "tagger_model", "tagger_answers"):
            shutil.copytree(tagger / step, repository / step)
            assert server.post(f"repository/models/{step}/load")[0] == 200
        for name in tried.keys() - set(steps):
            shutil.rmtree(repository / "tagger", ignore_errors=True)
            shutil.copytree(tagger / "tagger", repository / "tagger")
            tried[name].edit(repository / "tagger")
            found[name] = server.post("repository/models/tagger/load")
    return found


def load_step(server: Server, repository: Path, tagger: Path, name: str) -> tuple[int, Any]:
    """Load a model with a mistake under a name of its own, so that several can be loaded at a time."""
    mistake = MISTAKES[name]
    folder = repository / name.replace(" ", "_")
    shutil.copytree(tagger / mistake.model, folder)
    mistake.edit(folder)
    for config in folder.rglob("*.pbtxt"):
        renamed = config.read_text(encoding="utf-8").replace(f'"{mistake.model}"', f'"{folder.name}"')
        config.write_text(renamed, encoding="utf-8")
    return server.post(f"repository/models/{folder.name}/load")


def test_the_table_has_many_mistakes_of_either_kind() -> None:
    assert len(MISTAKES) >= 40
    assert sum(mistake.refused is not True for mistake in MISTAKES.values()) >= 10


@EACH
def test_the_check_finds_the_mistake(tagger: Path, tmp_path: Path, mistake: Mistake) -> None:
    repository = shutil.copytree(tagger, tmp_path / "repository")
    mistake.edit(repository / mistake.model)
    with pytest.raises(RepositoryError, match=mistake.message) as raised:
        check_repository(repository)
    for file in repository.rglob("*.pbtxt"):
        name = file.relative_to(repository)
        if edited := edited_lines((tagger / name).read_text(), file.read_text()):
            named = re.findall(rf"^  {name}(?:, line (\d+))?: (.*)$", str(raised.value), flags=re.MULTILINE)
            assert named
            assert all(line or " is missing" in problem for line, problem in named)
            assert mistake.later == any(int(line) not in edited for line, _ in named if line)


def edited_lines(before: str, after: str) -> set[int]:
    """Return the lines of `after` that were edited, and those of the blocks around them; none without an edit."""
    lines = after.splitlines()
    codes = difflib.SequenceMatcher(None, before.splitlines(), lines, autojunk=False).get_opcodes()
    # Where lines were taken out, these are the lines before and after the gap.
    edited = {
        number
        for kind, _, _, start, end in codes
        if kind != "equal"
        for number in range(start - (kind == "delete"), max(end, start + 1))
    }
    for first in tuple(edited):
        depth = indent(lines[first])
        for number in range(first - 1, -1, -1):
            if indent(lines[number]) < depth:
                edited.add(number)
                depth = indent(lines[number])
    return {number + 1 for number in edited}


def indent(line: str) -> int:
    return len(line) - len(line.lstrip())


@pytest.mark.parametrize("name", [name for name, mistake in MISTAKES.items() if mistake.refused is not None])
def test_triton_refuses_the_mistakes_that_the_table_says(outcomes: dict[str, tuple[int, Any]], name: str) -> None:
    status, document = outcomes[name]
    assert (status != 200) == MISTAKES[name].refused, document
