"""The check finds every broken repository with file, line and cause, and lets through what an operator may change."""

import shutil
from pathlib import Path

import pytest

from rpln_runtime.triton import RepositoryError, check_repository
from tests.triton.bad_repositories import VARIANTS, Variant
from tests.triton.repositories import OTHER


@pytest.mark.parametrize("name", ["tagger", "external", "bf16", "engine", "answerer", "writer", "versions", OTHER])
def test_repositories_without_a_mistake_pass(repositories: Path, name: str) -> None:
    assert check_repository(repositories / name)


def test_there_are_many_variants() -> None:
    assert len(VARIANTS) >= 43


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_every_problem_of_a_variant_is_named(repositories: Path, tmp_path: Path, variant: Variant) -> None:
    for name in (OTHER, "answerer"):
        (tmp_path / name).symlink_to(repositories / name)
    repository = shutil.copytree(repositories / variant.base, tmp_path / "repository")
    variant.edit(repository)
    with pytest.raises(RepositoryError) as raised:
        check_repository(repository)
    lines = str(raised.value).replace(f"{repository}/", "  ").splitlines()
    problems = [line.removeprefix("  ") for line in lines if line.startswith("  ")]
    for found in variant.found:
        assert any(line.startswith(found.place(repository)) and found.cause in line for line in problems), raised.value
    assert variant.more or len(problems) == len(variant.found), raised.value
