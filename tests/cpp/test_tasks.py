"""The tables that C++ repeats from Python are equal: tasks, options, fields, names, defaults and providers."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from rpln_runtime import pipelines
from rpln_runtime.corpus import WINDOW
from rpln_runtime.corpus.reading import MOST_WINDOW_BYTES
from rpln_runtime.engines.providers import PROVIDERS
from rpln_runtime.facts import (
    ENCODER_DECODER,
    FACTS,
    FIXED_SIZES,
    FLOATS,
    PROBLEM_TYPES,
    STANDALONE,
    TRUNCATION_SIDES,
)
from rpln_runtime.generation.cache import CROSS, PAST, PRESENT
from rpln_runtime.generation.generator import BATCH_SIZE
from rpln_runtime.generation.options import GenerationOptions
from rpln_runtime.limits import (
    DOCUMENTS,
    MOST_LINE_BYTES,
    MOST_NAME_BYTES,
    MOST_PATH_BYTES,
    OPTIONAL_FIELDS,
    RANGES,
    range_of_field,
)
from rpln_runtime.manifest import (
    SCHEMA_VERSION,
    Axis,
    BundleFile,
    Generation,
    Graph,
    Manifest,
    Optimization,
    Sentences,
    TensorSpec,
)
from rpln_runtime.postprocess import POSTPROCESS
from rpln_runtime.postprocess.base import Postprocess
from rpln_runtime.tasks import (
    BATCH,
    BATCH_CHOICES,
    CHOICES,
    MASK_AXIS,
    MASKED_POSITIONS,
    MASKED_TOKENS,
    SEQUENCE,
    TASKS,
)
from tests.cpp.building import Build

ROWS = (Manifest, Graph, TensorSpec, Axis, BundleFile, Optimization, Generation, Sentences)
"""The rows of a manifest that hold integers."""


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
                "fields": [dataclasses.asdict(field) for field in row.fields],
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
        "batch_choices": BATCH_CHOICES,
        "masks": MASK_AXIS,
        "masked_tokens": MASKED_TOKENS,
        "masked_positions": MASKED_POSITIONS.name,
    }
    assert facts["prefixes"] == [PAST, PRESENT, CROSS]
    assert facts["schema_version"] == SCHEMA_VERSION


def test_the_facts_of_tensors_are_those_of_python(facts: dict[str, Any]) -> None:
    rows = [dataclasses.asdict(row) for row in FACTS]
    for row in rows:
        row["shapes"] = [list(map(str, shape)) for shape in row["shapes"]]
        row["tasks"] = list(row["tasks"])
        # C++ has no table of tasks that names these.
        replacing = {tensor.name for task in row["tasks"] for tensor in TASKS[task].outputs_instead}
        row["instead"] = "".join(replacing)
    assert facts["facts"] == {
        "rows": rows,
        "floats": list(FLOATS),
        "fixed_sizes": list(FIXED_SIZES),
        "standalone": list(STANDALONE),
        "encoder_decoder": ENCODER_DECODER,
        "problem_types": list(PROBLEM_TYPES),
        "truncation_sides": list(TRUNCATION_SIDES),
    }


def test_the_limits_of_documents_are_those_of_python(facts: dict[str, Any]) -> None:
    found = facts["limits"]
    assert found["documents"] == {kind: [row.size, row.depth] for kind, row in DOCUMENTS.items()}
    read = {name for row in ROWS for name in (field.name for field in dataclasses.fields(row))}
    assert found["ranges"] == {
        name: [limits.minimum, limits.maximum] for name, limits in RANGES.items() if name in read
    }
    assert set(found["optional_fields"]) == OPTIONAL_FIELDS
    others = range_of_field("another")
    assert found["others"] == [others.minimum, others.maximum]
    assert (found["path"], found["name"]) == (MOST_PATH_BYTES, MOST_NAME_BYTES)
    assert (found["line"], found["window"]) == (MOST_LINE_BYTES, [WINDOW, MOST_WINDOW_BYTES])


def test_options_of_a_generation_have_the_names_and_defaults_of_python(facts: dict[str, Any]) -> None:
    found = facts["generation"]
    assert found.pop("names") == [field.name for field in dataclasses.fields(GenerationOptions)]
    defaults = dataclasses.asdict(GenerationOptions())
    assert found == {name: defaults[name] for name in found}


def test_providers_have_the_names_of_python(facts: dict[str, Any]) -> None:
    assert facts["providers"] == {name: PROVIDERS[name].onnxruntime_name for name in facts["providers"]}
    assert set(facts["python_providers"]) == PROVIDERS.keys() - facts["providers"].keys()
