"""A stand-in for NVIDIA's runtime and CUDA, in host memory. ONNX Runtime computes the engines.

It is strict: work waits in its stream until somebody waits for it, new memory is full of NaN, addresses must be
allocated, and what the real interface refuses is refused. It refuses to launch a graph after its context was changed,
which is undefined in CUDA. Its classes have only methods that those of tensorrt_rtx 1.7.1 have; a test compares them.
"""

# ruff: noqa: N802, N815 -- functions and types have the names that they have in CUDA

import ctypes
import dataclasses
import enum
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest

from rpln_runtime.engines.manifest import EngineManifest, Profile, graph_files, write_engine
from rpln_runtime.engines.profiles import complete_profile, input_shapes
from rpln_runtime.manifest import BundleFile, Manifest, bundle_file_from_path, read_manifest, write_manifest

VERSIONS = {"tensorrt": "10.13.3.9", "tensorrt-rtx": "1.7.1.116"}
MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
SEPARATOR = b"\n--- graph ---\n"
DTYPES = {"tensor(float)": ("FLOAT", 1, 4), "tensor(float16)": ("HALF", 10, 2), "tensor(int64)": ("INT64", 7, 8)}

# -- bundles -----------------------------------------------------------------------------------------------------------


def add_engines(
    source: Path,
    parent: Path,
    *,
    builder: str = "tensorrt-rtx",
    profiles: Sequence[Profile] = ({},),
    variants: Sequence[str] = (),
    **fields: Any,
) -> Path:
    """Copy the bundle in `source` into `parent`, with an engine for each of its graphs or for `variants`.

    A profile is completed with the defaults. `fields` are fields of the engine's manifest.
    """
    folder = parent / f"engines-{builder}"
    if not folder.exists():
        shutil.copytree(source, folder)
    manifest = read_manifest(folder)
    (folder / "engines").mkdir(exist_ok=True)
    for graph in manifest.graphs:
        if not variants or graph.variant in variants:
            complete = tuple(complete_profile(graph, manifest.axes, given) for given in profiles)
            name = fields.pop("name", f"{graph.variant}-{builder}")
            plan = write_plan(folder, f"engines/{name}.plan", graph, manifest, complete, **fields)
            row = engine_manifest(graph, manifest, plan, complete, builder=builder)
            write_engine(folder / f"engines/{name}.json", dataclasses.replace(row, **fields))
    write_manifest(folder, manifest)
    return folder


def write_plan(
    folder: Path, path: str, graph: Any, manifest: Manifest, profiles: Sequence[Profile], **fields: Any
) -> BundleFile:
    shapes = [input_shapes(graph, manifest.axes, profile) for profile in profiles]
    weights = b"" if fields.get("stripped") else (folder / graph.path).read_bytes()
    (folder / path).write_bytes(json.dumps(shapes).encode() + SEPARATOR + weights)
    return bundle_file_from_path(folder, folder / path)


def engine_manifest(
    graph: Any, manifest: Manifest, plan: BundleFile, profiles: tuple[Profile, ...], *, builder: str
) -> EngineManifest:
    return EngineManifest(
        builder=builder,
        version=VERSIONS[builder],
        targets=("sm86", "sm89"),
        hardware_compatible=False,
        version_compatible=False,
        stripped=False,
        variant=graph.variant,
        precision="fp32",
        graph=graph_files(graph.path, manifest),
        plan=plan,
        profiles=profiles,
        weights=1,
        activations=tuple(1 for _ in profiles),
        workspace=None,
        attentions=tuple(0 for _ in profiles),
        layers=(),
        seconds=1.0,
        timing_cache=None,
    )


# -- CUDA --------------------------------------------------------------------------------------------------------------

Status = enum.IntEnum(
    "Status",
    {
        "cudaSuccess": 0,
        "cudaErrorInvalidValue": 1,
        "cudaErrorMemoryAllocation": 2,
        "cudaErrorInsufficientDriver": 35,
        "cudaErrorInvalidResourceHandle": 400,
        "cudaErrorStreamCaptureInvalidated": 901,
    },
)
Kind = enum.IntEnum("Kind", {"cudaMemcpyHostToDevice": 1, "cudaMemcpyDeviceToHost": 2})
Mode = enum.IntEnum("Mode", {"cudaStreamCaptureModeThreadLocal": 1})
Attribute = enum.IntEnum(
    "Attribute", {"cudaDevAttrComputeCapabilityMajor": 75, "cudaDevAttrComputeCapabilityMinor": 76}
)
Work = Callable[[], None]
NAN = 0xFF


class StandInStream:
    """A stream: work that waits to be done, and while it is captured, the work that is recorded."""

    def __init__(self) -> None:
        self.waiting: list[Work] = []
        self.recorded: list[Work] | None = None
        self.broken = False

    def put(self, work: Work) -> None:
        (self.waiting if self.recorded is None else self.recorded).append(work)


