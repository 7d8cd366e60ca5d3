"""Engines of TensorRT, on a stand-in for NVIDIA's runtime that computes them with ONNX Runtime."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rpln_runtime import load
from rpln_runtime.tasks import TASKS
from tests.runtime.bundles import Bundle
from tests.runtime.tensorrt_stand_in import add_engines, install_stand_in
from tests.runtime.test_engines import feeds_of

ENCODER_TASKS = [task.name for task in TASKS.values() if task.postprocess is not None]
BUILDERS = ["tensorrt", "tensorrt-rtx"]


@pytest.mark.parametrize("builder", BUILDERS)
@pytest.mark.parametrize("task", ENCODER_TASKS)
def test_an_engine_gives_what_its_graph_gives(
    bundle_of: Callable[..., Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str, builder: str
) -> None:
    install_stand_in(monkeypatch, builder)
    folder = add_engines(bundle_of(task).folder, tmp_path, builder=builder)
    cpu, gpu = load(folder, provider="cpu", threads=1), load(folder, provider=builder)
    for length in (1, 9, 64, 9, 9, 9, 64):
        feeds = feeds_of(cpu.manifest, length=length, seed=length)
        expected, found = cpu.run(feeds), gpu.run(feeds)
        assert list(found) == list(expected)
        for name, array in expected.items():
            assert found[name].dtype == array.dtype
            assert np.array_equal(found[name], array)
