"""ENCODERS and WRITERS: what is measured, one row each. The first of each is the reference.

A maker takes the site and the feeds of a case. What it returns runs the case once, from numpy arrays to a numpy array:
the logits of an encoder, or the tokens that a decoder writes.
"""

import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from benchmarks.encoder_cases import Network
from benchmarks.gpu.device import Device
from benchmarks.gpu.networks import hankel_model

NEW_TOKENS: Final = 64
"""How many tokens a decoder writes."""

PROFILE: Final = "batch=1:8:32,sequence=1:128:384"
"""The sizes that engines are built for: those of all cases."""

Feeds = Mapping[str, np.ndarray]


class Site(NamedTuple):
    """Where contenders are made: the folder of the bundles, the network that they hold, and the device."""

    folder: Path
    network: Network
    device: Device


Maker = Callable[[Site, Feeds], Callable[[], np.ndarray]]


class Unavailable(Exception):  # noqa: N818 # it says what is so
    """Why a contender does not take part in a case."""


# -- torch -------------------------------------------------------------------------------------------------------------


def torch_encoder(
    site: Site, feeds: Feeds, *, dtype: str, compiled: bool = False, flash: bool = False
) -> Callable[[], np.ndarray]:
    """Return transformers' own model with scaled_dot_product_attention. Without padding, it gets no mask."""
    import torch

    padded = not feeds["attention_mask"].all()
    if flash and padded:
        raise Unavailable("torch's flash attention takes no mask")
    if flash and site.device.torch == "cpu":
        raise Unavailable("torch's flash attention is for GPUs")
    if compiled and not any(map(shutil.which, ("c++", "g++", "clang++"))):
        raise Unavailable("torch.compile needs a C++ compiler")
    model = torch_model(site.network, site.device, dtype)
    run = torch.compile(model, dynamic=False) if compiled else model
    names = ("input_ids", "attention_mask") if padded else ("input_ids",)

    def once() -> np.ndarray:
        with torch.inference_mode(), _flash() if flash else nullcontext():
            logits = run(**{name: torch.from_numpy(feeds[name]).to(site.device.torch) for name in names}).logits
        return np.asarray(logits.float().cpu().numpy())

    return once


def torch_writer(site: Site, feeds: Feeds, *, dtype: str) -> Callable[[], np.ndarray]:
    """Return transformers' own generate with its cache, which writes NEW_TOKENS by greedy search."""
    import torch

    model = torch_model(site.network, site.device, dtype)

    def once() -> np.ndarray:
        batch = {name: torch.from_numpy(array).to(site.device.torch) for name, array in feeds.items()}
        with torch.inference_mode():
            written = model.generate(
                **batch, do_sample=False, num_beams=1, min_new_tokens=NEW_TOKENS, max_new_tokens=NEW_TOKENS
            )
        return np.asarray(written[:, -NEW_TOKENS:].cpu().numpy())

    return once


@cache
def torch_model(network: Network, device: Device, dtype: str) -> Any:
    """Return transformers' own model of a network on the device; on a CPU, which has no fast half types, in fp32."""
    import torch

    kept = getattr(torch, dtype if device.torch == "cuda" else "float32")
    return hankel_model(network).to(device=device.torch, dtype=kept)


def _flash() -> AbstractContextManager[None]:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    kernel: AbstractContextManager[None] = sdpa_kernel(SDPBackend.FLASH_ATTENTION)
    return kernel


# -- this project ------------------------------------------------------------------------------------------------------


def our_encoder(site: Site, feeds: Feeds, *, form: str, on_mixed: bool = False) -> Callable[[], np.ndarray]:
    """Return a bundle as `rpln_runtime.load` opens it."""
    if on_mixed and feeds["attention_mask"].all():
        raise Unavailable("there is no padding to skip")
    session = open_bundle(site.folder / f"tagger-fp16-{form}", site.device)
    return lambda: np.asarray(session.run(feeds, outputs=["logits"])["logits"])


