"""A bundle that `export` makes of an embedded checkpoint, once for the tests of this folder."""

from dataclasses import dataclass, field

import pytest

from rpln_export import Bundle, export
from rpln_export.steps import Step


@dataclass
class Recorder:
    """A watcher that keeps what it is told."""

    started: list[str] = field(default_factory=list)
    finished: list[str] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)

    def start(self, name: str) -> None:
        self.started.append(name)

    def advance(self, done: int, total: int) -> None:
        self.shares.append(done / total)

    def finish(self, step: Step) -> None:
        self.finished.append(step.name)


@pytest.fixture(scope="session")
def recorder() -> Recorder:
    """Return the watcher that `tagger` was exported with."""
    return Recorder()


@pytest.fixture(scope="session")
def tagger(recorder: Recorder, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Return the embedded tagger, exported by the function."""
    folder = tmp_path_factory.mktemp("api") / "tagger"
    return export(task="token-classification", output=folder, progress=recorder)
