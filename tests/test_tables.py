"""Checks the tables of the project against each other: each row has all that it needs in the other tables."""

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from transformers import EncoderDecoderConfig, PretrainedConfig, RobertaPreLayerNormConfig

from rpln_export.evaluation.measures import MEASURES
from rpln_export.extras import EXTRAS
from rpln_export.plan.export_plan import make_plan
from rpln_export.plan.graphs import LOGITS
from rpln_export.plan.targets import TARGETS
from rpln_export.plan.workloads import WORKLOADS
from rpln_graphs import passes
from rpln_graphs.calls import CACHED
from rpln_graphs.decoding import decoding_cases
from rpln_graphs.forms import ALL_FORMS, EMBEDDINGS, FORMS
from rpln_graphs.passes import CLEAN_UP
from rpln_graphs.recipes import RECIPES
from rpln_graphs.rewriting.base import CountingPass
from rpln_graphs.rewriting.ranges import SAFE_RANGE
from rpln_graphs.stages import EncoderStage
from rpln_graphs.stress import Limits, stress_cases
from rpln_graphs.tensorrt.backends import BACKENDS
from rpln_graphs.variants import VARIANTS
from rpln_model import HEADS, config, json_files, sentences, weights
from rpln_runtime.engines.providers import PROVIDERS
from rpln_runtime.facts import ENCODER_DECODER, FACTS, FIXED_SIZES, PROBLEM_TYPES, STANDALONE, fact_from_name
from rpln_runtime.limits import DOCUMENTS, MOST_NAME_BYTES, MOST_PATH_BYTES, OTHER
from rpln_runtime.postprocess import POSTPROCESS, text_classification
from rpln_runtime.tasks import POOLINGS, TASKS, Task, Tensor
from rpln_runtime.triton.interfaces import INTERFACES
from tests.export.evaluation.examples_of_tasks import EXAMPLES

TESTS = Path(__file__).parent
ROOT = TESTS.parent
GENERATING = {"text-generation", "text2text-generation"}
"""Tasks that generate text in steps, so that no single output of a graph is the answer."""
DECODER = "RobertaPreLayerNormForCausalLM"
"""The head whose graphs are the steps of an encoder-decoder."""
QUANTIZED_FORMS = {name: form for name, form in ALL_FORMS.items() if name not in FORMS}
LIMITS = {
    "batch": (1, None),
    "choices": (1, None),
    "batch*choices": (1, None),
    "sequence": (1, 510),  # 512 rows of positions less 0 and 1
    "past_sequence": (0, 509),
    "past_sequence + sequence": (1, 510),
    "encoder_sequence": (1, 128),  # of 130 rows
    "masks": (0, 510),
    "masked_tokens": (0, None),
}
"""The limit of every dynamic axis, in a bundle that has all graphs of a network of the default sizes."""
DERIVED = {"head_size", "encoder_hidden_size", "embedding_size"}
"""Sizes that follow from a config without being a field of it."""
SAME_GRAPH = {"decode": "with-past"}
"""Variants that share their graph with another one. tests/graphs/test_golden.py checks this."""
TOGETHER = {"fuse_bias_gelu": "fuse_gelus", "fuse_fast_gelu": "fuse_gelus"}
"""Passes whose tests share a file, by that file."""
EVERY_TASK = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)


def tensors_of(task: Task) -> Iterator[Tensor]:
    yield from (*task.inputs, *task.optional_inputs, *task.outputs, *task.optional_outputs, *task.outputs_instead)


def pass_files() -> dict[str, list[type[CountingPass]]]:
    """Return the modules that hold passes, each with the passes that it defines.

    A pass that differs from another one of its module by its settings alone, as its subclass, is left out.
    """
    found = {}
    for module in pkgutil.iter_modules(passes.__path__):
        path = f"{passes.__name__}.{module.name}"
        classes = inspect.getmembers(importlib.import_module(path), inspect.isclass)
        own = [kind for _, kind in classes if kind.__module__ == path and issubclass(kind, CountingPass)]
        found[module.name] = [kind for kind in own if not any(base in own for base in kind.__bases__)]
    return found


