"""The check finds every broken repository with file, line and cause, and lets through what an operator may change."""

import re
import shutil
from pathlib import Path

import pytest

from rpln_runtime.triton import RepositoryError, check_repository
from tests.triton.bad_repositories import (
    ANSWERS,
    CPU,
    ENSEMBLE,
    GRAPH,
    MODEL,
    TOKENIZER,
    VARIANTS,
    WRITER,
    Edit,
    Variant,
    both,
    change,
    copy,
    link,
    move,
    parameter,
    remove,
    replace,
    write,
)
from tests.triton.repositories import OTHER


@pytest.mark.parametrize("name", ["tagger", "external", "bf16", "engine", "answerer", "writer", "versions", OTHER])
def test_repositories_without_a_mistake_pass(repositories: Path, name: str) -> None:
    assert check_repository(repositories / name)


CHANGES: dict[str, tuple[str, Edit]] = {
    "options of all steps": (
        "tagger",
        both(*(replace(file, '"{}"', '"{\\"stride\\": 4}"') for file in (TOKENIZER, ANSWERS))),
    ),
    "batch size of all models": (
        "tagger",
        both(
            *(replace(file, "size: 32", "size: 16") for file in (ENSEMBLE, TOKENIZER, MODEL, CPU, ANSWERS)),
            replace(TOKENIZER, 'string_value: "32"', 'string_value: "16"'),
        ),
    ),
    "batch size of a generator": (
        "writer",
        both(
            *(
                both(replace(file, "size: 8", "size: 4"), replace(file, 'string_value: "8"', 'string_value: "4"'))
                for file in (WRITER, "writer/configs/cpu.pbtxt")
            )
        ),
    ),
    "other buckets": ("tagger", replace(TOKENIZER, '"16,32,64"', '"8,48,64"')),
    "no warm-up request of a length": (
        "tagger",
        both(
            *(
                change(file, lambda text: re.sub(rb'model_warmup {\n  name: "16 .*?\n}\n', b"", text, flags=re.DOTALL))
                for file in (MODEL, CPU)
            ),
            remove("tagger_model/warmup/ones_16"),
        ),
    ),
    "another warm-up request": (
        "tagger",
        both(
            *(
                both(
                    *(
                        replace(file, old, new)
                        for old, new in [
                            ('"16 t', '"24 t'),
                            ("[ 16 ]", "[ 24 ]"),
                            ("[ 16 ]", "[ 24 ]"),
                            ("ones_16", "ones_24"),
                        ]
                    )
                )
                for file in (MODEL, CPU)
            ),
            write("tagger_model/warmup/ones_24", (1).to_bytes(8, "little") * 24),
        ),
    ),
    "configuration for the CPU as the only one": ("tagger", copy(CPU, MODEL)),
    "comments and another layout": (
        "tagger",
        both(
            replace(CPU, "dims: [ -1 ]", "dims: -1; # of any length"),
            replace(CPU, "latest {\n    num_versions: 1\n  }", "latest: < num_versions: 1, >"),
        ),
    ),
    "newer version of all steps": (
        "tagger",
        both(*(copy(f"{step}/1", f"{step}/7") for step in ("tagger_tokenizer", "tagger_model", "tagger_answers"))),
    ),
    "newer version of another checkpoint": (
        "tagger",
        both(
            *(remove(f"{step}/1") for step in ("tagger_tokenizer", "tagger_model", "tagger_answers")),
            *(
                copy(f"../other/{step}/1", f"{step}/7")
                for step in ("tagger_tokenizer", "tagger_model", "tagger_answers")
            ),
            copy(f"../other/{MODEL}", MODEL),
            copy(f"../other/{CPU}", CPU),
            copy(f"../other/{ANSWERS}", ANSWERS),
            copy("../other/tagger_model/labels.txt", "tagger_model/labels.txt"),
        ),
    ),
    "what Python and editors leave": (
        "tagger",
        both(
            lambda repository: (repository / "tagger_tokenizer/1/__pycache__").mkdir(),
            write("tagger_tokenizer/1/__pycache__/model.cpython-311.pyc", b""),
            write("tagger/.config.pbtxt.swp", b""),
            write("notes.txt", b""),
        ),
    ),
    "link within the repository": ("tagger", both(move(GRAPH, "graph"), link(GRAPH, "graph"))),
    "threads": ("tagger", change(CPU, lambda text: parameter("intra_op_thread_count", "2").encode() + text)),
}


@pytest.mark.parametrize(("base", "edit"), CHANGES.values(), ids=CHANGES)
def test_changes_that_are_allowed_pass(repositories: Path, tmp_path: Path, base: str, edit: Edit) -> None:
    edit(repository := copied(repositories, tmp_path, base))
    assert check_repository(repository)


def test_there_are_many_variants() -> None:
    assert len(VARIANTS) >= 43


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_every_problem_of_a_variant_is_named(repositories: Path, tmp_path: Path, variant: Variant) -> None:
    variant.edit(repository := copied(repositories, tmp_path, variant.base))
    with pytest.raises(RepositoryError) as raised:
        check_repository(repository)
    lines = str(raised.value).replace(f"{repository}/", "  ").splitlines()
    problems = [line.removeprefix("  ") for line in lines if line.startswith("  ")]
    for found in variant.found:
        assert any(line.startswith(found.place(repository)) and found.cause in line for line in problems), raised.value
    assert variant.more or len(problems) == len(variant.found), raised.value


def copied(repositories: Path, folder: Path, name: str) -> Path:
    """Return a copy of a repository, with others beside it."""
    for other in (OTHER, "answerer"):
        (folder / other).symlink_to(repositories / other)
    return shutil.copytree(repositories / name, folder / "repository")
