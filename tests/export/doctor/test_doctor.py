import dataclasses
import importlib.metadata
import io
import json
import os
import sys
from pathlib import Path

import pytest
from rich.console import Console

import rpln_export.doctor.machine
from rpln_export.doctor.checks import Finding, diagnose, render_table, to_json
from rpln_export.doctor.machine import Distribution, Machine, read_machine
from rpln_export.extras import EXTRAS, require_extra
from rpln_runtime.errors import MissingExtraError
from rpln_runtime.installing import version_command

EXPORT = Distribution(
    version="0.1.0",
    requires=(
        "torch<3,>=2.13",
        "onnx-ir<2,>=1.0",
        "rpln-runtime==0.1.0",
        "pytest>=9; extra == 'test'",
        "pywin32>=300; sys_platform == 'no-such-platform'",
    ),
)
CPU_MACHINE = Machine(
    python="3.11.7",
    executable="/usr/bin/python3",
    distributions={
        "rpln-export": EXPORT,
        "rpln-runtime": Distribution(version="0.1.0"),
        "torch": Distribution(version="2.13.0+cpu"),
        "onnx-ir": Distribution(version="1.1.0"),
        "onnxruntime": Distribution(version="1.32.0"),
    },
    providers=("CPUExecutionProvider",),
)
GPU_MACHINE = dataclasses.replace(
    CPU_MACHINE,
    distributions={
        **{name: found for name, found in CPU_MACHINE.distributions.items() if name != "onnxruntime"},
        "torch": Distribution(version="2.13.0"),
        "onnxruntime-gpu": Distribution(version="1.31.1"),
    },
    torch_cuda="13.0",
    providers=("CUDAExecutionProvider", "CPUExecutionProvider"),
    driver="580.65.06",
    gpus=("NVIDIA L4, 8.9, 23034 MiB",),
)


def with_distributions(machine: Machine, **versions: str | None) -> Machine:
    """Return `machine` with `name_with_underscores="version"` installed, or removed by None."""
    wanted = {name.replace("_", "-"): version for name, version in versions.items()}
    kept = {name: found for name, found in machine.distributions.items() if name not in wanted}
    added = {name: Distribution(version=version) for name, version in wanted.items() if version is not None}
    return dataclasses.replace(machine, distributions=kept | added)


def finding(machine: Machine, component: str) -> Finding:
    (found,) = [row for row in diagnose(machine) if row.component == component]
    return found


@pytest.mark.parametrize("machine", [CPU_MACHINE, GPU_MACHINE], ids=["cpu", "gpu"])
def test_a_sound_machine_has_no_problem(machine: Machine) -> None:
    assert [row for row in diagnose(machine) if row.status == "problem"] == []


def test_whatever_is_not_ok_says_what_it_costs_and_how_to_mend_it() -> None:
    empty = Machine(python="3.11.7", executable="python", distributions={"rpln-export": EXPORT})
    rows = [row for row in diagnose(empty) if row.status != "ok"]
    assert len(rows) > 8
    assert [row for row in rows if not (row.detail and row.cost_of_missing and row.fix)] == []


def test_requirements_are_read_from_the_metadata_without_extras_and_foreign_platforms() -> None:
    components = [row.component for row in diagnose(CPU_MACHINE)]
    assert {"torch", "onnx-ir", "rpln-runtime"} <= set(components)
    assert "pytest" not in components
    assert "pywin32" not in components


@pytest.mark.parametrize(
    ("versions", "component", "detail", "fix"),
    [
        ({"torch": "2.12.1"}, "torch", "2.12.1; needed: <3,>=2.13", 'pip install "torch<3,>=2.13"'),
        ({"torch": None}, "torch", "not installed; needed: <3,>=2.13", 'pip install "torch<3,>=2.13"'),
        ({"rpln_runtime": "0.2.0"}, "rpln-runtime", "0.2.0; needed: ==0.1.0", version_command("0.1.0")),
    ],
    ids=["too-old", "absent", "of-another-release"],
)
def test_an_unmet_requirement_is_a_problem(
    versions: dict[str, str | None], component: str, detail: str, fix: str
) -> None:
    found = finding(with_distributions(CPU_MACHINE, **versions), component)
    assert (found.status, found.detail, found.fix) == ("problem", detail, fix)