def snake_case(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).removeprefix("_")


def test_rows_are_filed_under_their_own_names() -> None:
    assert [key for key, row in TASKS.items() if row.name != key] == []
    assert [key for key, row in VARIANTS.items() if row.name != key] == []
    assert [key for key, row in RECIPES.items() if row.name != key] == []
    assert [key for key, head in HEADS.items() if head.__name__ != key] == []


def test_every_task_has_a_head_and_every_head_a_task() -> None:
    architectures = {task.architecture for task in TASKS.values()}

    assert architectures - set(HEADS) == set(), "in TASKS, not in HEADS"
    assert set(HEADS) - architectures == set(), "in HEADS, not in TASKS"


def test_every_variant_of_a_task_is_a_variant_and_every_variant_is_some_tasks() -> None:
    steps = {variant for task in TASKS.values() for variant in task.variants}
    encoders = {variant for task in TASKS.values() for variant in task.encoders}

    assert (steps | encoders) - set(VARIANTS) == set(), "in TASKS, not in VARIANTS"
    assert set(VARIANTS) - (steps | encoders) == set(), "in VARIANTS, not in TASKS"
    assert {name for name, row in VARIANTS.items() if row.standalone} == encoders


def test_the_graphs_of_a_bundle_have_files_of_their_own() -> None:
    for task in TASKS.values():
        paths = [VARIANTS[variant].path for variant in (*task.variants, *task.encoders)]
        assert len(set(paths)) == len(paths), task.name


def test_every_task_has_its_postprocessing_and_every_postprocessing_a_task() -> None:
    named = {task.postprocess for task in TASKS.values()} - {None}

    assert named - set(POSTPROCESS) == set(), "in TASKS, not in POSTPROCESS"
    assert set(POSTPROCESS) - named == set(), "in POSTPROCESS, not in TASKS"
    assert {task.name for task in TASKS.values() if task.postprocess is None} == GENERATING


def tensors_of_graphs(task: Task) -> Iterator[Tensor]:
    """Yield every tensor that a graph of the task may have, with the axes that it has there."""
    chosen = [one for tensor in task.outputs if tensor in LOGITS for one in LOGITS[tensor].values()]
    for variant in (VARIANTS[name] for name in (*task.variants, *task.encoders)):
        if not variant.standalone:
            yield from variant.shaped(tensors_of(task))
            yield from (tensor for one in chosen for tensor in (*one.inputs, *one.outputs))
        yield from (*variant.inputs, *variant.outputs)


@EVERY_TASK
def test_facts_hold_for_every_tensor_of_a_task(task: Task) -> None:
    for tensor in tensors_of_graphs(task):
        fact = fact_from_name(tensor.name, task.name)
        assert fact is not None, tensor.name
        assert tensor.axes in fact.shapes, tensor
        assert fact.integers == (tensor.dtype == "int64"), tensor
    for tensor in task.outputs:
        fact = fact_from_name(tensor.name, task.name)
        assert fact is not None
        assert task.name in fact.tasks


def test_every_fact_is_about_some_tensor() -> None:
    found = {
        (fact_from_name(tensor.name, task.name), tensor.axes)
        for task in TASKS.values()
        for tensor in tensors_of_graphs(task)
    }
    assert {(fact, shape) for fact in FACTS for shape in fact.shapes} - found == set()
    named = {axis for fact in FACTS for shape in fact.shapes for axis in shape if isinstance(axis, str)}
    assert named == {*LIMITS, *FIXED_SIZES}
    assert set(STANDALONE) == {name for name, row in VARIANTS.items() if row.standalone}
    assert {task.name for task in TASKS.values() if task.encoders} == {ENCODER_DECODER}


