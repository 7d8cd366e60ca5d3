"""The build of the C++ runtime and bundles of the embedded checkpoints, each made once a run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rpln_export import pipeline
from rpln_export.forms.choice import Measurements
from rpln_export.plan.defaults import DEFAULTS
from rpln_export.plan.export_plan import make_plan
from tests.cpp.building import Build, build, once


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A folder that the processes of a run have in common."""
    base = tmp_path_factory.getbasetemp()
    return (base if worker_id == "master" else base.parent) / "cpp"


@pytest.fixture(scope="session")
def built(shared: Path) -> Build:
    """The runtime, installed, and the tests' programs."""
    return build(shared)


@pytest.fixture(scope="session")
def demo(built: Build, shared: Path) -> Callable[..., Path]:
    """Task and choices of the plan -> a bundle of its embedded checkpoint. Where tools lack, none is made."""

    def demo(task: str, **choices: Any) -> Path:
        folder = shared / "-".join([task, *(str(choice).replace("'", "") for choice in choices.values())])

        def make() -> None:
            with pytest.MonkeyPatch.context() as monkeypatch:
                monkeypatch.setattr(pipeline, "measure_forms", lambda *_: Measurements(why_not="not in tests"))
                plan = make_plan(str(DEFAULTS[task].folder), task=task, destination=folder, **choices)
                pipeline.export(plan)

        once(folder.with_suffix(".made"), make)
        return folder

    return demo
