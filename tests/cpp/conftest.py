"""The build of the C++ runtime, and bundles of the embedded checkpoints, each made once a run."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rpln_export import pipeline
from rpln_export.forms.choice import Measurements
from rpln_export.plan.defaults import DEFAULTS
from rpln_export.plan.export_plan import make_plan
from tests.cpp.building import Build, build
from tests.sharing import made_once, shared_folder


@pytest.fixture(scope="session")
def built(kept_folder: Path) -> Iterator[Build]:
    """Return the build: the installed runtime and the tests' programs."""
    made = build(kept_folder / "cpp")
    yield made
    made.stop_drivers()


@pytest.fixture(scope="session")
def demo(built: Build, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that makes a bundle of a task's embedded checkpoint. Without the tools none is made."""
    bundles = shared_folder(tmp_path_factory) / "cpp"

    def demo(task: str, **choices: Any) -> Path:
        name = "-".join([task, *(str(choice).replace("'", "") for choice in choices.values())])

        def make(folder: Path) -> None:
            with pytest.MonkeyPatch.context() as monkeypatch:
                monkeypatch.setattr(pipeline, "measure_forms", lambda *_: Measurements(why_not="not in tests"))
                plan = make_plan(str(DEFAULTS[task].folder), task=task, destination=folder, **choices)
                pipeline.export(plan)

        return made_once(bundles / name, make)

    return demo