@EVERY_TASK
def test_a_head_takes_every_input_of_its_task(task: Task) -> None:
    head = HEADS[DECODER if task.encoders else task.architecture]
    tensors = {*task.inputs, *task.optional_inputs, *(t for name in task.variants for t in VARIANTS[name].inputs)}
    # The keys and values of self-attention and of cross-attention are passed as one cache.
    given = {"past_key_values" if tensor.name in CACHED else tensor.name for tensor in tensors}

    assert given - set(inspect.signature(head.forward).parameters) == set()


def test_what_runs_before_the_steps_takes_every_input_of_its_variant() -> None:
    taken = set(inspect.signature(EncoderStage.forward).parameters)

    for row in VARIANTS.values():
        if row.standalone:
            assert {tensor.name for tensor in row.inputs} - taken == set(), row.name


@EVERY_TASK
def test_no_tensor_of_a_task_is_listed_twice(task: Task) -> None:
    names = [tensor.name for tensor in tensors_of(task)]

    assert sorted(names) == sorted(set(names))


@EVERY_TASK
def test_every_axis_has_limits_or_is_a_size_of_the_config(task: Task, tmp_path: Path) -> None:
    config = config_of(task)
    config.save_pretrained(tmp_path)
    extras = [tensor.name for tensor in task.optional_outputs]
    plan = make_plan(str(tmp_path), task=task.name, variants=task.variants, outputs=extras)
    tensors = {tensor for graph in plan.graphs for tensor in (*graph.inputs, *graph.outputs)} | {*tensors_of(task)}
    named = {axis for tensor in tensors for axis in tensor.axes if isinstance(axis, str)}

    sizes = named - set(LIMITS) - DERIVED
    assert [size for size in sizes if not isinstance(getattr(plan.config, size, None), int)] == []
    for axis in named & set(LIMITS):
        limits = plan.axes[axis]
        assert (limits.minimum, limits.maximum) == LIMITS[axis], axis


def config_of(task: Task) -> PretrainedConfig:
    config = RobertaPreLayerNormConfig(is_decoder=task.postprocess is None, add_cross_attention=bool(task.encoders))
    if not task.encoders:
        return config
    encoder = RobertaPreLayerNormConfig(max_position_embeddings=130)
    joined: PretrainedConfig = EncoderDecoderConfig.from_encoder_decoder_configs(
        encoder, config, decoder_start_token_id=0
    )
    return joined


