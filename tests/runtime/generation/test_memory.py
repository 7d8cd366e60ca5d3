"""Buffers: which memory a step reads and writes. None is copied or allocated without need."""

import ctypes
from typing import Any

import numpy as np
import pytest

from rpln_runtime import Generator, generator
from rpln_runtime.engines.memory import HostMemory
from rpln_runtime.engines.onnxruntime import OnnxRuntimeEngine, OnnxRuntimeMemory
from rpln_runtime.errors import ManifestError
from rpln_runtime.generation.cache import Cache, Kind, kinds_from_graph
from rpln_runtime.generation.memory import Block
from rpln_runtime.manifest import Graph, TensorSpec
from tests.runtime.decoders import DecoderBundle

NAMES = ["present.0.key", "present.0.value"]


class Recorder:
    """A binding that records what is bound."""

    def __init__(self) -> None:
        self.inputs: dict[str, tuple[Any, ...]] = {}
        self.outputs: dict[str, tuple[Any, ...]] = {}

    def bind_input(self, name: str, *what: Any) -> None:
        self.inputs[name] = what

    def bind_output(self, name: str, *what: Any) -> None:
        self.outputs[name] = what

    def bind_cpu_input(self, name: str, array: np.ndarray) -> None:
        raise AssertionError("of a cache nothing lies elsewhere")

    bind_cpu_output = bind_cpu_input

    def run(self) -> None:
        raise AssertionError("nothing runs")


def graph_of(*specs: TensorSpec) -> Graph:
    return Graph(variant="with-past", path="model.onnx", opset=20, inputs=(), outputs=specs)


def present(name: str, dtype: str = "float32", shape: tuple[str | int, ...] = ("batch", 2, "total", 4)) -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=shape)


def bound_array(what: tuple[Any, ...]) -> np.ndarray:
    """Return the host memory behind a binding, which is of fp32."""
    element, shape, pointer = what
    assert element == 1
    floats = (ctypes.c_float * int(np.prod(shape))).from_address(pointer)
    return np.asarray(np.ctypeslib.as_array(floats)).reshape(shape)


@pytest.mark.parametrize(("dtype", "element"), [("float32", 1), ("float16", 10), ("bfloat16", 16)])
def test_tensors_of_a_block_lie_one_after_the_other(dtype: str, element: int) -> None:
    block, recorder = Block(NAMES, dtype, HostMemory), Recorder()
    block.reshape((3, 2, 5, 4))
    block.bind_outputs(recorder, NAMES)
    block.bind_inputs(recorder, ["a", "b"])
    first, second = recorder.outputs.values()
    assert first[:2] == (element, (3, 2, 5, 4))
    assert second[2] - first[2] == 120 * (4 if dtype == "float32" else 2)
    assert list(recorder.inputs.values()) == [first, second]


def test_a_gather_takes_rows_of_every_tensor() -> None:
    rng = np.random.default_rng(0)
    source, target = (Block(NAMES, "float32", HostMemory) for _ in range(2))
    recorder = Recorder()
    source.reshape((3, 2, 5, 4))
    source.bind_inputs(recorder, NAMES)
    values = {name: rng.normal(size=(3, 2, 5, 4)).astype(np.float32) for name in NAMES}
    for name in NAMES:
        bound_array(recorder.inputs[name])[:] = values[name]
    rows = np.array([2, 0, 0, 1, 2])
    target.gather(source, rows)
    target.bind_inputs(recorder, NAMES)
    for name in NAMES:
        assert np.array_equal(bound_array(recorder.inputs[name]), values[name][rows])


def test_memory_grows_by_doubling() -> None:
    block, recorder = Block(NAMES, "float32", HostMemory), Recorder()
    pointers = []
    for length in range(1, 65):
        block.reshape((1, 2, length, 4))
        block.bind_outputs(recorder, NAMES)
        pointers.append(recorder.outputs[NAMES[0]][2])
    changes = [length for length in range(1, 64) if pointers[length] != pointers[length - 1]]
    assert changes == [1, 2, 4, 8, 16, 32]


def test_a_step_reads_what_the_last_one_wrote() -> None:
    cache, recorder = Cache(graph_of(*map(present, NAMES)), HostMemory), Recorder()
    cache.bind(recorder, rows=2, new=3, reads=True)
    assert recorder.inputs["past_key_values.0.key"][1] == (2, 2, 0, 4)
    for past in range(3, 6):
        written = dict(recorder.outputs)
        cache.turn()
        cache.bind(recorder, rows=2, new=1, reads=True)
        for name in NAMES:
            assert recorder.inputs[name.replace("present", "past_key_values")] == written[name]
            assert recorder.outputs[name][1] == (2, 2, past + 1, 4)
            assert recorder.outputs[name][2] != written[name][2]