class StandInCuda:
    """cuda.bindings.runtime. `devices` is None if there is no driver. Counters tell what was done."""

    cudaError_t = Status
    cudaMemcpyKind = Kind
    cudaStreamCaptureMode = Mode
    cudaDeviceAttr = Attribute
    cudaStreamNonBlocking = 1

    def __init__(self, *, capability: tuple[int, int] = (8, 9), devices: int | None = 1, memory: int = 1 << 40) -> None:
        self.devices = devices
        self.capability = capability
        self.left = memory
        self.device: dict[int, np.ndarray] = {}
        self.pinned: dict[int, np.ndarray] = {}
        self.streams: dict[int, StandInStream] = {}
        self.graphs: dict[int, list[Work]] = {}
        self.calls: list[str] = []

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("cuda") and name[4].isupper() and name != "cudaGetErrorString":
            object.__getattribute__(self, "calls").append(name)
        return object.__getattribute__(self, name)

    def find(self, pointer: int, size: int) -> None:
        """Check that the bytes are in allocated memory of the device."""
        for start, memory in list(self.device.items()):
            if start <= pointer and pointer + size <= start + memory.nbytes:
                return
        raise AssertionError(f"{size} bytes at {pointer} are not of the device")

    def cudaGetErrorString(self, status: Status) -> tuple[Status, bytes]:
        return Status.cudaSuccess, status.name.removeprefix("cudaError").lower().encode()

    def cudaGetDeviceCount(self) -> tuple[Status, int | None]:
        if self.devices is None:
            return Status.cudaErrorInsufficientDriver, None
        return Status.cudaSuccess, self.devices

    def cudaGetDevice(self) -> tuple[Status, int]:
        return Status.cudaSuccess, 0

    def cudaSetDevice(self, device: int) -> tuple[Status]:
        return (Status.cudaSuccess if device == 0 else Status.cudaErrorInvalidValue,)

    def cudaDeviceGetAttribute(self, attribute: Attribute, device: int) -> tuple[Status, int]:
        return Status.cudaSuccess, self.capability[attribute is Attribute.cudaDevAttrComputeCapabilityMinor]

    def cudaMalloc(self, size: int) -> tuple[Status, int | None]:
        assert size > 0
        if size > self.left:
            return Status.cudaErrorMemoryAllocation, None
        self.left -= size
        memory = np.full(size, NAN, np.uint8)
        self.device[memory.ctypes.data] = memory
        return Status.cudaSuccess, memory.ctypes.data

    def cudaFree(self, pointer: int) -> tuple[Status]:
        self.left += self.device.pop(pointer).nbytes
        return (Status.cudaSuccess,)

    def cudaMallocHost(self, size: int) -> tuple[Status, int]:
        memory = np.full(size, NAN, np.uint8)
        self.pinned[memory.ctypes.data] = memory
        return Status.cudaSuccess, memory.ctypes.data

    def cudaFreeHost(self, pointer: int) -> tuple[Status]:
        del self.pinned[pointer]
        return (Status.cudaSuccess,)

    def cudaMemcpy(self, target: int, source: int, size: int, kind: Kind) -> tuple[Status]:
        self._copy(target, source, size, kind)
        return (Status.cudaSuccess,)

    def cudaMemcpyAsync(self, target: int, source: int, size: int, kind: Kind, stream: int) -> tuple[Status]:
        self.streams[stream].put(lambda: self._copy(target, source, size, kind))
        return (Status.cudaSuccess,)

    def _copy(self, target: int, source: int, size: int, kind: Kind) -> None:
        self.find(target if kind is Kind.cudaMemcpyHostToDevice else source, size)
        bytes_at(target, size)[:] = bytes_at(source, size)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Status, int]:
        handle = 1000 + len(self.streams)
        self.streams[handle] = StandInStream()
        return Status.cudaSuccess, handle

    def cudaStreamDestroy(self, handle: int) -> tuple[Status]:
        assert not self.streams[handle].waiting
        return (Status.cudaSuccess,)

    def cudaStreamSynchronize(self, handle: int) -> tuple[Status]:
        stream = self.streams[handle]
        assert stream.recorded is None, "a captured stream must not be waited for"
        waiting, stream.waiting = stream.waiting, []
        for work in waiting:
            work()
        return (Status.cudaSuccess,)

    def cudaStreamBeginCapture(self, handle: int, mode: Mode) -> tuple[Status]:
        self.streams[handle].recorded = []
        return (Status.cudaSuccess,)

    def cudaStreamEndCapture(self, handle: int) -> tuple[Status, int | None]:
        stream = self.streams[handle]
        recorded, stream.recorded = stream.recorded, None
        assert recorded is not None
        if stream.broken:
            return Status.cudaErrorStreamCaptureInvalidated, None
        return Status.cudaSuccess, self._keep(recorded)

    def cudaGraphInstantiate(self, graph: int, flags: int) -> tuple[Status, int]:
        return Status.cudaSuccess, self._keep(self.graphs[graph])

    def cudaGraphDestroy(self, graph: int) -> tuple[Status]:
        del self.graphs[graph]
        return (Status.cudaSuccess,)

    def cudaGraphExecDestroy(self, graph: int) -> tuple[Status]:
        del self.graphs[graph]
        return (Status.cudaSuccess,)

    def cudaGraphLaunch(self, graph: int, handle: int) -> tuple[Status]:
        for work in self.graphs[graph]:
            self.streams[handle].put(work)
        return (Status.cudaSuccess,)

    def _keep(self, graph: list[Work]) -> int:
        key = max(self.graphs, default=0) + 1
        self.graphs[key] = graph
        return key


