"""Every field of a configuration is either in FIELDS, and may be changed within its limits, or must not be changed."""

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from google.protobuf import text_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.grpc import model_config_pb2

from rpln_runtime.triton import check_repository, checking
from rpln_runtime.triton.checks.configs import Comparison
from rpln_runtime.triton.checks.fields import FIELDS
from rpln_runtime.triton.checks.reading import FieldPath, config_from_text, shown_path

ENSEMBLE, TOKENIZER, GPU, CPU, ENGINE, WRITER = (
    ("tagger", "tagger/config.pbtxt"),
    ("tagger", "tagger_tokenizer/config.pbtxt"),
    ("tagger", "tagger_model/config.pbtxt"),
    ("tagger", "tagger_model/configs/cpu.pbtxt"),
    ("engine", "tagger_model/config.pbtxt"),
    ("writer", "writer/config.pbtxt"),
)
"""Configurations: the repository and the file."""


Comparisons: TypeAlias = dict[tuple[str, str], tuple[Comparison, str]]


@pytest.fixture(scope="module")
def comparisons(repositories: Path) -> Comparisons:
    """Return what the check compares of each configuration, and the text of the file."""
    made: Comparisons = {}
    for repository in ("tagger", "engine", "writer"):
        seen: list[Comparison] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                checking, "Comparison", lambda seen=seen, **fields: seen.append(Comparison(**fields)) or seen[-1]
            )
            check_repository(repositories / repository)
        for one in seen:
            text = (repositories / repository / one.file).read_text(encoding="utf-8")
            made[repository, one.file] = one, text
    return made


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """Values of a field of FIELDS: those that may be there, and others. None takes the field out."""

    of: tuple[str, str]
    allowed: st.SearchStrategy[Any]
    refused: st.SearchStrategy[Any]
    with_others: str = ""
    """Text that is put in front of the configuration."""


def whole(of: tuple[str, str], minimum: int, maximum: int, most: int, *, with_others: str = "") -> Samples:
    """Return integers within and outside of limits, in a type that holds 0 to `most`."""
    below = st.integers(0, minimum - 1) if minimum else st.nothing()
    refused = below | st.integers(maximum + 1, most)
    return Samples(of=of, allowed=st.integers(minimum, maximum), refused=refused, with_others=with_others)


def number(of: tuple[str, str], minimum: int, maximum: int) -> Samples:
    """Return texts that hold integers within and outside of limits."""
    others = st.sampled_from(["", "one", "1.0", " 1", "1" * 30, "²", "\u0663"])
    outside = st.integers(maximum + 1) | st.integers(max_value=minimum - 1)
    return Samples(of=of, allowed=st.integers(minimum, maximum).map(str), refused=others | outside.map(str))


def one_of(of: tuple[str, str], allowed: list[Any], refused: list[Any], *, with_others: str = "") -> Samples:
    return Samples(
        of=of,
        allowed=st.sampled_from(allowed),
        refused=st.sampled_from(refused) if refused else st.nothing(),
        with_others=with_others,
    )


UINT32, UINT64 = 2**32 - 1, 2**64 - 1
LEVELS = "dynamic_batching { priority_levels: 3 default_priority_level: 2 }"
SPECIFIC = "version_policy { specific { versions: [ 1 ] } }"
ACCELERATORS = "optimization.execution_accelerators"
TENSORRT = f'{ACCELERATORS}.gpu_execution_accelerator["tensorrt"]'
OPENVINO = f'{ACCELERATORS}.cpu_execution_accelerator["openvino"]'
OPEN = "optimization { execution_accelerators {"
POLICY = """dynamic_batching {
  priority_queue_policy { key: 3 value { default_timeout_microseconds: 1000 max_queue_size: 1 } }
}"""
ONE_INSTANCE = "dynamic_batching { } instance_group { kind: KIND_CPU count: 1 }"
ANY_TEXT = st.text(st.characters(codec="ascii", categories=["Lu", "Ll", "Nd"]), min_size=1, max_size=9)


def policy(at: str, **others: str) -> dict[str, Samples]:
    return {
        f"{at}.timeout_action": one_of(TOKENIZER, ["REJECT", "DELAY", None], [], **others),
        f"{at}.default_timeout_microseconds": whole(TOKENIZER, 1_000, 600_000_000, UINT64, **others),
        f"{at}.allow_timeout_override": one_of(TOKENIZER, [True, False, None], [], **others),
        f"{at}.max_queue_size": whole(TOKENIZER, 1, 65_536, UINT32, **others),
    }


def parameter(name: str) -> str:
    return f'parameters["{name}"].string_value'


