"""The tables that C++ repeats from Python are equal: tasks, options, fields, names, defaults and providers."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from rpln_runtime import pipelines
from rpln_runtime.engines.providers import PROVIDERS
from rpln_runtime.generation.cache import CROSS, PAST, PRESENT
from rpln_runtime.generation.generator import BATCH_SIZE
from rpln_runtime.generation.options import GenerationOptions
from rpln_runtime.manifest import SCHEMA_VERSION
from rpln_runtime.postprocess import POSTPROCESS
from rpln_runtime.postprocess.base import Postprocess
from rpln_runtime.tasks import BATCH, CHOICES, MASK_AXIS, MASKED_POSITIONS, MASKED_TOKENS, SEQUENCE, TASKS
from tests.cpp.building import Build


@pytest.fixture(scope="module")
def facts(built: Build) -> dict[str, Any]:
    (found,) = built.ask("facts", Path(), [None])
    return dict(found)


def test_cpp_has_every_task_with_its_outputs_fields_and_options(facts: dict[str, Any]) -> None:
    shared = {field.name for field in dataclasses.fields(Postprocess)}
    expected = {}
    for task in TASKS.values():
        if task.postprocess is not None:
            row = POSTPROCESS[task.postprocess]
            expected[task.name] = {
                "outputs": [tensor.name for tensor in task.outputs],
                "fields": [field.name for field in row.fields],
                "options": [field.name for field in dataclasses.fields(row) if field.name not in shared],
            }
    assert facts["tasks"] == expected


def test_batches_are_as_large_as_in_python(facts: dict[str, Any]) -> None:
    sizes = {name: BATCH_SIZE if task.postprocess is None else pipelines._BATCH_SIZE for name, task in TASKS.items()}
    assert facts["batch_sizes"] == sizes


def test_axes_and_tensors_have_the_names_of_python(facts: dict[str, Any]) -> None:
    assert facts["names"] == {
        "batch": BATCH,
        "sequence": SEQUENCE,
        "choices": CHOICES,
        "masks": MASK_AXIS,
        "masked_tokens": MASKED_TOKENS,
        "masked_positions": MASKED_POSITIONS.name,
    }
    assert facts["prefixes"] == [PAST, PRESENT, CROSS]
    assert facts["schema_version"] == SCHEMA_VERSION


def test_options_of_a_generation_have_the_names_and_defaults_of_python(facts: dict[str, Any]) -> None:
    found = facts["generation"]
    assert found.pop("names") == [field.name for field in dataclasses.fields(GenerationOptions)]
    defaults = dataclasses.asdict(GenerationOptions())
    assert found == {name: defaults[name] for name in found}


def test_providers_have_the_names_of_python(facts: dict[str, Any]) -> None:
    assert facts["providers"] == {name: PROVIDERS[name].onnxruntime_name for name in facts["providers"]}