def test_a_pre_release_counts_as_its_version() -> None:
    assert finding(with_distributions(CPU_MACHINE, torch="2.14.0a0+git1234"), "torch").status == "ok"


def test_the_build_of_torch_is_named() -> None:
    assert finding(CPU_MACHINE, "torch").detail == "2.13.0+cpu for CPU"
    assert finding(GPU_MACHINE, "torch").detail == "2.13.0 for CUDA 13.0"


def test_not_being_installed_is_a_problem() -> None:
    assert finding(with_distributions(CPU_MACHINE, rpln_export=None), "rpln-export").status == "problem"


@pytest.mark.parametrize(("machine", "extra"), [(CPU_MACHINE, "cpu"), (GPU_MACHINE, "gpu")], ids=["cpu", "gpu"])
def test_both_onnxruntime_wheels_are_a_problem_and_the_remedy_fits_the_machine(machine: Machine, extra: str) -> None:
    found = finding(with_distributions(machine, onnxruntime="1.32.0", onnxruntime_gpu="1.31.1"), "onnxruntime")
    assert found.status == "problem"
    assert "onnxruntime 1.32.0 and onnxruntime-gpu 1.31.1 share a folder" in found.detail
    assert found.fix == f'pip uninstall -y onnxruntime onnxruntime-gpu && pip install "rpln-export[{extra}]"'


def test_no_onnxruntime_is_answered_with_the_extra() -> None:
    machine = dataclasses.replace(with_distributions(CPU_MACHINE, onnxruntime=None), providers=())
    found = finding(machine, "onnxruntime")
    assert (found.status, found.fix) == ("missing", 'pip install "rpln-export[cpu]"')
    assert "providers" not in [row.component for row in diagnose(machine)]


@pytest.mark.parametrize(
    ("error", "said"),
    [("ImportError: libcudart.so.13", "libcudart.so.13"), (None, "its folder is gone")],
    ids=["does-not-load", "overwritten-then-removed"],
)
def test_an_onnxruntime_that_cannot_be_imported_is_a_problem(error: str | None, said: str) -> None:
    found = finding(dataclasses.replace(CPU_MACHINE, providers=(), providers_error=error), "onnxruntime")
    assert found.status == "problem"
    assert said in found.detail
    assert found.fix == 'pip uninstall -y onnxruntime && pip install "rpln-export[cpu]"'


def test_cuda_listed_without_a_driver_is_no_cuda() -> None:
    found = finding(dataclasses.replace(GPU_MACHINE, driver=None, gpus=()), "providers")
    assert (found.status, found.cost_of_missing) == ("missing", "Of these only the CPU provider can run.")


def test_a_gpu_that_onnxruntime_cannot_use_is_pointed_out() -> None:
    found = finding(dataclasses.replace(CPU_MACHINE, driver="580.65.06", gpus=GPU_MACHINE.gpus), "providers")
    assert (found.status, found.fix) == ("missing", 'pip uninstall -y onnxruntime && pip install "rpln-export[gpu]"')


def test_a_driver_without_a_gpu_is_a_problem() -> None:
    found = finding(dataclasses.replace(GPU_MACHINE, gpus=()), "GPU")
    assert (found.status, "580.65.06" in found.detail) == ("problem", True)


@pytest.mark.parametrize("name", ["openvino", "tensorrt", "tensorrt-rtx", "ray", "triton", "eval", "optimum"])
def test_an_optional_part_is_missing_until_it_is_installed(name: str) -> None:
    extra = EXTRAS[name]
    absent = finding(CPU_MACHINE, extra.distribution)
    assert (absent.status, absent.fix) == ("missing", f'pip install "rpln-export[{name}]"')
    present = with_distributions(CPU_MACHINE, **{extra.distribution.replace("-", "_"): "1.7.1"})
    assert (finding(present, extra.distribution).status, finding(present, extra.distribution).detail) == ("ok", "1.7.1")