@EVERY_TASK
def test_the_stress_set_makes_every_input_of_a_task(task: Task) -> None:
    limits = Limits(
        usable_length=20,
        vocab_size=30,
        type_vocab_size=2,
        pad_token_id=1,
        sizes={"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "encoder_hidden_size": 6},
    )
    # Inputs over an encoder's tokens are left out: another graph gives them, or they are made for that graph.
    inputs = [tensor for tensor in (*task.inputs, *task.optional_inputs) if "encoder_sequence" not in tensor.axes]
    names = [tensor.name for tensor in inputs]

    for case in stress_cases(inputs, limits):
        assert list(case.feeds) == names
    if task.postprocess is None:
        for encoder in task.encoders or (None,):
            memory = VARIANTS[encoder].inputs if encoder else ()
            for step in decoding_cases(inputs, limits, memory=memory, memory_limits=limits):
                assert list(step.feeds) == list(step.history) == names
                assert {tensor.name for tensor in memory} <= set(step.memory)


def test_every_file_of_passes_holds_one_pass_of_its_name() -> None:
    named = {name: [snake_case(kind.__name__) for kind in kinds] for name, kinds in pass_files().items()}

    assert named == {name: [name] for name in named}
    assert len(named) >= len(CLEAN_UP) + 3


def test_every_pass_says_what_is_there_before_and_after() -> None:
    modules = [importlib.import_module(f"{passes.__name__}.{name}") for name in pass_files()]

    assert [module.__name__ for module in modules if " -> " not in (module.__doc__ or "").splitlines()[0]] == []


def test_every_pass_is_used() -> None:
    used: set[type[CountingPass]] = set(CLEAN_UP)
    used |= {kind for recipe in RECIPES.values() for kind in (*recipe.folds, *recipe.passes)}
    used |= {kind for form in ALL_FORMS.values() for kind in (*form.prepares, *form.passes)} | set(EMBEDDINGS)

    used |= {base for kind in used for base in kind.__bases__}
    assert {kind for kinds in pass_files().values() for kind in kinds} - used == set(), "in no recipe and no form"


def test_every_target_names_forms_and_providers_that_there_are() -> None:
    for target in TARGETS.values():
        assert set(target.providers) <= set(PROVIDERS), target.name
        assert {form for forms in target.providers.values() for form in forms} <= set(ALL_FORMS), target.name
        assert target.default in FORMS.values(), target.name
        assert target.default.standard or not target.compiled, target.name
    assert {recipe.target for recipe in RECIPES.values()} <= set(TARGETS)


def test_the_page_of_passes_has_every_pass() -> None:
    page = (ROOT / "docs" / "passes.md").read_text(encoding="utf-8")

    assert [kind.__name__ for kinds in pass_files().values() for kind in kinds if kind.__name__ not in page] == []


def test_the_page_of_forms_has_every_form_target_and_workload() -> None:
    page = (ROOT / "docs" / "optimizing.md").read_text(encoding="utf-8")

    assert [name for name in (*FORMS, *TARGETS, *WORKLOADS) if f"`{name}`" not in page] == []


def test_the_page_of_quantization_has_every_form_of_int8_and_int4() -> None:
    page = (ROOT / "docs" / "quantization.md").read_text(encoding="utf-8")

    assert [name for name in QUANTIZED_FORMS if f"`{name}`" not in page] == []


def test_every_quantized_form_rounds_as_itself_or_as_another_that_does() -> None:
    own = {name for name, form in QUANTIZED_FORMS.items() if not form.accurate_as}

    assert {form.accurate_as for form in QUANTIZED_FORMS.values()} - {""} <= own
    for form in QUANTIZED_FORMS.values():
        if form.accurate_as:
            other = QUANTIZED_FORMS[form.accurate_as]
            assert form.prepares == other.prepares
            assert form.passes[: len(other.passes)] == other.passes
    assert {form for recipe in RECIPES.values() if recipe.quantizes for form in recipe.forms} == set(QUANTIZED_FORMS)


def test_every_recipe_that_lowers_has_a_safe_range_and_a_note_on_its_proof() -> None:
    lowering = [recipe for recipe in RECIPES.values() if recipe.lowers]

    assert {recipe.computes_in for recipe in lowering} - set(SAFE_RANGE) == set()
    assert [recipe.name for recipe in lowering if not recipe.note] == []


@EVERY_TASK
def test_answers_that_are_the_largest_of_candidates_say_along_which_axis(task: Task) -> None:
    candidates = {"vocab_size", "num_labels", "choices"}
    deciding = [tensor for tensor in task.outputs if tensor.decides_along is not None]

    assert [tensor for tensor in task.outputs if candidates & set(tensor.axes)] == [
        tensor for tensor in deciding if candidates & set(tensor.axes)
    ]
    assert deciding or task.postprocess == "feature_extraction"


def test_every_builder_of_engines_is_a_provider_with_the_same_module_and_extra() -> None:
    builders = {name: row for name, row in PROVIDERS.items() if row.runtime == "tensorrt"}

    assert {name: row.module for name, row in BACKENDS.items()} == {name: row.module for name, row in builders.items()}
    for name, row in BACKENDS.items():
        assert row.install == EXTRAS[name].command
        assert builders[name].install == row.install.replace("rpln-export", "rpln-runtime")


def test_every_variant_that_a_bundle_runs_step_by_step_has_its_steps() -> None:
    for row in VARIANTS.values():
        assert row.steps is None or VARIANTS[row.steps].shortest_past is not None, row.name
    assert [row.name for row in VARIANTS.values() if row.not_compiled and row.one_attention_kernel] == []


def test_every_postprocessing_is_served_by_triton_and_asked_with_an_example() -> None:
    assert set(POSTPROCESS) - set(INTERFACES) == set(), "in POSTPROCESS, not in Triton's INTERFACES"
    assert set(INTERFACES) - set(POSTPROCESS) == set(), "in Triton's INTERFACES, not in POSTPROCESS"
    for name, interface in INTERFACES.items():
        expected = {field.name: field.several for field in POSTPROCESS[name].fields if not field.optional}
        assert {key: isinstance(value, list) for key, value in interface.example.items()} == expected, name


def test_the_page_of_triton_has_what_each_task_takes_and_gives() -> None:
    lines = (ROOT / "docs" / "triton.md").read_text(encoding="utf-8").splitlines()
    for task in TASKS.values():
        if task.postprocess is not None:
            (line,) = [line for line in lines if line.startswith(f"| {task.name} |")]
            fields = [field.name for field in POSTPROCESS[task.postprocess].fields]
            columns = [column.name for column in INTERFACES[task.postprocess].columns]
            assert re.findall(r"`(\w+)`", line) == fields + columns, task.name


def test_every_pass_and_every_postprocessing_has_its_tests() -> None:
    wanted = {
        *(TESTS / "graphs" / "passes" / f"test_{TOGETHER.get(name, name)}.py" for name in pass_files()),
        *(TESTS / "runtime" / "postprocess" / f"test_{name}.py" for name in POSTPROCESS),
    }

    assert [path.name for path in wanted if not path.exists()] == []


def test_every_graph_of_a_task_is_golden_by_every_recipe() -> None:
    wanted = {
        f"{task.name}.{SAME_GRAPH.get(variant, variant)}.{recipe}.txt"
        for task in TASKS.values()
        for variant in (*task.variants, *task.encoders)
        for recipe, row in RECIPES.items()
        if not row.quantizes  # their graphs are those of fp32 until a form of int8 is written
    }

    assert wanted - {path.name for path in (TESTS / "graphs" / "golden").iterdir()} == set(), "make golden writes them"


def test_every_task_is_measured_by_classes_of_its_own_that_have_examples_and_rows_in_the_page() -> None:
    assert list(MEASURES) == list(TASKS)
    kinds = [kind for row in MEASURES.values() for kind in row]
    assert len(kinds) == len(set(kinds))
    assert set(EXAMPLES) == {kind.__name__ for kind in kinds}, "tests/export/evaluation/examples_of_tasks.py"
    tests = (TESTS / "export" / "evaluation" / "test_measures.py").read_text(encoding="utf-8")
    assert [kind.__name__ for kind in kinds if f'network("{kind.__name__}")' not in tests] == []
    rows = [line.split("|") for line in (ROOT / "docs" / "evaluating.md").read_text(encoding="utf-8").splitlines()]
    found = [tuple(re.findall(r"`(\w+)`", cell) for cell in row[2:4]) for row in rows if len(row) == 5]
    expected = [([f.name for f in kind.fields], [m.name for m in kind.metrics]) for kind in kinds]
    assert [pair for pair in found if pair != ([], [])] == expected


def test_every_problem_type_of_a_config_has_a_function() -> None:
    assert set(config.PROBLEM_TYPES) == set(PROBLEM_TYPES) == set(text_classification._FUNCTION_OF_PROBLEM)


def test_every_pooling_has_a_function() -> None:
    assert tuple(sentences.POOLINGS) == POOLINGS


def test_the_files_of_checkpoints_have_the_limits_of_those_of_bundles() -> None:
    limits = DOCUMENTS[OTHER]
    assert (limits.size, limits.depth) == (json_files.MOST_BYTES, json_files.MOST_DEPTH)
    assert (MOST_NAME_BYTES, MOST_PATH_BYTES) == (weights._MOST_NAME_BYTES, weights._MOST_PATH_BYTES)
