"""BACKENDS: one row for each of the two TensorRTs: what it can build here, what it cannot, and why."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final

from rpln_runtime.engines.tensorrt.device import Cuda
from rpln_runtime.errors import MissingExtraError, ProviderError
from rpln_runtime.installing import extras_command


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """Options for building an engine.

    Attributes:
        version_compatible: whether later versions of TensorRT can run the engine.
        hardware_compatible: whether later GPUs can run the engine.
        strip_weights: whether the engine is stored without its weights, which loading takes from the graph's file.
        workspace: the most bytes of the device's memory that a kernel may use besides, or None for all memory.
        verbose: whether NVIDIA's log goes to stderr.
    """

    version_compatible: bool = False
    hardware_compatible: bool = False
    strip_weights: bool = False
    workspace: int | None = None
    verbose: bool = False

    @property
    def asked_for(self) -> tuple[str, ...]:
        """The names of the options that are switched on."""
        return tuple(option.name for option in fields(self) if getattr(self, option.name) is True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """One of the two TensorRTs.

    Attributes:
        name: the value of --engine.
        module: the Python module.
        install: the command that installs it.
        targets: the compute capabilities that it builds for on any machine; empty if it builds for the GPU at hand.
        default_targets: the targets that it builds for unless others are named.
        refused: the reason why it cannot build for a target by a recipe, by (target, recipe).
        lacks: the reason why it does not have an option, by the option's name.
        keeps_timings: whether it measures kernels, so that a cache of timings saves time.
    """

    name: str
    module: str
    install: str
    targets: tuple[str, ...] = ()
    default_targets: tuple[str, ...] = ()
    refused: Mapping[tuple[str, str], str] = field(default_factory=dict)
    lacks: Mapping[str, str] = field(default_factory=dict)
    keeps_timings: bool = False

    @property
    def needs_gpu(self) -> bool:
        """Whether it builds on a GPU only."""
        return not self.targets

    def load(self) -> Any:
        """Return the imported module. Raises MissingExtraError with the command that installs it."""
        try:
            return importlib.import_module(self.module)
        except ImportError as error:
            raise MissingExtraError(f"{self.name} is not installed ({error}). Run: {self.install}") from error


_TURING: Final = "GPUs of compute capability 7.5 have no kernels for this type"
_TURING_UNPACKS: Final = "GPUs of compute capability 7.5 have no kernels that multiply with weights of fewer bits"
_BEFORE_ADA: Final = "GPUs compute in fp8 from compute capability 8.9 on"

BACKENDS: Final = {
    row.name: row
    for row in (
        Backend(
            name="tensorrt",
            module="tensorrt",
            install=extras_command("tensorrt", distribution="rpln-export"),
            refused={(target, "fp8"): _BEFORE_ADA for target in ("sm75", "sm80", "sm86", "sm87")},
            keeps_timings=True,
        ),
        Backend(
            name="tensorrt-rtx",
            module="tensorrt_rtx",
            install=extras_command("tensorrt-rtx", distribution="rpln-export"),
            targets=("sm75", "sm80", "sm86", "sm89", "sm120", "sm121"),
            default_targets=("sm80", "sm86", "sm89", "sm120"),
            refused={
                ("sm75", "fp32"): _TURING,
                ("sm75", "bf16"): _TURING,
                ("sm75", "int8-tensorrt"): f"{_TURING} with sums in fp32",
                **{("sm75", recipe): _TURING_UNPACKS for recipe in ("int8-weight-only-tensorrt", "int4-tensorrt")},
                **{(target, "fp8"): _BEFORE_ADA for target in ("sm75", "sm80", "sm86")},
            },
            lacks={
                "version_compatible": "its packages contain no lean runtime",
                "hardware_compatible": "it builds for several GPUs at once: name them with --gpu",
                "strip_weights": "it compiles such engines on a GPU only",
            },
        ),
    )
}


def device_target() -> str | None:
    """Return the compute capability of the GPU at hand, such as sm89; None without GPU, driver or cuda-bindings."""
    try:
        cuda = Cuda(importlib.import_module("cuda.bindings.runtime"))
        cuda.check_driver()
    except (ImportError, ProviderError):
        return None
    return cuda.capability()