def test_optimum_beside_a_transformers_that_it_refuses_is_a_problem() -> None:
    optimum = Distribution(version="0.1.0", requires=("transformers<4.58.0,>=4.36", "onnx"))
    machine = with_distributions(CPU_MACHINE, transformers="5.23.0", onnx="1.23.2")
    found = finding(
        dataclasses.replace(machine, distributions={**machine.distributions, "optimum-onnx": optimum}), "optimum-onnx"
    )
    assert (found.status, found.detail) == ("problem", "0.1.0 needs transformers<4.58.0,>=4.36")


def test_the_table_shows_brackets_and_every_line() -> None:
    console = Console(width=160, file=io.StringIO(), record=True)
    rows = diagnose(dataclasses.replace(with_distributions(CPU_MACHINE, onnxruntime=None), providers=()))
    console.print(render_table(rows))
    text = console.export_text()
    missing = [part for row in rows for part in (row.component, row.status, row.detail, row.fix) if part not in text]
    assert missing == []


def test_the_json_holds_every_field_of_every_finding() -> None:
    rows = diagnose(CPU_MACHINE)
    assert [Finding(**row) for row in json.loads(to_json(rows))] == rows


def test_this_machine_is_read_as_imports_see_it() -> None:
    import onnxruntime
    import torch

    machine = read_machine()
    assert machine.executable == sys.executable
    assert machine.distributions["ml-dtypes"].version == importlib.metadata.version("ml_dtypes")
    assert machine.distributions["onnxscript"].requires == tuple(importlib.metadata.requires("onnxscript") or ())
    assert machine.providers == tuple(onnxruntime.get_available_providers())
    assert machine.torch_cuda == torch.version.cuda


def test_a_broken_onnxruntime_breaks_the_child_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "onnxruntime.py").write_text("import os; print('half', flush=True); os.abort()")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    machine = read_machine()
    assert machine.providers == ()
    assert machine.providers_error


def test_driver_and_gpu_are_read_from_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text('#!/bin/sh\ncase "$1" in *driver*) echo 580.65.06;; *) echo "NVIDIA L4, 8.9, 23034 MiB";; esac\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(rpln_export.doctor.machine, "_DRIVER_FILE", tmp_path / "no-such-file")
    machine = read_machine()
    assert (machine.driver, machine.gpus) == ("580.65.06", ("NVIDIA L4, 8.9, 23034 MiB",))


@pytest.mark.parametrize(
    ("line", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023", "535.104.05"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65  Release Build", "580.65"),
    ],
    ids=["proprietary", "open"],
)
def test_the_driver_is_read_from_the_kernel_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, version: str
) -> None:
    file = tmp_path / "version"
    file.write_text(f"{line}\nGCC version:  gcc version 12.2.0 (Debian)\n")
    monkeypatch.setattr(rpln_export.doctor.machine, "_DRIVER_FILE", file)
    assert read_machine().driver == version


def test_a_missing_extra_names_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtraError, match=r'pip install "rpln-export\[openvino\]"'):
        require_extra("openvino")


def test_a_missing_parent_package_is_a_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optimum", None)
    monkeypatch.delitem(sys.modules, "optimum.onnxruntime", raising=False)
    with pytest.raises(MissingExtraError, match=r"rpln-export\[optimum\]"):
        require_extra("optimum")


def test_an_extra_that_misses_a_part_of_its_own_says_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tensorrt_rtx.py").write_text("import no_such_part")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt_rtx", raising=False)
    with pytest.raises(ModuleNotFoundError, match="no_such_part"):
        require_extra("tensorrt-rtx")


def test_an_installed_extra_is_imported() -> None:
    assert require_extra("cpu").__name__ == "onnxruntime"