SAMPLES = {
    "version_policy.latest.num_versions": whole(CPU, 1, 1_000, UINT32),
    "version_policy.specific.versions": one_of(CPU, [(1,), (1, 1)], [(), (2,), (1, 2), (-1,)], with_others=SPECIFIC),
    "dynamic_batching.max_queue_delay_microseconds": whole(CPU, 0, 100_000, UINT64),
    "dynamic_batching.preferred_batch_size": Samples(
        of=CPU,
        allowed=st.sets(st.integers(1, 32)).map(sorted),
        refused=st.sampled_from([(0,), (33,), (-4,), (8, 4), (4, 4), (2, 100)]),
    ),
    "dynamic_batching.priority_levels": Samples(
        of=CPU,
        allowed=st.integers(1, 100),
        refused=st.integers(101, UINT64),
        with_others="dynamic_batching { default_priority_level: 1 }",
    ),
    "dynamic_batching.default_priority_level": whole(CPU, 1, 3, UINT64, with_others=LEVELS),
    **policy("dynamic_batching.priority_queue_policy[*]", with_others=f"{LEVELS} {POLICY}"),
    **policy("dynamic_batching.default_queue_policy"),
    "instance_group[*].name": Samples(of=CPU, allowed=ANY_TEXT, refused=st.nothing()),
    "instance_group[*].kind": one_of(CPU, ["KIND_CPU"], ["KIND_GPU", "KIND_MODEL", "KIND_AUTO", None]),
    "instance_group[*].count": Samples(
        of=TOKENIZER, allowed=st.integers(2, 64), refused=st.integers(-(2**31), 1) | st.integers(65, 2**31 - 1)
    ),
    "instance_group[*].gpus": Samples(
        of=GPU,
        allowed=st.lists(st.integers(0, 63), unique=True),
        refused=st.sampled_from([(0, 0), (-1,), (64,), (3, 1, 3)]),
    ),
    "instance_group[*].profile": one_of(
        ENGINE, [("0",), ("1",), ("1", "0")], [(), ("2",), ("0", "2"), ("a",), ("00",)]
    ),
    "response_cache.enable": one_of(ENSEMBLE, [True, False, None], []),
    "model_warmup[*].batch_size": whole(CPU, 1, 32, UINT32),
    "model_warmup[*].count": whole(CPU, 0, 1_000, UINT32),
    parameter("options"): one_of(
        TOKENIZER, ["{}", " { } ", "", None], ["{", "[]", "3", '{"stride": 1}', '{"a": NaN}', "{}{}"]
    ),
    parameter("buckets"): Samples(
        of=TOKENIZER,
        allowed=st.sets(st.integers(1, 63)).map(lambda lengths: ",".join(map(str, [*sorted(lengths), 64]))),
        refused=st.sampled_from(
            [
                "",
                "64,",
                "32",
                "64,32,64",
                "0,64",
                "32,65",
                "32, 64",
                "a",
                "32;64",
                "-1,64",
                "1" * 5000,
                "\u0663\u0662,64",
            ]
        ),
    ),
    parameter("EXECUTION_ENV_PATH"): Samples(of=TOKENIZER, allowed=ANY_TEXT, refused=st.just("")),
    parameter("FORCE_CPU_ONLY_INPUT_TENSORS"): one_of(TOKENIZER, ["yes", "no"], ["", "Yes", "true", "1"]),
    parameter("max_text_bytes"): number(TOKENIZER, 1, 2**31 - 1),
    parameter("intra_op_thread_count"): number(CPU, 0, 1_024),
    parameter("inter_op_thread_count"): number(CPU, 0, 1_024),
    parameter("execution_mode"): one_of(CPU, ["0", "1"], ["", "2", "sequential"]),
    parameter("enable_mem_arena"): one_of(CPU, ["0", "1"], ["", "2", "true"]),
    parameter("enable_mem_pattern"): one_of(CPU, ["0", "1"], ["", "2", "true"]),
    parameter("memory.enable_memory_arena_shrinkage"): one_of(CPU, ["cpu:0", "cpu:0;gpu:0"], [""]),
    parameter("session.use_device_allocator_for_initializers"): one_of(CPU, ["0", "1"], ["", "2", "true"]),
    "optimization.graph.level": one_of(CPU, [None, -1, 1, 2], [-2, 3, 100]),
    "optimization.input_pinned_memory.enable": one_of(CPU, [True, False], []),
    "optimization.output_pinned_memory.enable": one_of(CPU, [True, False], []),
    "optimization.eager_batching": one_of(CPU, [True, False], []),
    "optimization.gather_kernel_buffer_threshold": whole(CPU, 0, 2**31 - 1, UINT32),
    f'{TENSORRT}.parameters["max_workspace_size_bytes"]': number(GPU, 1, 2**40),
    f'{TENSORRT}.parameters["trt_engine_cache_enable"]': one_of(GPU, ["0", "1"], ["", "2", "true"]),
    f'{TENSORRT}.parameters["trt_engine_cache_path"]': Samples(of=GPU, allowed=ANY_TEXT, refused=st.just("")),
    f'{TENSORRT}.parameters["trt_timing_cache_enable"]': one_of(GPU, ["0", "1"], ["", "2", "true"]),
    f'{TENSORRT}.parameters["trt_timing_cache_path"]': Samples(of=GPU, allowed=ANY_TEXT, refused=st.just("")),
    "optimization.cuda.graphs": one_of(ENGINE, [True, False], []),
    "optimization.cuda.busy_wait_events": one_of(ENGINE, [True, False], []),
    "optimization.cuda.output_copy_stream": one_of(ENGINE, [True, False], []),
}
"""Values of the fields in FIELDS that hold no other fields."""

