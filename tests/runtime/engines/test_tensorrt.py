"""Engines of TensorRT on a stand-in for NVIDIA's runtime, which computes them with ONNX Runtime."""

import gc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rpln_runtime import InputError, ProviderError, generator, load, pipeline
from rpln_runtime.engines.manifest import Range
from rpln_runtime.tasks import TASKS
from tests.runtime.bundles import Bundle
from tests.runtime.decoders import DecoderBundle, copy_decoder
from tests.runtime.engines.test_engines import feeds_of
from tests.runtime.messages import naming
from tests.runtime.tensorrt_stand_in import StandInContext, StandInEngine, add_engines, install_stand_in

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


@pytest.fixture
def folder(bundle_of: Callable[..., Bundle]) -> Path:
    return bundle_of("token-classification").folder


def profile(**axes: tuple[int, int, int]) -> dict[str, Range]:
    return {name: Range(minimum=low, optimum=tuned, maximum=high) for name, (low, tuned, high) in axes.items()}


SHORT = profile(batch=(1, 4, 8), sequence=(1, 8, 16))
LONG = profile(batch=(1, 1, 2), sequence=(9, 48, 64))


def test_of_several_profiles_the_nearest_serves(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = add_engines(folder, tmp_path, profiles=[SHORT, LONG])
    install_stand_in(monkeypatch)
    cpu, gpu = load(folder, provider="cpu", threads=1), load(folder, provider="tensorrt-rtx")
    chosen: list[int] = []
    real = StandInContext.set_optimization_profile_async

    def noted(self: StandInContext, index: int, stream: int) -> bool:
        chosen.append(index)
        return real(self, index, stream)

    monkeypatch.setattr(StandInContext, "set_optimization_profile_async", noted)
    # A context begins with the first profile. The last sizes fit both; the second is tuned for nearer ones.
    for rows, length in ((3, 5), (8, 16), (1, 60), (2, 17), (5, 16), (1, 16)):
        feeds = {name: array[:1].repeat(rows, axis=0) for name, array in feeds_of(cpu.manifest, length=length).items()}
        assert np.array_equal(gpu.run(feeds)["logits"], cpu.run(feeds)["logits"])
    assert chosen == [1, 0, 1]


@pytest.mark.parametrize(
    ("sizes", "facts"),
    [
        ((3, 20), ("batch=3,sequence=20", "sequence=20", "batch=1:4:8,sequence=1:8:16 or ", "--profile")),
        ((9, 4), ("batch=9,sequence=4", "batch=9", "batch_size", "--profile")),
    ],
)
def test_sizes_that_no_profile_takes_are_named(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sizes: tuple[int, int], facts: tuple[str, ...]
) -> None:
    rows, length = sizes
    folder = add_engines(folder, tmp_path, profiles=[SHORT, LONG])
    install_stand_in(monkeypatch)
    gpu = load(folder, provider="tensorrt-rtx")
    feeds = {name: array[:1].repeat(rows, axis=0) for name, array in feeds_of(gpu.manifest, length=length).items()}
    with pytest.raises(InputError, match=naming(*facts)):
        gpu.run(feeds)
    # A run that was refused has no effect on later ones.
    assert gpu.run(feeds_of(gpu.manifest, length=4))["logits"].shape[1] == 4


def test_a_text_that_is_too_long_for_the_engine_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = add_engines(folder, tmp_path, profiles=[SHORT])
    install_stand_in(monkeypatch)
    gpu = load(folder, provider="tensorrt-rtx")
    with pytest.raises(InputError, match=r"sequence=17.* [Ss]horten the texts.* --profile"):
        gpu.run(feeds_of(gpu.manifest, length=17))


def test_a_pipeline_takes_no_more_rows_than_the_engine(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = add_engines(folder, tmp_path, profiles=[SHORT, LONG])
    install_stand_in(monkeypatch)
    texts = ["Ada Lovelace lived in London.", "Oslo"] * 7
    cpu, gpu = (pipeline(folder, provider=name, batch_size=8) for name in ("cpu", "tensorrt-rtx"))
    assert len(gpu.session.profiles) == 2
    batches: list[int] = []
    run = gpu.session.run

    def noted(feeds: dict[str, np.ndarray], **options: Any) -> Any:
        batches.append(len(feeds["input_ids"]))
        return run(feeds, **options)

    monkeypatch.setattr(gpu.session, "run", noted)
    assert len(gpu(texts)) == len(cpu(texts)) == 14
    assert batches == [8, 6]
    del batches[:]
    gpu([*texts, " ".join(texts)[:120]])
    assert set(batches) == {1, 2}


# -- memory, threads and graphs ----------------------------------------------------------------------------------------


def test_memory_grows_by_doubling_and_is_given_back(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = add_engines(folder, tmp_path)
    cuda = install_stand_in(monkeypatch)
    gpu = load(folder, provider="tensorrt-rtx")
    for length in range(1, 65):
        gpu.run(feeds_of(gpu.manifest, length=length))
    # Two inputs and an output are allocated once, and doubled six times until they are 64 times as large.
    assert cuda.calls.count("cudaMalloc") == 3 * 7
    assert len(cuda.device) == 3
    del gpu
    gc.collect()
    assert not cuda.device
    assert not cuda.pinned


def test_without_memory_the_error_says_so(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = add_engines(folder, tmp_path)
    install_stand_in(monkeypatch, memory=500)
    gpu = load(folder, provider="tensorrt-rtx")
    facts = ("cudaMalloc", "cudaErrorMemoryAllocation, memoryallocation", "rpln doctor", "provider='cpu'")
    with pytest.raises(ProviderError, match=naming(*facts)):
        gpu.run(feeds_of(gpu.manifest, length=64))


@pytest.mark.parametrize("builder", BUILDERS)
def test_threads_share_an_engine(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, builder: str) -> None:
    folder = add_engines(folder, tmp_path, builder=builder)
    cuda = install_stand_in(monkeypatch, builder)
    cpu, gpu = load(folder, provider="cpu", threads=1), load(folder, provider=builder)
    batches = [feeds_of(cpu.manifest, seed=seed % 6, length=3 + seed % 2) for seed in range(24)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(gpu.run, batches))
    for feeds, outputs in zip(batches, found, strict=True):
        assert np.array_equal(outputs["logits"], cpu.run(feeds)["logits"])
    assert 1 < len(cuda.streams) <= 4


def test_a_launch_seen_twice_is_captured(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = add_engines(folder, tmp_path, builder="tensorrt")
    cuda = install_stand_in(monkeypatch, "tensorrt")
    cpu, gpu = load(folder, provider="cpu", threads=1), load(folder, provider="tensorrt")

    def run(length: int, seed: int) -> None:
        feeds = feeds_of(cpu.manifest, length=length, seed=seed)
        assert np.array_equal(gpu.run(feeds)["logits"], cpu.run(feeds)["logits"])

    run(64, 0)  # memory has its final size
    for seed in range(5):
        run(9, seed)
        run(10, seed)
    assert cuda.calls.count("cudaStreamBeginCapture") == 2
    assert cuda.calls.count("cudaGraphLaunch") == 2 * 3
    assert len(cuda.graphs) == 2


def test_memory_that_moved_is_captured_anew(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = add_engines(folder, tmp_path, builder="tensorrt")
    cuda = install_stand_in(monkeypatch, "tensorrt")
    cpu, gpu = load(folder, provider="cpu", threads=1), load(folder, provider="tensorrt")
    for length in (9, 9, 9, 64, 9, 9, 9):
        feeds = feeds_of(cpu.manifest, length=length)
        assert np.array_equal(gpu.run(feeds)["logits"], cpu.run(feeds)["logits"])
    assert cuda.calls.count("cudaStreamBeginCapture") == 2
    assert cuda.calls.count("cudaGraphLaunch") == 2


def test_few_graphs_are_kept(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = add_engines(folder, tmp_path, builder="tensorrt")
    cuda = install_stand_in(monkeypatch, "tensorrt")
    gpu = load(folder, provider="tensorrt")
    for length in (64, *(length for length in range(1, 41) for _ in range(2))):
        gpu.run(feeds_of(gpu.manifest, length=length))
    assert cuda.calls.count("cudaStreamBeginCapture") == 40
    assert len(cuda.graphs) == 32


def test_what_cannot_be_captured_is_launched(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = add_engines(folder, tmp_path, builder="tensorrt")
    cuda = install_stand_in(monkeypatch, "tensorrt")
    cpu, gpu = load(folder, provider="cpu", threads=1), load(folder, provider="tensorrt")
    for _ in range(4):
        feeds = feeds_of(cpu.manifest)
        assert np.array_equal(gpu.run(feeds)["logits"], cpu.run(feeds)["logits"])
        for stream in cuda.streams.values():
            stream.broken = True
    assert cuda.calls.count("cudaStreamBeginCapture") == 1
    assert cuda.calls.count("cudaGraphLaunch") == 0


def test_rtx_captures_by_itself(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = add_engines(folder, tmp_path)
    cuda = install_stand_in(monkeypatch)
    gpu = load(folder, provider="tensorrt-rtx")
    strategies: list[str] = []
    real = StandInEngine.create_execution_context

    def noted(self: StandInEngine, how: Any) -> StandInContext:
        strategies.append(how.cuda_graph_strategy)
        return real(self, how)

    monkeypatch.setattr(StandInEngine, "create_execution_context", noted)
    for _ in range(3):
        gpu.run(feeds_of(gpu.manifest))
    assert strategies == ["WHOLE_GRAPH_CAPTURE"]
    assert cuda.calls.count("cudaStreamBeginCapture") == 0


# -- generation --------------------------------------------------------------------------------------------------------

PROMPTS = [[0, 41], [0, 63, 7, 9, 11, 13, 15, 210], [300], [0, 74, 85, 96], [0, 5, 5, 5, 5]]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"num_beams": 3, "num_return_sequences": 2},
    {"do_sample": True, "seed": 1, "num_return_sequences": 3, "temperature": 2.0},
    {"positions": "transformers-generate"},
]
LONGER = [profile(batch=(1, 4, 64), past_sequence=(1, 32, 64))]


@pytest.mark.parametrize("builder", BUILDERS)
@pytest.mark.parametrize("variants", [("prefill", "decode"), ("full",)], ids=str)
def test_a_decoder_gives_the_same_tokens(
    every_variant: DecoderBundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    builder: str,
    variants: tuple[str, ...],
) -> None:
    bundle = copy_decoder(every_variant, tmp_path, *variants)
    folder = add_engines(bundle.folder, tmp_path, builder=builder, profiles=LONGER)
    install_stand_in(monkeypatch, builder)
    cpu, gpu = (generator(folder, max_new_tokens=12, provider=name) for name in ("cpu", builder))
    for options in OPTIONS[: 3 if "full" in variants else 4]:  # this graph counts positions itself
        assert gpu.tokens(PROMPTS, **options) == cpu.tokens(PROMPTS, **options)


def test_an_encoder_and_a_decoder_give_the_same_text(
    encoder_decoder: DecoderBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = add_engines(encoder_decoder.folder, tmp_path, variants=("full", "encoder", "cross"), profiles=LONGER)
    install_stand_in(monkeypatch)
    texts = ["Ada Lovelace lived in London.", "Oslo", "Is this a question?"]
    cpu, gpu = (generator(folder, max_new_tokens=8, provider=name) for name in ("cpu", "tensorrt-rtx"))
    choices: list[dict[str, Any]] = [{}, {"num_beams": 3}]
    for options in choices:
        assert gpu(texts, **options) == cpu(texts, **options)


def test_generation_keeps_within_what_the_engine_takes(
    every_variant: DecoderBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = copy_decoder(every_variant, tmp_path, "prefill", "decode")
    small = profile(batch=(1, 2, 2), sequence=(1, 4, 8), past_sequence=(1, 8, 11))
    folder = add_engines(bundle.folder, tmp_path, profiles=[small])
    install_stand_in(monkeypatch)
    cpu, gpu = (generator(folder, provider=name) for name in ("cpu", "tensorrt-rtx"))
    assert gpu.tokens(PROMPTS, max_new_tokens=5) == cpu.tokens(PROMPTS, max_new_tokens=5)
    with pytest.raises(InputError, match=r"max_new_tokens is 12, .* 2 tokens .* 11.* 12"):
        gpu.tokens([[0, 41]], max_new_tokens=12)
    assert gpu.tokens([[0, 41]], max_new_tokens=11) == cpu.tokens([[0, 41]], max_new_tokens=11)


def test_a_graph_that_begins_with_an_empty_past_is_passed_over(
    causal_lm: DecoderBundle, every_variant: DecoderBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_stand_in(monkeypatch)
    with pytest.raises(InputError, match=r"with-past.* prefill and decode, or full.*--variants"):
        generator(causal_lm.folder, provider="tensorrt-rtx")
    folder = add_engines(every_variant.folder, tmp_path, variants=("prefill", "decode"), profiles=LONGER)
    decoder = generator(folder, provider="tensorrt-rtx")._decoder
    assert [decoder.prompt.graph.variant, decoder.step.graph.variant] == ["prefill", "decode"]
