"""`rpln doctor`: what is installed, what is missing or in conflict, what that prevents, and how to mend it."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Final, Literal, TypeAlias

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from rich.table import Table
from rich.text import Text

from rpln_export.doctor.machine import Distribution, Machine, read_machine
from rpln_export.extras import EXTRAS, Extra
from rpln_runtime.installing import version_command

Status: TypeAlias = Literal["ok", "missing", "problem"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of the diagnosis.

    Attributes:
        component: the part of the machine or the distribution that it is about.
        status: "missing" if something cannot be done without it, "problem" if something is broken, else "ok".
        detail: what was found.
        cost_of_missing: what cannot be done; empty where all is well.
        fix: the command or the step that mends it; empty where all is well.
    """

    component: str
    status: Status
    detail: str
    cost_of_missing: str = ""
    fix: str = ""


def diagnose(machine: Machine | None = None) -> list[Finding]:
    """Return the findings of all checks about `machine`; None means the one that this runs on."""
    facts = machine or read_machine()
    return [finding for check in _CHECKS for finding in check(facts)]


def render_table(findings: Iterable[Finding]) -> Table:
    """Return the findings as a table for a terminal, with costs and fixes below the details."""
    table = Table("Part", "State", "What was found, what it costs, how to mend it", show_edge=False)
    for finding in findings:
        # A plain str would not do: rich takes the brackets in "rpln-export[cpu]" for a style.
        lines = (Text(finding.detail), Text(finding.cost_of_missing), Text(finding.fix, style="bold"))
        table.add_row(
            Text(finding.component),
            Text(finding.status, style=_STYLES[finding.status]),
            Text("\n").join(line for line in lines if line),
        )
    return table


def to_json(findings: Iterable[Finding]) -> str:
    """Return the findings as a JSON list of objects with the fields of Finding."""
    return json.dumps([asdict(finding) for finding in findings], indent=2)


_STYLES: Final[dict[Status, str]] = {"ok": "green", "missing": "yellow", "problem": "bold red"}

_COSTS: Final = {
    "rpln-runtime": "No bundle is read or run.",
    "torch": "No checkpoint is loaded or traced.",
    "transformers": "No config or tokenizer is read.",
    "tokenizers": "No text is tokenized.",
    "safetensors": "No weights are read.",
    "onnx": "No graph is checked.",
    "onnx-ir": "No graph is rewritten.",
    "onnxscript": "torch exports no graph.",
}

# These wheels unpack into the same folder, onnxruntime/.
_ONNXRUNTIME_WHEELS: Final = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino")

_CUDA: Final = "CUDAExecutionProvider"
_INSTALL_DRIVER: Final = "If the machine has an NVIDIA GPU, install NVIDIA's driver. If not, there is nothing to mend."


def _python(machine: Machine) -> Iterator[Finding]:
    yield Finding(component="python", status="ok", detail=f"{machine.python} ({machine.executable})")


def _base(machine: Machine) -> Iterator[Finding]:
    """Yield a finding for each distribution that rpln-export requires, according to its own metadata."""
    own = machine.distributions.get("rpln-export")
    if own is None:
        yield Finding(
            component="rpln-export",
            status="problem",
            detail="runs from a folder without being installed, so what it requires is unknown",
            cost_of_missing="Required packages may be absent or of the wrong version.",
            fix="pip install ./runtime . (in a clone of the project)",
        )
        return
    yield Finding(component="rpln-export", status="ok", detail=own.version)
    notes = {"torch": f" for CUDA {machine.torch_cuda}" if machine.torch_cuda else " for CPU"}
    for requirement in _requirements(own):
        name = canonicalize_name(requirement.name)
        found = machine.distributions.get(name)
        if found is not None and _is_met(requirement, machine):
            yield Finding(component=name, status="ok", detail=found.version + notes.get(name, ""))
        else:
            yield Finding(
                component=name,
                status="problem",
                detail=f"{found.version if found else 'not installed'}; needed: {requirement.specifier}",
                cost_of_missing=_COSTS.get(name, "rpln-export does not run."),
                fix=_install(requirement),
            )


def _install(requirement: Requirement) -> str:
    """Return the command that installs what `requirement` asks for. rpln-runtime is on no index."""
    if requirement.name == "rpln-runtime":
        return version_command(str(requirement.specifier).removeprefix("=="))
    return f'pip install "{requirement.name}{requirement.specifier}"'


