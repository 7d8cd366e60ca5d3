"""Bundles that tests compile: exported as users do, but without the proof, or made by hand."""

import dataclasses
import functools
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import onnx_ir as ir
import pytest
from click.testing import CliRunner

from rpln_export import pipeline
from rpln_export.cli import export_command
from rpln_export.validation.proof import Proof
from rpln_runtime.manifest import Axis, Graph, Manifest, Source, TensorSpec, write_manifest
from tests.graphs.tensorrt.compiling import attention

Exporter = Callable[..., Path]

VARIANTS: dict[str, Sequence[str]] = {
    "text-generation": ["--variants=prefill,decode,full"],
    "text2text-generation": ["--variants=prefill,decode,full"],
}
"""The options that export all variants of a decoder that can be compiled."""


def do_not_prove(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let exports skip the proof that their graphs are right."""
    monkeypatch.setattr(pipeline, "prove", lambda *_, **__: Proof(comparisons=[], notes=[]))


def make_exporter(checkpoint: Callable[[str], Path], make_folder: Callable[[], Path]) -> Exporter:
    """Return a function that exports a task, or a checkpoint's folder, with options, and returns the bundle's folder.

    The bundle has no engines. Tests must not change it.
    """

    @functools.cache
    def export(source: str | Path, *options: str) -> Path:
        folder = make_folder() / "bundle"
        arguments = [str(source if isinstance(source, Path) else checkpoint(source)), "-o", str(folder), *options]
        result = CliRunner().invoke(export_command, [*arguments, "--engine", "none"], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return folder

    return export


def copied(bundle: Path, parent: Path) -> Path:
    """Return a copy of a bundle, which tests may change."""
    return Path(shutil.copytree(bundle, parent / "bundle"))


def ignore(*_: Any) -> None:
    """Ignore the progress of a build."""


def make_bundle(folder: Path, dtype: str = "float16") -> Path:
    """Write the smallest bundle that can be compiled, a projection and an attention, without tracing."""
    folder.mkdir(parents=True)
    model = attention({"float32": "float"}.get(dtype, dtype))
    ir.save(model, folder / "model.onnx")
    (folder / "tokenizer.json").write_text("{}")

    def specs(values: Sequence[ir.Value]) -> tuple[TensorSpec, ...]:
        names = {"b": "batch", "s": "sequence"}
        return tuple(
            TensorSpec(
                name=value.name or "",
                dtype=dtype,
                shape=tuple(size if isinstance(size, int) else names[str(size)] for size in value.shape or ()),
            )
            for value in values
        )

    graph = Graph(
        variant="full",
        path="model.onnx",
        opset=20,
        inputs=specs(model.graph.inputs),
        outputs=specs(model.graph.outputs),
    )
    write_manifest(folder, dataclasses.replace(MANIFEST, graphs=(graph,), precision=dtype, recipe=RECIPE[dtype]))
    return folder


RECIPE: Final = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
LONGEST: Final = 64
MANIFEST: Final = Manifest(
    task="an attention",  # no task of this project: the graph has none of their tensors
    graphs=(),
    axes={"batch": Axis(minimum=1, maximum=None), "sequence": Axis(minimum=1, maximum=LONGEST)},
    usable_length=LONGEST,
    vocab_size=7,
    type_vocab_size=1,
    pad_token_id=1,
    mask_token_id=None,
    problem_type=None,
    labels=(),
    precision="",
    recipe="",
    passes={},
    target="cuda",
    source=Source(name="tiny", sha256="0" * 64),
    versions={},
    validation={},
)
