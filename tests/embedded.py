"""Bundles of the embedded checkpoints, which the processes of a test run share."""

from pathlib import Path
from typing import Any

import pytest

from rpln_export import pipeline
from rpln_export.forms.choice import Measurements
from rpln_export.plan.defaults import DEFAULTS
from rpln_export.plan.export_plan import make_plan
from tests.sharing import made_once, shared_folder


def embedded_bundle(tmp_path_factory: pytest.TempPathFactory, task: str, **choices: Any) -> Path:
    """Return a bundle of a task's embedded checkpoint in a form that was not measured. It is made once a run.

    `choices` are arguments of `make_plan`.
    """
    name = "-".join([task, *(f"{key}={choice}".replace("'", "") for key, choice in choices.items())])

    def make(folder: Path) -> None:
        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.setattr(pipeline, "measure_forms", lambda *_: Measurements(why_not="not in tests"))
            plan = make_plan(str(DEFAULTS[task].folder), task=task, destination=folder, **choices)
            pipeline.export(plan)

    return made_once(shared_folder(tmp_path_factory) / "embedded" / name, make)