BLOCKS = [
    ("version_policy.latest", ENSEMBLE, "version_policy", "version_policy { specific { versions: [ 1 ] } }"),
    ("version_policy.all", ENSEMBLE, "version_policy", "version_policy { all { } }"),
    ("dynamic_batching.priority_queue_policy[*]", TOKENIZER, "", f"{LEVELS} {POLICY}"),
    ("dynamic_batching.default_queue_policy", TOKENIZER, "dynamic_batching instance_group", ONE_INSTANCE),
    ("instance_group[*]", GPU, "", "instance_group { kind: KIND_GPU count: 1 gpus: [ 3 ] }"),
    ("response_cache", ENSEMBLE, "response_cache", ""),
    ("model_warmup[*]", CPU, "model_warmup", ""),
    (TENSORRT, GPU, "", f'{OPEN} gpu_execution_accelerator {{ name: "tensorrt" }} }} }}'),
    (OPENVINO, CPU, "", f'{OPEN} cpu_execution_accelerator {{ name: "openvino" }} }} }}'),
]
"""Fields in FIELDS that hold others: fields that are taken out of a configuration, and text that is added instead."""


def test_every_row_has_samples() -> None:
    assert {*SAMPLES, *(at for at, *_ in BLOCKS)} == {shown_path(row.path) for row in FIELDS}


def test_the_page_names_every_row() -> None:
    page = (Path(__file__).parents[2] / "docs" / "triton.md").read_text(encoding="utf-8")
    table = page.partition("| may be changed |")[2].partition("\n\n")[0]
    for row in FIELDS:
        name = [part for part in row.path if part not in {"string_value", "enable", "[*]"}][-1].strip('["]')
        assert f"`{name}`" in table, shown_path(row.path)


@pytest.mark.parametrize("at", SAMPLES)
def test_a_change_within_the_limits_passes(comparisons: Comparisons, at: str) -> None:
    samples = SAMPLES[at]

    @settings(max_examples=6, deadline=None)
    @given(samples.allowed)
    def check(value: Any) -> None:
        assert not problems(comparisons[samples.of], changed(comparisons, samples, at, value))

    check()


@pytest.mark.parametrize("at", [at for at, samples in SAMPLES.items() if not samples.refused.is_empty])
def test_a_change_beyond_the_limits_is_refused(comparisons: Comparisons, at: str) -> None:
    samples = SAMPLES[at]

    @settings(max_examples=8, deadline=None)
    @given(samples.refused)
    def check(value: Any) -> None:
        (problem,) = problems(comparisons[samples.of], changed(comparisons, samples, at, value))
        assert problem.startswith(shown_path(place(at)))

    check()


@pytest.mark.parametrize(("at", "of", "without", "text"), BLOCKS)
def test_blocks_that_may_be_there_or_not(
    comparisons: Comparisons, at: str, of: tuple[str, str], without: str, text: str
) -> None:
    message = parsed(comparisons[of])
    for name in without.split():
        message.ClearField(name)
    assert not problems(comparisons[of], text_format.Merge(text, message)), at


