"""CONTENDERS: one row for each way to run an encoder.

A contender is imported when it is made, so that the memory of each can be measured alone.
"""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.encoder_cases import HEAD_SIZE, PLAIN, TORCH, Feeds, Network

Run = Callable[[Feeds], Any]
"""Takes feeds and returns the logits, a numpy array or a torch tensor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What a contender is made from: a checkpoint, its default bundle, and the bundle that the export chose.

    It may write to `folder`.
    """

    network: Network
    checkpoint: Path
    plain: Path
    chosen: Path
    folder: Path
    threads: int

    @property
    def graph(self) -> Path:
        """The plain graph: the graph in standard operators that this project writes, without optimization."""
        return self.plain / "model.onnx"


def torch_eager(setup: Setup, *, dtype: str) -> Run:
    """Return transformers' own model, with scaled_dot_product_attention."""
    return partial(_run_torch, _torch_model(setup, dtype))


def torch_compiled(setup: Setup, *, dtype: str) -> Run:
    """Return the same model with torch.compile, and dynamic shapes, so that it is compiled only once or twice."""
    import torch

    if not any(map(shutil.which, ("c++", "g++", "clang++"))):
        raise ImportError("torch.compile needs a C++ compiler: none is installed")
    return partial(_run_torch, torch.compile(_torch_model(setup, dtype), dynamic=True))


def _torch_model(setup: Setup, dtype: str) -> Any:
    import torch
    import transformers

    from rpln_runtime.tasks import TASKS

    torch.set_num_threads(setup.threads)
    model = getattr(transformers, TASKS[setup.network.task].architecture)
    return model.from_pretrained(setup.checkpoint, attn_implementation="sdpa", dtype=getattr(torch, dtype)).eval()


def _run_torch(model: Any, feeds: Feeds) -> Any:
    import torch

    with torch.inference_mode():
        return model(**{name: torch.from_numpy(array) for name, array in feeds.items()}).logits


def onnxruntime_plain(setup: Setup) -> Run:
    """Return ONNX Runtime with its default settings, except for the number of threads."""
    return _onnxruntime(setup.graph, setup)


def onnxruntime_optimizer(setup: Setup) -> Run:
    """Return the plain graph after onnxruntime.transformers.optimizer."""
    path = setup.folder / f"{setup.network.name}-optimizer.onnx"
    if not path.exists():
        from onnxruntime.transformers.optimizer import optimize_model

        hidden = setup.network.hidden
        optimized = optimize_model(str(setup.graph), "bert", num_heads=hidden // HEAD_SIZE, hidden_size=hidden)
        optimized.save_model_to_file(str(path))
    return _onnxruntime(path, setup)


def onnxscript_optimizer(setup: Setup) -> Run:
    """Return the plain graph after onnxscript's optimize_for_ort."""
    path = setup.folder / f"{setup.network.name}-onnxscript.onnx"
    if not path.exists():
        import onnx_ir as ir
        from onnxscript.rewriter.ort_fusions import optimize_for_ort

        optimized, _ = optimize_for_ort(ir.load(setup.graph))
        ir.save(optimized, path, external_data=f"{path.name}.data")
    return _onnxruntime(path, setup)


def _onnxruntime(path: Path, setup: Setup) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = setup.threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda feeds: session.run(["logits"], feeds)[0]


def openvino_runtime(setup: Setup, *, precision: str) -> Run:
    """Return the plain graph in OpenVINO's own runtime."""
    import openvino

    settings = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": setup.threads,
        "PERFORMANCE_HINT": "LATENCY",
    }
    request = openvino.Core().compile_model(setup.graph, "CPU", settings).create_infer_request()
    return lambda feeds: request.infer(feeds, share_inputs=True, share_outputs=True)["logits"]


def this_project(setup: Setup, *, provider: str | None) -> Run:
    """Return the bundle that `rpln-export --optimize auto` chose, opened by `rpln_runtime.load`."""
    from rpln_runtime import load

    # The form was measured with a thread for each core. If fewer were faster, the bundle says so.
    session = load(setup.chosen, provider=provider, threads=None if setup.threads == os.cpu_count() else setup.threads)
    taken = [spec.name for spec in session.graph.inputs]
    return lambda feeds: session.run({name: feeds[name] for name in taken}, outputs=["logits"])["logits"]


PROJECT: Final = "this project"
PROJECT_ON_ORT: Final = "this project, ONNX Runtime alone"

CONTENDERS: Final[dict[str, Callable[[Setup], Run]]] = {
    TORCH: partial(torch_eager, dtype="float32"),
    "torch eager, bf16": partial(torch_eager, dtype="bfloat16"),
    "torch.compile, fp32": partial(torch_compiled, dtype="float32"),
    "torch.compile, bf16": partial(torch_compiled, dtype="bfloat16"),
    PLAIN: onnxruntime_plain,
    "ONNX Runtime's transformer optimizer": onnxruntime_optimizer,
    "onnxscript's optimize_for_ort": onnxscript_optimizer,
    "OpenVINO, f32": partial(openvino_runtime, precision="f32"),
    "OpenVINO, bf16": partial(openvino_runtime, precision="bf16"),
    PROJECT: partial(this_project, provider=None),
    PROJECT_ON_ORT: partial(this_project, provider="cpu"),
}

REDUCED: Final = frozenset(name for name in CONTENDERS if name.endswith("bf16"))
"""The contenders that do not compute in fp32."""


def to_array(logits: Any) -> NDArray[np.float32]:
    """Return the logits of any contender as an array in fp32."""
    return np.asarray(logits if isinstance(logits, np.ndarray) else logits.float().numpy(), dtype=np.float32)
