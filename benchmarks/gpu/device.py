"""DEVICES: where a run runs. The CPU stands in for a GPU when a run is rehearsed."""

from dataclasses import dataclass
from typing import Any, Final

from benchmarks.machine import describe_machine, versions_of

DISTRIBUTIONS: Final = ("torch", "transformers", "onnxruntime-gpu", "onnxruntime", "tensorrt", "tensorrt-rtx", "triton")


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A device, and the names that torch and this project have for it.

    Attributes:
        torch: torch's name.
        provider: the provider in rpln_runtime.engines.providers.PROVIDERS.
        has_graphs: whether a run can be captured as a CUDA graph.
    """

    torch: str
    provider: str
    has_graphs: bool

    def described(self) -> dict[str, Any]:
        """Return what the machine is. Raises RuntimeError where torch sees no such device."""
        import torch

        facts: dict[str, Any] = {**describe_machine(threads=torch.get_num_threads())}
        facts["versions"] = versions_of(DISTRIBUTIONS)
        if self.torch == "cuda":
            properties = torch.cuda.get_device_properties(0)
            facts |= {
                "gpu": properties.name,
                "gpu_memory_gib": round(properties.total_memory / 2**30),
                "compute_capability": f"sm{properties.major}{properties.minor}",
                "cuda": torch.version.cuda,
            }
        return facts


DEVICES: Final = {
    "cuda": Device(torch="cuda", provider="cuda", has_graphs=True),
    "cpu": Device(torch="cpu", provider="cpu", has_graphs=False),
}
