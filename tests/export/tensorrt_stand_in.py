"""A stand-in for enterprise TensorRT, whose packages and GPUs are not available: TensorRT-RTX under its name.

It has the interface of the real one, as far as the builder uses it: it chooses the GPU itself, has a cache of timings
and flags that RTX refuses without a GPU, and describes an engine through an inspector. Its kernels are those of RTX, so
it cannot show how TensorRT compiles. As version 10 it has the flag STRONGLY_TYPED, as version 11 it has not.
"""

import importlib
import json
import re
import weakref
from types import ModuleType, SimpleNamespace
from typing import Any, Final

TARGET: Final = "SM89"
"""The compute capability of the GPU."""

SHARED: Final = (
    "ILogger",
    "OnnxParser",
    "BuilderFlag",
    "ProfilingVerbosity",
    "MemoryPoolType",
    "HardwareCompatibilityLevel",
    "LayerInformationFormat",
)
"""Names that are RTX's own."""

OF_ANOTHER_GPU: Final = b"another GPU;"
"""The first bytes of a cache of timings that is refused because it comes from another GPU."""

_TENSOR: Final = re.compile(r"\{ Name: (.*?), Dimensions: .*?, Datatype: (\w+)")
_LAYER: Final = re.compile(
    r"^Name: (?P<Name>.*?), LayerType: (?P<LayerType>\w+), Inputs: (?P<Inputs>\[.*\]), Constants: \[.*\], "
    r"Outputs: (?P<Outputs>\[.*\]), TacticName: .*?Metadata: ?(?P<Metadata>.*)$",
    re.MULTILINE,
)


class Calls:
    """The calls of the stand-in, in all builds."""

    def __init__(self) -> None:
        self.network_flags: list[int] = []
        self.flags: list[str] = []
        self.level: Any = None
        self.timings: list[bytes] = []
        self.inspected: list[str] = []


def stand_in(version: str, calls: Calls) -> ModuleType:
    """Return a module like `tensorrt` of `version`, made of tensorrt_rtx. Calls are recorded in `calls`."""
    rtx = importlib.import_module("tensorrt_rtx")
    module = ModuleType("tensorrt")
    vars(module).update({name: getattr(rtx, name) for name in SHARED})
    vars(module).update(
        __version__=version,
        Builder=lambda log: StandInBuilder(rtx, log, calls),
        Runtime=lambda log: StandInRuntime(log, version, calls),
        NetworkDefinitionCreationFlag=SimpleNamespace(**({"STRONGLY_TYPED": 1} if version.startswith("10.") else {})),
    )
    return module


class StandInBuilder:
    """A builder for the GPU of this machine."""

    def __init__(self, rtx: Any, log: Any, calls: Calls) -> None:
        self._rtx, self._real, self._calls = rtx, rtx.Builder(log), calls

    def create_network(self, flags: int) -> Any:
        self._calls.network_flags.append(flags)
        return self._real.create_network(0)

    def create_builder_config(self) -> "StandInConfig":
        return StandInConfig(self._real.create_builder_config(), self._calls)

    def create_optimization_profile(self) -> Any:
        return self._real.create_optimization_profile()

    def build_serialized_network(self, network: Any, config: "StandInConfig") -> Any:
        cache = config.cache()
        assert cache is not None, "the cache of timings is gone"
        cache.data += b"a kernel;"
        config.real.num_compute_capabilities = 1
        config.real.set_compute_capability(getattr(self._rtx.ComputeCapability, TARGET), 0)
        return self._real.build_serialized_network(network, config.real)


class StandInConfig:
    """A configuration that records what RTX would refuse and passes on the rest. It has no other attributes."""

    def __init__(self, real: Any, calls: Calls) -> None:
        self.real, self._calls = real, calls
        self.cache: Any = None
        self.clear_flag = real.clear_flag
        self.set_memory_pool_limit = real.set_memory_pool_limit
        self.add_optimization_profile = real.add_optimization_profile

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "profiling_verbosity":
            self.real.profiling_verbosity = value
        elif name == "hardware_compatibility_level":
            self._calls.level = value
        else:
            assert name != "num_compute_capabilities", "enterprise TensorRT builds for the GPU at hand"
            super().__setattr__(name, value)

    def set_flag(self, flag: Any) -> None:
        self._calls.flags.append(flag.name)

    def create_timing_cache(self, data: bytes) -> "StandInCache":
        self._calls.timings.append(data)
        return StandInCache(data)

    def set_timing_cache(self, cache: "StandInCache", ignore_mismatch: bool) -> bool:
        if cache.data.startswith(OF_ANOTHER_GPU) and not ignore_mismatch:
            return False
        self.cache = weakref.ref(cache)
        return True


class StandInCache:
    """A cache of kernels and their times. Each build adds one. Its maker keeps it until the engine is built."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def serialize(self) -> bytes:
        return self.data


class StandInRuntime:
    """A runtime that loads a plan built with the same logger, and describes its engine."""

    def __init__(self, log: Any, version: str, calls: Calls) -> None:
        self._log, self._version, self._calls = log, version, calls

    def deserialize_cuda_engine(self, plan: Any) -> Any:
        assert bytes(plan)[:4] == b"vtrt"
        return SimpleNamespace(create_engine_inspector=lambda: SimpleNamespace(get_engine_information=self._tell))

    def _tell(self, form: Any) -> str:
        assert form.name == "JSON"
        self._calls.inspected.append(self._version)
        return inspection(self._log.text, self._version)


def inspection(log: str, version: str) -> str:
    """Return the kernels in RTX's log as the JSON of an inspector, with types in sentences before version 11."""
    tensor = sentence if version.startswith("10.") else pair
    layers = []
    for match in _LAYER.finditer(log):
        row: dict[str, Any] = match.groupdict()
        for side in ("Inputs", "Outputs"):
            row[side] = [tensor(name, dtype) for name, dtype in _TENSOR.findall(row[side])]
        row["Metadata"] = row["Metadata"].replace("][", "]\x1f[")
        layers.append(row)
    return json.dumps({"Layers": layers, "Bindings": []})


def sentence(name: str, dtype: str) -> dict[str, str]:
    words = {"Half": "FP16", "Float": "FP32", "BFloat16": "BF16"}
    return {"Name": name, "Format/Datatype": f"Row major linear {words.get(dtype, dtype)} format"}


def pair(name: str, dtype: str) -> dict[str, str]:
    return {"Name": name, "Datatype": dtype, "Format": "Row major linear format"}