def our_graph(site: Site, feeds: Feeds, *, form: str, captured: bool) -> Callable[[], np.ndarray]:
    """Return the graph of a bundle with inputs and outputs in the device's memory, perhaps captured as a CUDA graph."""
    import onnxruntime

    from rpln_runtime.engines.providers import PROVIDERS

    if not site.device.has_graphs:
        raise Unavailable("it is for GPUs")
    bundle = site.folder / f"tagger-fp16-{form}"
    opened = open_bundle(bundle, site.device)
    files = [row.file for row in opened.graph.rewritten if site.device.provider in row.providers]
    row = PROVIDERS[site.device.provider]
    options = {**row.options, "enable_cuda_graph": "1" if captured else "0"}
    path = str(bundle / (files[0] if files else opened.graph.file))
    session = onnxruntime.InferenceSession(path, providers=[(row.onnxruntime_name, options)])
    binding = session.io_binding()
    inputs = {name: onnxruntime.OrtValue.ortvalue_from_numpy(feeds[name], site.device.torch, 0) for name in feeds}
    for name, value in inputs.items():
        binding.bind_ortvalue_input(name, value)
    logits = np.asarray(opened.run(feeds, outputs=["logits"])["logits"])
    output = onnxruntime.OrtValue.ortvalue_from_numpy(logits, site.device.torch, 0)
    binding.bind_ortvalue_output("logits", output)

    def once() -> np.ndarray:
        for name, value in inputs.items():
            value.update_inplace(feeds[name])
        session.run_with_iobinding(binding)
        return np.asarray(output.numpy())

    try:
        once()
    except Exception as error:  # ONNX Runtime's classes have no base but this one
        raise Unavailable(f"ONNX Runtime refused: {error}") from error
    return once


def our_engine(site: Site, feeds: Feeds, *, backend: str) -> Callable[[], np.ndarray]:
    """Return the bundle with an engine of one of the two TensorRTs, which is built here."""
    from rpln_graphs.tensorrt.backends import BACKENDS, device_target

    if not site.device.has_graphs:
        raise Unavailable("it is for GPUs")
    row = BACKENDS[backend]
    if find_spec(row.module) is None:
        raise Unavailable(f"{backend} is not installed")
    if row.targets and device_target() not in row.targets:
        raise Unavailable(f"{backend} has no kernels for {device_target()}, only for {', '.join(row.targets)}")
    session = open_engine(site.folder / "tagger-fp16-standard", backend)
    if isinstance(session, Unavailable):
        raise session
    return lambda: np.asarray(session.run(feeds, outputs=["logits"])["logits"])


@cache
def open_engine(bundle: Path, backend: str) -> Any:
    """Build an engine into a copy of the bundle, once, and return its session, or why it was not built."""
    from click.testing import CliRunner

    from rpln_export.cli import rpln_command
    from rpln_runtime import load

    copy = Path(tempfile.mkdtemp()) / "bundle"
    shutil.copytree(bundle, copy)
    built = CliRunner().invoke(rpln_command, ["build", str(copy), "--engine", backend, "--profile", PROFILE])
    if built.exit_code:
        return Unavailable(f"{backend} built no engine: {built.output}")
    return load(copy, provider=backend)


def our_writer(site: Site, feeds: Feeds) -> Callable[[], np.ndarray]:
    """Return `rpln_runtime.generator`, which writes NEW_TOKENS by greedy search, with a cache bound on the device."""
    from rpln_runtime import generator

    generate = generator(
        site.folder / "writer-fp16-standard",
        provider=site.device.provider,
        positions="transformers-generate",
        do_sample=False,
        num_beams=1,
        stop_token_ids=(),
        max_new_tokens=NEW_TOKENS,
        batch_size=len(feeds["input_ids"]),
    )
    prompts = feeds["input_ids"].tolist()
    return lambda: np.array([answers[0].tokens for answers in generate.tokens(prompts)])


@cache
def open_bundle(folder: Path, device: Device) -> Any:
    """Return the session of a bundle, opened once."""
    from rpln_runtime import load

    return load(folder, provider=device.provider)


ENCODERS: Final[Mapping[str, Maker]] = {
    "torch fp16": partial(torch_encoder, dtype="float16"),
    "torch.compile fp16": partial(torch_encoder, dtype="float16", compiled=True),
    "torch bf16, flash attention": partial(torch_encoder, dtype="bfloat16", flash=True),
    "ours, standard": partial(our_encoder, form="standard"),
    "ours, fused": partial(our_encoder, form="fused"),
    "ours, packed": partial(our_encoder, form="packed", on_mixed=True),
    "ours, fused, bound": partial(our_graph, form="fused", captured=False),
    "ours, fused, CUDA graph": partial(our_graph, form="fused", captured=True),
    "ours, standard, CUDA graph": partial(our_graph, form="standard", captured=True),
    "ours, TensorRT": partial(our_engine, backend="tensorrt"),
    "ours, TensorRT-RTX": partial(our_engine, backend="tensorrt-rtx"),
}
WRITERS: Final[Mapping[str, Maker]] = {
    "torch fp16": partial(torch_writer, dtype="float16"),
    "ours": our_writer,
}
