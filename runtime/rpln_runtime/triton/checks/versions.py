"""The versions that a server serves: an ensemble runs the newest one of each step, which must be of one bundle."""

from collections.abc import Iterator, Sequence

from rpln_runtime.triton.checks.model import Model
from rpln_runtime.triton.checks.problems import Problem
from rpln_runtime.triton.checks.reading import Config
from rpln_runtime.triton.contents import CONFIG, CPU_CONFIG


def compare_versions(models: Sequence[Model]) -> Iterator[Problem]:
    """Yield the steps whose newest version is not that of the first one."""
    steps = [model for model in models if model.role != "ensemble" and model.versions]
    for server in (CONFIG, CPU_CONFIG):
        newest = [_newest_served(model, model.config_for(server)[1]) for model in steps]
        for model, version in zip(steps, newest, strict=True):
            file, config = model.config_for(server)
            if version != newest[0]:
                yield Problem(
                    file,
                    f"the newest version that it serves is {version}, that of {steps[0].name} is {newest[0]}: the "
                    "steps belong to one bundle",
                    config.line_of(("version_policy",)) if config else None,
                )


def _newest_served(model: Model, config: Config | None) -> int | None:
    """Return the newest version that a server serves with this configuration; None if there is none."""
    chosen = config.values.get(("version_policy", "specific", "versions")) if config else None
    return max((version for version in model.versions if chosen is None or version in chosen), default=None)
