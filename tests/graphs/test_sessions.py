"""Sessions run a model with every optimization of onnxruntime switched off."""

from pathlib import Path

import numpy as np
import onnxruntime
from numpy.testing import assert_array_equal

from rpln_graphs.sessions import run_from_model, session_from_model
from tests.graphs.text_graphs import model_from_text

TEXT = "g (float[2] x) => (float[2] y) <float[2] weight = {0.1, -3}> { y = Mul(x, weight) }"


def test_nothing_is_optimized_and_the_folder_may_go(tmp_path: Path) -> None:
    session = session_from_model(model_from_text(TEXT), tmp_path)
    for path in tmp_path.iterdir():
        path.unlink()

    options = session.get_session_options()
    assert options.graph_optimization_level == onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    assert session.get_providers() == ["CPUExecutionProvider"]
    (y,) = session.run(None, {"x": np.array([10, 1], dtype=np.float32)})
    assert_array_equal(y, np.array([1, -3], dtype=np.float32))


def test_an_empty_cache_in_fp32_may_be_given_to_a_graph_that_takes_fp16() -> None:
    run = run_from_model(
        model_from_text("g (float16[n] x, float[n] z) => (float16[n] y, float[n] w) { y = Neg(x) w = Neg(z) }")
    )
    for size in (0, 2):
        feeds = {name: np.full(size, 0.1, dtype=np.float32) for name in ("x", "z")}
        found = run(feeds)
        assert [array.dtype.name for array in found.values()] == ["float16", "float32"]
        assert_array_equal(found["y"], -feeds["x"].astype(np.float16))
        assert_array_equal(found["w"], -feeds["z"])