def test_nothing_of_the_cache_passes_through_python(causal_lm: DecoderBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    continue_ = generator(causal_lm.folder, max_new_tokens=30, stop_token_ids=())
    expected = continue_.tokens([[0, 41]])
    gathers: list[int] = []
    gather = Block.gather

    def counted(self: Block, source: Block, rows: np.ndarray) -> None:
        gathers.append(len(rows))
        gather(self, source, rows)

    monkeypatch.setattr(Block, "gather", counted)
    assert continue_.tokens([[0, 41]]) == expected
    assert gathers == []
    # Beams change places now and then, and rows that have ended are removed.
    continue_.tokens([[0, 41]], num_beams=3)
    assert 0 < len(gathers) <= 30
    assert set(gathers) == {3}


def test_onnxruntimes_own_memory_does_as_well(causal_lm: DecoderBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    continue_ = generator(causal_lm.folder, max_new_tokens=20)
    prompts = [[0, 41], [0, 63, 7, 9, 11]]
    expected = [continue_.tokens(prompts, num_beams=beams) for beams in (1, 3)]
    allocated: list[int] = []

    def allocate(self: OnnxRuntimeEngine, size: int, dtype: np.dtype[Any]) -> OnnxRuntimeMemory:
        allocated.append(size)
        return OnnxRuntimeMemory(size, dtype, "cpu")

    monkeypatch.setattr(OnnxRuntimeEngine, "allocate", allocate)
    assert [continue_.tokens(prompts, num_beams=beams) for beams in (1, 3)] == expected
    assert allocated


def test_two_generations_at_once_do_not_share_memory(causal_lm: DecoderBundle) -> None:
    continue_: Generator = generator(causal_lm.folder, max_new_tokens=20, return_full_text=False, stop_token_ids=())
    streams = [continue_.stream("Ada Lovelace"), continue_.stream("The capital")]
    texts = ["", ""]
    for pieces in zip(*streams, strict=False):
        texts = [text + piece for text, piece in zip(texts, pieces, strict=True)]
    alone = [continue_(text)[0]["generated_text"] for text in ("Ada Lovelace", "The capital")]
    assert all(len(text) > 10 and whole.startswith(text) for text, whole in zip(texts, alone, strict=True))


@pytest.mark.parametrize(
    ("specs", "facts"),
    [
        (
            (present("present.0.key", dtype="int64"),),
            r"present\.0\.key of model\.onnx is int64 \('batch', 2, 'total', 4\), expected one of float32, float16,",
        ),
        (
            (present("present.0.key", shape=("batch", 2, "total")),),
            r"\(batch, heads, tokens, head_size\).* [Ee]xport",
        ),
        (
            (present("present.0.key", shape=("batch", "heads", "total", 4)),),
            r"present\.0\.key of model\.onnx is float32 \('batch', 'heads', 'total', 4\), expected one of",
        ),
    ],
)
def test_tensors_that_are_no_cache_are_refused(specs: tuple[TensorSpec, ...], facts: str) -> None:
    with pytest.raises(ManifestError, match=facts):
        kinds_from_graph(graph_of(*specs), "present.")


def test_layers_may_differ_in_heads_and_in_dtype() -> None:
    specs = (
        present("present.0.key", dtype="float16"),
        present("present.0.value", dtype="float16"),
        present("present.1.key", shape=("batch", 1, "total", 4)),
        present("present.1.value", dtype="float16", shape=("batch", 1, "total", 4)),
    )
    assert kinds_from_graph(graph_of(*specs), "present.") == {
        Kind("float16", 2, 4): ["0.key", "0.value"],
        Kind("float32", 1, 4): ["1.key"],
        Kind("float16", 1, 4): ["1.value"],
    }
    cache, recorder = Cache(graph_of(*specs), HostMemory), Recorder()
    cache.bind(recorder, rows=3, new=5, reads=True)
    assert {name: what[:2] for name, what in recorder.inputs.items()} == {
        "past_key_values.0.key": (10, (3, 2, 0, 4)),
        "past_key_values.0.value": (10, (3, 2, 0, 4)),
        "past_key_values.1.key": (1, (3, 1, 0, 4)),
        "past_key_values.1.value": (10, (3, 1, 0, 4)),
    }
    written = dict(recorder.outputs)
    assert written["present.1.key"][:2] == (1, (3, 1, 5, 4))
    bound_array(written["present.1.key"])[:] = np.arange(60, dtype=np.float32).reshape(3, 1, 5, 4)
    cache.turn()
    cache.select(np.array([2, 0]))
    cache.bind(recorder, rows=2, new=1, reads=True)
    taken = bound_array(recorder.inputs["past_key_values.1.key"])
    np.testing.assert_array_equal(taken, np.arange(60, dtype=np.float32).reshape(3, 1, 5, 4)[[2, 0]])
    assert recorder.outputs["present.0.value"][1] == (2, 2, 6, 4)
