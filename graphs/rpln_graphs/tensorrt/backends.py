"""BACKENDS: the two TensorRTs, what each can build here, and what it cannot and why."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final

from rpln_runtime.engines.tensorrt.device import Cuda
from rpln_runtime.errors import MissingExtraError, ProviderError


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """How to build. `workspace` is in bytes of the device's memory, None for all of it.

    A `version_compatible` engine runs by later versions of TensorRT as well, a `hardware_compatible` one on later GPUs;
    `strip_weights` leaves the weights out, which are put in from the graph's file when the engine is loaded. `verbose`
    passes NVIDIA's log through to stderr.
    """

    version_compatible: bool = False
    hardware_compatible: bool = False
    strip_weights: bool = False
    workspace: int | None = None
    verbose: bool = False

    @property
    def asked_for(self) -> tuple[str, ...]:
        """The names of those that are on."""
        return tuple(option.name for option in fields(self) if getattr(self, option.name) is True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """A row: a TensorRT, the module that it is in and the command that brings it.

    `targets` are the compute capabilities that it builds for on any machine, the default ones being those of
    `default_targets`; where there are none, it builds on the GPU at hand and for that. `refused` gives, by target and
    recipe, the reason why that is not to be had, `lacks` by name of an option. `keeps_timings` says whether it measures
    kernels, so that a cache of timings saves time.
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
        """Whether nothing is built without a GPU."""
        return not self.targets

    def load(self) -> Any:
        """Import it. Raises MissingExtraError with the command that brings it."""
        try:
            return importlib.import_module(self.module)
        except ImportError as error:
            raise MissingExtraError(f"{self.name} is not installed ({error}). Run: {self.install}") from error


_TURING: Final = "GPUs of compute capability 7.5 have no kernel for it"

BACKENDS: Final = {
    row.name: row
    for row in (
        Backend(
            name="tensorrt",
            module="tensorrt",
            install='pip install "rpln-export[tensorrt]"',
            keeps_timings=True,
        ),
        Backend(
            name="tensorrt-rtx",
            module="tensorrt_rtx",
            install='pip install "rpln-export[tensorrt-rtx]"',
            targets=("sm75", "sm80", "sm86", "sm89", "sm120", "sm121"),
            default_targets=("sm80", "sm86", "sm89", "sm120"),
            refused={("sm75", "fp32"): _TURING, ("sm75", "bf16"): _TURING},
            lacks={
                "version_compatible": "its packages hold no lean runtime",
                "hardware_compatible": "it builds for several GPUs at once: name them with --gpu",
                "strip_weights": "it compiles such engines on a GPU only",
            },
        ),
    )
}


def device_target() -> str | None:
    """The compute capability of the GPU at hand, as sm89; None where there is no GPU, no driver or no cuda-bindings."""
    try:
        cuda = Cuda(importlib.import_module("cuda.bindings.runtime"))
        cuda.check_driver()
    except (ImportError, ProviderError):
        return None
    return cuda.capability()
