"""Every task and type on a GPU gives what the fp32 graph gives on the CPU, which exports compare with eager torch."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from rpln_export.cli import rpln_command
from rpln_graphs.recipes import RECIPES
from rpln_runtime import Pipeline, pipeline
from rpln_runtime.batching import feeds_from_encodings, rows_from_outputs
from rpln_runtime.tasks import TASKS
from tests.gpu.conftest import ROUNDED, Exporting, accepted_difference, require_provider, require_recipe

pytestmark = pytest.mark.gpu

PROVIDERS = ["tensorrt", "tensorrt-rtx", "onnxruntime-tensorrt", "cuda"]
TASK_NAMES = [task.name for task in TASKS.values() if task.postprocess is not None]

TEXTS = ["The old man walked to the boat.", "Stars.", "She said that the crew had watched the sea for many days. " * 4]
ITEMS: dict[str, list[Any]] = {
    "fill-mask": ["The old man <mask> to the boat.", "<mask> <mask>."],
    "question-answering": [{"question": "Who walked?", "context": text} for text in TEXTS],
    "multiple-choice": [{"prompt": text, "choices": ["It rained.", "They slept."]} for text in TEXTS],
}


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("recipe", [name for name, row in RECIPES.items() if not row.quantizes])
@pytest.mark.parametrize("task", TASK_NAMES)
def test_a_gpu_gives_what_the_cpu_gives_in_fp32(exported: Exporting, task: str, recipe: str, provider: str) -> None:
    require_provider(provider)
    items = ITEMS.get(task, TEXTS)
    expected = outputs_of(pipeline(exported(task, "fp32", "cpu"), provider="cpu"), items)
    found = outputs_of(pipeline(exported(task, recipe, provider), provider=provider), items)
    for name, rows in expected.items():
        for row, other in zip(rows, found[name], strict=True):
            assert np.isfinite(other).all()
            assert np.abs(row - other).max() <= accepted_difference(recipe, *rows), name


@pytest.mark.parametrize("provider", ["tensorrt", "tensorrt-rtx"])
@pytest.mark.parametrize("recipe", [name for name, row in RECIPES.items() if row.quantizes and row.lowers])
def test_a_quantized_engine_gives_what_its_graph_gives_on_the_cpu(
    exported: Exporting, recipe: str, provider: str
) -> None:
    require_recipe(provider, recipe)
    folder = exported("token-classification", recipe, provider)
    expected, found = (outputs_of(pipeline(folder, provider=name), TEXTS)["logits"] for name in ("cpu", provider))
    for row, other in zip(expected, found, strict=True):
        assert np.abs(row - other).max() <= ROUNDED * np.abs(row).max()


def outputs_of(pipe: Pipeline, items: list[Any]) -> dict[str, list[np.ndarray]]:
    """Return the outputs of the graph, in fp32 and by name, for each row of a batch of all items."""
    rows = list(_rows_of(pipe, items))
    return {name: [row[name] for row in rows] for name in rows[0]}


def _rows_of(pipe: Pipeline, items: list[Any]) -> Iterator[dict[str, np.ndarray]]:
    graph, manifest = pipe.session.graph, pipe.session.manifest
    encodings = [row for item in items for row in pipe.postprocess.encode(item)]
    outputs = pipe.session.run(feeds_from_encodings(encodings, graph, manifest))
    return rows_from_outputs(outputs, encodings, graph, manifest)


@pytest.mark.parametrize("provider", ["tensorrt", "tensorrt-rtx"])
def test_launches_again_and_again_give_the_same(exported: Exporting, provider: str) -> None:
    """The first launch of a shape, the one that is captured, and the captured graph agree, with others in between."""
    require_provider(provider)
    pipe = pipeline(exported("token-classification", "fp16", provider), provider=provider)
    expected = {text: outputs_of(pipe, [text])["logits"][0] for text in TEXTS}
    for _ in range(4):
        for text in TEXTS:
            assert np.array_equal(outputs_of(pipe, [text])["logits"][0], expected[text])


def test_tensorrt_captures_graphs(exported: Exporting) -> None:
    require_provider("tensorrt")
    pipe = pipeline(exported("token-classification", "fp16", "tensorrt"), provider="tensorrt")
    for _ in range(3):
        outputs_of(pipe, TEXTS[:1])
    engine: Any = pipe.session._engine
    assert any(launch.graph is not None for launch in engine._execution()._launches.values())


@pytest.mark.parametrize("options", [[], ["--version-compatible"], ["--hardware-compatible"], ["--strip-weights"]])
def test_engines_of_every_kind_run(exported: Exporting, tmp_path: Path, options: list[str]) -> None:
    """Engines are built again beside the bundle. Compatible ones load through other code, stripped ones get weights."""
    require_provider("tensorrt")
    source = exported("token-classification", "fp16", "cpu")
    folder = tmp_path / "bundle"
    shutil.copytree(source, folder)
    result = CliRunner().invoke(rpln_command, ["build", str(folder), "--engine", "tensorrt", *options])
    assert result.exit_code == 0, result.output
    expected = outputs_of(pipeline(source, provider="cpu"), TEXTS)["logits"]
    found = outputs_of(pipeline(folder, provider="tensorrt"), TEXTS)["logits"]
    for row, other in zip(expected, found, strict=True):
        assert np.abs(row - other).max() <= accepted_difference("fp16", row)