def bytes_at(pointer: int, size: int) -> np.ndarray:
    found: np.ndarray = np.ctypeslib.as_array((ctypes.c_ubyte * size).from_address(pointer))
    return found


# -- TensorRT ----------------------------------------------------------------------------------------------------------


class Severity(enum.IntEnum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3


class StandInLogger:
    Severity = Severity


class StandInRuntime:
    """A runtime that reads what `write_plan` wrote."""

    cuda: StandInCuda
    versions = ("",)

    def __init__(self, log: Any) -> None:
        assert self.cuda.devices, "without a driver, NVIDIA's runtime crashes here"
        self.engine_host_code_allowed = False
        self._log = log

    def deserialize_cuda_engine(self, plan: bytes) -> "StandInEngine | None":
        shapes, found, graph = plan.partition(SEPARATOR)
        if not found:
            self._log.log(Severity.INFO, "Loaded engine size: 0 MiB")
            self._log.log(Severity.ERROR, "Serialization assertion header.magicTag failed.")
            return None
        return StandInEngine(json.loads(shapes), graph, self.cuda, self._log)


class StandInRefitter:
    def __init__(self, engine: "StandInEngine", log: Any) -> None:
        self.engine = engine
        self.read = b""

    def refit_cuda_engine(self) -> bool:
        self.engine.load(self.read)
        return True


class StandInParserRefitter:
    def __init__(self, refitter: StandInRefitter, log: Any) -> None:
        self._refitter = refitter

    def refit_from_file(self, path: str) -> bool:
        self._refitter.read = Path(path).read_bytes()
        return True


class StandInEngine:
    """A graph with profiles. Without weights it gives only NaN."""

    def __init__(self, shapes: list[dict[str, Any]], graph: bytes, cuda: StandInCuda, log: Any) -> None:
        self._shapes, self._cuda, self._log = shapes, cuda, log
        self._session: Any = None
        self._contexts = 0
        self._given: dict[Any, dict[str, tuple[int, ...]]] = {}
        self.device_memory_size_v2 = 512
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []
        if graph:
            self.load(graph)

    def load(self, graph: bytes) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self._inputs, self._outputs = self._session.get_inputs(), self._session.get_outputs()

    @property
    def num_io_tensors(self) -> int:
        return len(self._inputs) + len(self._outputs)

    def get_tensor_name(self, index: int) -> str:
        return str([*self._inputs, *self._outputs][index].name)

    def get_tensor_mode(self, name: str) -> str:
        return "INPUT" if name in {node.name for node in self._inputs} else "OUTPUT"

    def get_tensor_dtype(self, name: str) -> Any:
        (node,) = (node for node in [*self._inputs, *self._outputs] if node.name == name)
        return SimpleNamespace(name=DTYPES[node.type][0])

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        (node,) = (node for node in [*self._inputs, *self._outputs] if node.name == name)
        return tuple(size if isinstance(size, int) else -1 for size in node.shape)

    def create_runtime_config(self) -> Any:
        return SimpleNamespace(cuda_graph_strategy="DISABLED")

    def create_execution_context(self, how: Any) -> "StandInContext":
        self._contexts += 1
        return StandInContext(self, how, first=self._contexts == 1)

    # The methods below serve contexts, and do not exist in the real class.

    def _ranges(self, profile: int, name: str) -> Any:
        return self._shapes[profile][name]

    def _output_shapes(self, shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        key = tuple(shapes.items())
        if key not in self._given:
            zeros = {
                node.name: np.zeros(
                    shapes[node.name], {"FLOAT": "f4", "HALF": "f2", "INT64": "i8"}[DTYPES[node.type][0]]
                )
                for node in self._inputs
            }
            names = [node.name for node in self._outputs]
            self._given[key] = {
                name: array.shape for name, array in zip(names, self._session.run(names, zeros), strict=True)
            }
        return self._given[key]

    def _compute(self, shapes: dict[str, tuple[int, ...]], addresses: dict[str, int]) -> None:
        every = {**shapes, **self._output_shapes(shapes)}
        binding = self._session.io_binding()
        for nodes, bind in ((self._inputs, binding.bind_input), (self._outputs, binding.bind_output)):
            for node in nodes:
                _, element, itemsize = DTYPES[node.type]
                shape = every[node.name]
                self._cuda.find(addresses[node.name], int(np.prod(shape)) * itemsize)
                bind(node.name, "cpu", 0, element, shape, addresses[node.name])
        self._session.run_with_iobinding(binding)


class StandInContext:
    """An execution context. Work that is enqueued keeps the shapes and addresses of that moment."""

    def __init__(self, engine: StandInEngine, how: Any, *, first: bool) -> None:
        self._engine = engine
        self._profile = 0 if first else -1
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._changes = 0
        self._enqueued = False
        self._has_memory = how != "USER_MANAGED"
        self._how = how

    @property
    def active_optimization_profile(self) -> int:
        return self._profile

    def set_device_memory(self, pointer: int, size: int) -> None:
        assert self._how == "USER_MANAGED"
        self._engine._cuda.find(pointer, self._engine.device_memory_size_v2)
        self._has_memory = size >= self._engine.device_memory_size_v2

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        if not 0 <= index < len(self._engine._shapes):
            return self._refuse(f"no profile {index}")
        self._profile, self._shapes = index, {}
        self._changes += 1
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        if self._profile < 0:
            return self._refuse("no profile is set")
        smallest, _, largest = self._engine._ranges(self._profile, name)
        if len(shape) != len(smallest) or not all(
            low <= size <= high for low, size, high in zip(smallest, shape, largest, strict=True)
        ):
            return self._refuse(f"{name} is {shape}, profile {self._profile} takes {smallest} to {largest}")
        if self._shapes.get(name) != shape:
            self._shapes[name] = shape
            self._changes += 1
            self._enqueued = False
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        if len(self._shapes) < len(self._engine._inputs):
            return (-1,)
        return self._engine._output_shapes(self._shapes)[name]

    def set_tensor_address(self, name: str, address: int) -> bool:
        if self._addresses.get(name) != address:
            self._addresses[name] = address
            self._changes += 1
        return bool(address) or self._refuse(f"no address for {name}")

    def execute_async_v3(self, handle: int) -> bool:
        stream = self._engine._cuda.streams[handle]
        names = {node.name for node in [*self._engine._inputs, *self._engine._outputs]}
        if not self._has_memory:
            return self._refuse("no memory to work in")
        if missing := names - self._addresses.keys():
            return self._refuse(f"no address is set for {', '.join(sorted(missing))}")
        if len(self._shapes) < len(self._engine._inputs):
            return self._refuse("not all shapes are set")
        captured = stream.recorded is not None
        assert self._enqueued or not captured, "the first launch of new shapes must not be captured"
        self._enqueued = True
        shapes, addresses, changes = dict(self._shapes), dict(self._addresses), self._changes

        def work() -> None:
            assert not captured or self._changes == changes, "the context of a graph was changed"
            self._engine._compute(shapes, addresses)

        stream.put(work)
        return True

    def _refuse(self, message: str) -> bool:
        self._engine._log.log(Severity.ERROR, message)
        return False


REAL = {
    StandInRuntime: "Runtime",
    StandInEngine: "ICudaEngine",
    StandInContext: "IExecutionContext",
    StandInRefitter: "Refitter",
    StandInParserRefitter: "OnnxParserRefitter",
}
"""The classes, by the real ones that they stand for."""


def install_stand_in(monkeypatch: pytest.MonkeyPatch, builder: str = "tensorrt-rtx", **device: Any) -> StandInCuda:
    """Put the stand-in in the place of NVIDIA's packages. RTX captures graphs itself, the other does not."""
    cuda = StandInCuda(**device)
    module: Any = ModuleType(MODULES[builder])
    module.__spec__ = ModuleSpec(MODULES[builder], None)  # torch reads this
    module.__version__ = VERSIONS[builder]
    module.ILogger = StandInLogger
    module.Runtime = type("Runtime", (StandInRuntime,), {"cuda": cuda})
    module.Refitter = StandInRefitter
    module.OnnxParserRefitter = StandInParserRefitter
    module.TensorIOMode = SimpleNamespace(INPUT="INPUT", OUTPUT="OUTPUT")
    module.ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED="USER_MANAGED")
    if builder == "tensorrt-rtx":
        module.CudaGraphStrategy = SimpleNamespace(WHOLE_GRAPH_CAPTURE="WHOLE_GRAPH_CAPTURE")
    monkeypatch.setitem(sys.modules, MODULES[builder], module)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", cuda)
    return cuda