@pytest.mark.parametrize("of", [ENSEMBLE, TOKENIZER, CPU, ENGINE, WRITER], ids="/".join)
def test_every_other_change_is_refused(comparisons: Comparisons, of: tuple[str, str]) -> None:
    """Each field that Triton's protobuf has is set to another value, and each that is written is taken out."""
    comparison, _ = comparisons[of]
    rows = [row for row in FIELDS if comparison.role in row.roles]
    tried = 0
    for path, field in fields_of(model_config_pb2.ModelConfig.DESCRIPTOR):
        for edit in (other_value, None):
            message = parsed(comparisons[of])
            set_value(message, path, edit and edit(field))
            found = config_from_text(text_format.MessageToString(message), "").values
            written = comparison.written.values
            differing = [one for one in {**found, **written} if found.get(one) != written.get(one)]
            if any(not any(row.lies_in(one) for row in rows) for one in differing):
                tried += 1
                assert problems(comparisons[of], message), shown_path(path)
    assert tried > 150


def problems(of: tuple[Comparison, str], message: Any) -> list[str]:
    """Return what the check says of a configuration that takes the place of the one that was compared."""
    found = config_from_text(text_format.MessageToString(message), "the text")
    return [problem.text for problem in dataclasses.replace(of[0], found=found).problems()]


def parsed(of: tuple[Comparison, str]) -> Any:
    return text_format.Parse(of[1], model_config_pb2.ModelConfig())


def changed(comparisons: Comparisons, samples: Samples, at: str, value: Any) -> Any:
    message = text_format.Merge(samples.with_others, parsed(comparisons[samples.of]))
    set_value(message, place(at), value)
    return message


def place(at: str) -> FieldPath:
    """Return the path of a row, with an element that the configurations have."""
    (row,) = [row for row in FIELDS if shown_path(row.path) == at]
    elements = {"instance_group": "[0]", "model_warmup": '["16 tokens"]', "priority_queue_policy": "[3]"}
    return tuple(elements[row.path[index - 1]] if part == "[*]" else part for index, part in enumerate(row.path))


def set_value(message: Any, path: FieldPath, value: Any) -> None:
    """Set a field of a message of protobuf; None takes it out. `[*]` is the first element, or a new one."""
    name, *rest = path
    field, inner = message.DESCRIPTOR.fields_by_name[name], getattr(message, name)
    if rest and rest[0].startswith("["):
        is_map = field.message_type.GetOptions().map_entry
        _set_in_map(inner, field, rest, value) if is_map else _set_in_list(inner, rest, value)
    elif rest:
        inner.SetInParent()
        set_value(inner, tuple(rest), value)
    elif value is None:
        message.ClearField(name)
    elif isinstance(value, list | tuple):
        del inner[:]
        inner.extend(value)
    else:
        setattr(
            message,
            name,
            field.enum_type.values_by_name[value].number if isinstance(value, str) and field.enum_type else value,
        )


def _set_in_map(inner: Any, field: FieldDescriptor, rest: list[str], value: Any) -> None:
    key_field, value_field = (field.message_type.fields_by_name[name] for name in ("key", "value"))
    new = "x" if key_field.cpp_type == FieldDescriptor.CPPTYPE_STRING else 1
    key = next(iter(inner), new) if rest[0] == "[*]" else json.loads(rest[0][1:-1])
    if value_field.message_type is not None:
        set_value(inner[key], tuple(rest[1:]), value)
    elif value is None:
        inner.pop(key, None)
    else:
        inner[key] = value


def _set_in_list(inner: Any, rest: list[str], value: Any) -> None:
    key = 0 if rest[0] == "[*]" else json.loads(rest[0][1:-1])
    known = {place if isinstance(key, int) else one.name: one for place, one in enumerate(inner)}
    element = known[key] if key in known else inner.add(**({} if isinstance(key, int) else {"name": key}))
    set_value(element, tuple(rest[1:]), value)


def fields_of(descriptor: Descriptor, at: FieldPath = ()) -> Iterator[tuple[FieldPath, FieldDescriptor]]:
    """Yield the path of each field within messages of this type that holds no other fields."""
    for field in descriptor.fields:
        path = (*at, field.name)
        if field.message_type is None:
            yield path, field
        elif field.message_type.GetOptions().map_entry:
            value = field.message_type.fields_by_name["value"]
            path = (*path, "[*]")
            yield from [(path, value)] if value.message_type is None else fields_of(value.message_type, path)
        else:
            yield from fields_of(field.message_type, (*path, "[*]") if field.is_repeated else path)


def other_value(field: FieldDescriptor) -> Any:
    """Return a value that no configuration here has."""
    values: dict[int, Any] = {
        FieldDescriptor.CPPTYPE_STRING: "other",
        FieldDescriptor.CPPTYPE_BOOL: True,
        FieldDescriptor.CPPTYPE_DOUBLE: 0.5,
        FieldDescriptor.CPPTYPE_FLOAT: 0.5,
    }
    value = field.enum_type.values[-1].number if field.enum_type else values.get(field.cpp_type, 123_457)
    return [value] if field.is_repeated else value