def _onnxruntime(machine: Machine) -> Iterator[Finding]:
    wheels = [name for name in _ONNXRUNTIME_WHEELS if name in machine.distributions]
    if not wheels:
        yield _missing(EXTRAS["cpu"])
        return
    listed = " and ".join(f"{name} {machine.distributions[name].version}" for name in wheels)
    reinstall = f"pip uninstall -y {' '.join(wheels)} && {EXTRAS['gpu' if machine.driver else 'cpu'].command}"
    if len(wheels) > 1:
        yield Finding(
            component="onnxruntime",
            status="problem",
            detail=f"{listed} share a folder: the last one installed has overwritten the other",
            cost_of_missing="Only the last one's providers are there, and removing one wheel breaks the other.",
            fix=reinstall,
        )
    elif not machine.providers:
        yield Finding(
            component="onnxruntime",
            status="problem",
            detail=f"{listed} cannot be imported: {machine.providers_error or 'its folder is gone'}",
            cost_of_missing=EXTRAS["cpu"].cost,
            fix=reinstall,
        )
    else:
        yield Finding(component="onnxruntime", status="ok", detail=listed)


def _providers(machine: Machine) -> Iterator[Finding]:
    listed = ", ".join(machine.providers)
    if _CUDA in machine.providers and machine.driver is None:
        yield Finding(
            component="providers",
            status="missing",
            detail=f"{listed}; but no NVIDIA driver",
            cost_of_missing="Of these only the CPU provider can run.",
            fix=_INSTALL_DRIVER,
        )
    elif machine.providers and _CUDA not in machine.providers and machine.driver is not None:
        yield Finding(
            component="providers",
            status="missing",
            detail=f"{listed}; but an NVIDIA driver is there",
            cost_of_missing=EXTRAS["gpu"].cost,
            fix=f"pip uninstall -y onnxruntime && {EXTRAS['gpu'].command}",
        )
    elif machine.providers:
        yield Finding(component="providers", status="ok", detail=listed)


def _optional(machine: Machine) -> Iterator[Finding]:
    for extra in EXTRAS.values():
        if extra.wheel_of_onnxruntime:
            continue  # _onnxruntime checks these
        found = machine.distributions.get(extra.distribution)
        if found is None:
            yield _missing(extra)
            continue
        unmet = [requirement for requirement in _requirements(found) if not _is_met(requirement, machine)]
        if unmet:
            yield Finding(
                component=extra.distribution,
                status="problem",
                detail=f"{found.version} needs {' and '.join(map(str, unmet))}",
                cost_of_missing=extra.cost,
                fix=f"In an environment of its own: {extra.command}",
            )
        else:
            yield Finding(component=extra.distribution, status="ok", detail=found.version)


def _gpu(machine: Machine) -> Iterator[Finding]:
    if machine.driver is None:
        yield Finding(
            component="GPU",
            status="missing",
            detail="no NVIDIA driver",
            cost_of_missing="Nothing runs on a GPU here; tensorrt-rtx can still build engines that run elsewhere.",
            fix=_INSTALL_DRIVER,
        )
    elif not machine.gpus:
        yield Finding(
            component="GPU",
            status="problem",
            detail=f"driver {machine.driver}, but nvidia-smi lists no GPU",
            cost_of_missing="Nothing runs on a GPU here.",
            fix="Run nvidia-smi, which says why; start a container with --gpus all.",
        )
    else:
        yield Finding(component="GPU", status="ok", detail=f"{'; '.join(machine.gpus)}; driver {machine.driver}")


_CHECKS: Final[tuple[Callable[[Machine], Iterator[Finding]], ...]] = (
    _python,
    _base,
    _onnxruntime,
    _providers,
    _optional,
    _gpu,
)


def _missing(extra: Extra) -> Finding:
    return Finding(
        component=extra.distribution,
        status="missing",
        detail="not installed",
        cost_of_missing=extra.cost,
        fix=extra.command,
    )


def _requirements(distribution: Distribution) -> list[Requirement]:
    """Return the requirements of a distribution on this machine, without those of its extras."""
    parsed = map(Requirement, distribution.requires)
    return [one for one in parsed if one.marker is None or one.marker.evaluate({"extra": ""})]


def _is_met(requirement: Requirement, machine: Machine) -> bool:
    found = machine.distributions.get(canonicalize_name(requirement.name))
    return found is not None and requirement.specifier.contains(found.version, prereleases=True)
