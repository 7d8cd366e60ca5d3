"""Engines of every task and decoder variant in every precision, compiled for every GPU that has it."""

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from rpln_export.bundle import engines
from rpln_export.bundle.engines import build_engines, engines_of_bundle
from rpln_export.cli import export_command
from rpln_export.errors import PlanError
from rpln_export.plan import engines as engine_plans
from rpln_export.plan.engines import EnginePlan, _installed
from rpln_graphs.errors import EngineError
from rpln_graphs.tensorrt.backends import BACKENDS
from rpln_graphs.tensorrt.builder import build_engine
from rpln_runtime.engines.manifest import EngineManifest
from rpln_runtime.errors import ManifestError, MissingExtraError
from rpln_runtime.manifest import Graph, bundle_file_from_path, read_manifest
from tests.export.checkpoints import ENCODER_TASKS, LAYERS, USABLE_LENGTH, make_checkpoint
from tests.export.conftest import Traces, share_traces
from tests.export.engines import VARIANTS, Exporter, copied, do_not_prove, ignore, make_exporter
from tests.tensorrt import NEEDS_TENSORRT_RTX, targets_of_plan

pytestmark = NEEDS_TENSORRT_RTX

RTX = BACKENDS["tensorrt-rtx"]
PRECISIONS = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
QUANTIZED = {"int8-tensorrt": "int8", "fp8": "float8_e4m3fn"}
UNPACKED = {"int8-weight-only-tensorrt": "int8", "int4-tensorrt": "int4"}
"""The types of products by precision; in QUANTIZED, everything else is in fp16, and in UNPACKED all but weights."""
TYPES = PRECISIONS | QUANTIZED | UNPACKED
FOREIGN = "a decoder of another encoder"
SUBJECTS = (*ENCODER_TASKS, "text-generation", "text2text-generation", FOREIGN)
WITH_BLOCKS = ("token-classification", "text-generation", "text2text-generation")
"""An encoder and networks that have decoders, which are made wide enough for weights in blocks."""
VARIANTS_OF_SUBJECT = {
    "text-generation": ["prefill", "decode", "full"],
    "text2text-generation": ["prefill", "decode", "full", "encoder"],
    FOREIGN: ["full", "cross"],
}
LAYERS_OF_FOREIGN = 1


@pytest.fixture(scope="module", autouse=True)
def _unproven(_traces: Traces) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        do_not_prove(monkeypatch)
        share_traces(monkeypatch, _traces)
        yield


@pytest.fixture(scope="module")
def exporter(checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Exporter:
    return make_exporter(checkpoint, lambda: tmp_path_factory.mktemp("bundles"))


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a decoder that takes the hidden states of an encoder of any architecture."""
    folder = tmp_path_factory.mktemp("foreign")
    return make_checkpoint(folder, "text-generation", add_cross_attention=True, num_hidden_layers=LAYERS_OF_FOREIGN)


@pytest.fixture(
    scope="module",
    params=[
        *((subject, precision) for subject in SUBJECTS for precision in PRECISIONS),
        *((subject, precision) for subject in ENCODER_TASKS for precision in QUANTIZED),
        *((subject, "int8-weight-only-tensorrt") for subject in (*WITH_BLOCKS, FOREIGN)),
        *((subject, "int4-tensorrt") for subject in WITH_BLOCKS),
    ],
    ids="-".join,
)
def compiled(
    request: pytest.FixtureRequest, exporter: Exporter, foreign: Path, tmp_path_factory: pytest.TempPathFactory
) -> "Compiled":
    """Return a bundle with an engine of each of its graphs, for all GPUs that have the precision."""
    subject, precision = request.param
    source = subject
    if precision == "int4-tensorrt":
        source = make_checkpoint(tmp_path_factory.mktemp("wide"), subject, hidden_size=128)
    options = ["--precision", precision]
    if precision in QUANTIZED | UNPACKED:
        options += ["--min-agreement", "0"]  # networks with random weights decide by chance
    if subject == FOREIGN:
        bundle = exporter(foreign, "--task=text2text-generation", "--variants=full", *options)
    else:
        bundle = exporter(source, f"--task={subject}", *VARIANTS.get(subject, ()), *options)
    folder = copied(bundle, tmp_path_factory.mktemp("compiled"))
    targets = tuple(target for target in RTX.targets if (target, precision) not in RTX.refused)
    built = build_engines(EnginePlan(backend=RTX, targets=targets, required=True), folder, ignore)
    return Compiled(subject=subject, precision=precision, targets=targets, folder=folder, engines=built)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compiled:
    subject: str
    precision: str
    targets: tuple[str, ...]
    folder: Path
    engines: tuple[EngineManifest, ...]

    @property
    def pairs(self) -> Iterator[tuple[Graph, EngineManifest]]:
        """Each graph of the bundle, with its engine."""
        return zip(read_manifest(self.folder).graphs, self.engines, strict=True)


def test_every_graph_has_an_engine_that_says_what_it_is(compiled: Compiled) -> None:
    import tensorrt_rtx

    assert [engine.variant for engine in compiled.engines] == VARIANTS_OF_SUBJECT.get(compiled.subject, ["full"])
    files = {file.path: file for file in read_manifest(compiled.folder).files}
    for graph, engine in compiled.pairs:
        stem = f"engines/{Path(graph.path).stem}.tensorrt-rtx-{'-'.join(compiled.targets)}"
        assert (
            engine.plan
            == files[f"{stem}.plan"]
            == bundle_file_from_path(compiled.folder, compiled.folder / f"{stem}.plan")
        )
        assert f"{stem}.json" in files
        assert (engine.builder, engine.version) == ("tensorrt-rtx", tensorrt_rtx.__version__)
        assert engine.targets == compiled.targets == targets_of_plan((compiled.folder / engine.plan.path).read_bytes())
        assert (engine.hardware_compatible, engine.version_compatible, engine.stripped) == (False, False, False)
        assert engine.precision == TYPES[compiled.precision]
        # The engine names the graph that it was built from, and its weights if they are in another file.
        sources = [graph.path] + ["model.onnx.data"] * ((compiled.folder / "model.onnx.data").exists())
        assert engine.graph == tuple(files[path] for path in sources)
        assert (engine.workspace, engine.timing_cache) == (None, None)
        assert engine.weights > 0
        assert engine.seconds > 0


def test_profiles_are_the_defaults_of_the_variant(compiled: Compiled) -> None:
    free = f"1:{USABLE_LENGTH}:{USABLE_LENGTH}"
    memory = "1:128:512" if compiled.subject == FOREIGN else free
    past = f"1:{USABLE_LENGTH - 1}:{USABLE_LENGTH - 1}"
    cross = {"encoder_sequence": memory} if compiled.subject in {"text2text-generation", FOREIGN} else {}
    choices = {"choices": "1:4:8"} if compiled.subject == "multiple-choice" else {}
    expected = {
        "full": {"batch": "1:4:8", "sequence": free, **cross, **choices},
        "prefill": {"batch": "1:4:8", "sequence": free, **cross},
        "decode": {"batch": "1:4:8", "sequence": "1:1:1", "past_sequence": past, **cross},
        "encoder": {"batch": "1:4:8", "encoder_sequence": memory},
        "cross": {"batch": "1:4:8", "encoder_sequence": memory},
    }
    for engine in compiled.engines:
        (profile,) = engine.profiles
        assert {axis: str(sizes) for axis, sizes in profile.items()} == expected[engine.variant]
        assert len(engine.activations) == 1


def test_attention_is_fused_layer_by_layer(compiled: Compiled) -> None:
    layers = LAYERS_OF_FOREIGN if compiled.subject == FOREIGN else LAYERS
    crossed = 2 if compiled.subject in {"text2text-generation", FOREIGN} else 1
    expected = {"full": layers * crossed, "prefill": layers * crossed, "encoder": LAYERS, "cross": 0}
    for engine in compiled.engines:
        assert engine.attentions == (sum("mha" in layer.name for layer in engine.layers),)
        if compiled.precision == "fp32":
            assert engine.attentions == (0,)  # there is no such kernel for fp32
        elif engine.variant != "decode":  # a step may use another kernel, which is only counted
            assert engine.attentions == (expected[engine.variant],)


def test_inputs_and_outputs_are_those_of_the_bundles_manifest(compiled: Compiled) -> None:
    for graph, engine in compiled.pairs:
        taken, given = tensors_of_network(compiled.folder / graph.path)
        assert taken == {spec.name: (spec.dtype, rank(spec)) for spec in graph.inputs}
        assert given == {spec.name: (spec.dtype, rank(spec)) for spec in graph.outputs}
        # Tensors that kernels read and no kernel writes are the inputs. Ids and positions stay int64.
        assert "int64" in {name for layer in engine.layers for name in layer.inputs} or engine.variant == "cross"


def rank(spec: Any) -> int:
    return len(spec.shape)


def tensors_of_network(path: Path) -> tuple[dict[str, tuple[str, int]], dict[str, tuple[str, int]]]:
    """Return dtype and rank of inputs and outputs by name, as TensorRT's own parser reads a graph."""
    import tensorrt_rtx as trt

    names = {
        trt.DataType.FLOAT: "float32",
        trt.DataType.HALF: "float16",
        trt.DataType.BF16: "bfloat16",
        trt.DataType.INT64: "int64",
    }
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, trt.Logger(trt.Logger.ERROR))
    assert parser.parse_from_file(str(path))

    def described(count: int, get: Any) -> dict[str, tuple[str, int]]:
        tensors = [get(index) for index in range(count)]
        return {tensor.name: (names[tensor.dtype], len(tensor.shape)) for tensor in tensors}

    return described(network.num_inputs, network.get_input), described(network.num_outputs, network.get_output)


def test_every_product_is_in_the_precision(compiled: Compiled) -> None:
    asked = TYPES[compiled.precision]
    beside = set() if compiled.precision in PRECISIONS else {"float16"}
    for engine in compiled.engines:
        products = [layer for layer in engine.layers if layer.kind == "gemm"]
        assert {dtype for layer in products for dtype in layer.inputs[:2]} <= {asked, *beside}
        assert asked in {dtype for layer in engine.layers for dtype in layer.inputs}
        others = {*TYPES.values()} - {asked, "float32", *beside}
        assert others.isdisjoint({dtype for layer in engine.layers for dtype in (*layer.inputs, *layer.outputs)})


def test_the_bundle_and_its_engines_are_valid(compiled: Compiled, tmp_path: Path) -> None:
    # The engines may be listed in another order.
    found = {engine.plan.path: engine for engine in engines_of_bundle(compiled.folder)}
    assert found == {engine.plan.path: engine for engine in compiled.engines}
    folder = copied(compiled.folder, tmp_path)
    path = folder / compiled.engines[-1].plan.path
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ManifestError, match=rf"{path.name}.*SHA-256"):
        read_manifest(folder)
    path.unlink()
    with pytest.raises(ManifestError, match=rf"{path.name} is missing"):
        read_manifest(folder)


def test_the_manifest_of_an_engine_is_plain_json(compiled: Compiled) -> None:
    for engine in compiled.engines:
        document = json.loads((compiled.folder / engine.plan.path).with_suffix(".json").read_text(encoding="utf-8"))
        assert document == json.loads(json.dumps(dataclasses.asdict(engine)))


# -- the command line --------------------------------------------------------------------------------------------------

Exported = Callable[..., tuple[Result, Path]]


@pytest.fixture
def export(checkpoint: Callable[[str], Path], tmp_path: Path) -> Exported:
    """Run `rpln-export` on the checkpoint of a task, with engines unless the options say otherwise."""

    def run(task: str, *options: str) -> tuple[Result, Path]:
        chosen = [] if "--engine" in options else ["--engine", "tensorrt-rtx", "--gpu", "sm89"]
        arguments = [str(checkpoint(task)), "-o", str(tmp_path / "out"), *chosen, *options]
        return CliRunner().invoke(export_command, arguments), tmp_path / "out"

    return run


def compiled_export(export: Exported, task: str, *options: str) -> tuple[Result, Path]:
    result, folder = export(task, *options)
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    read_manifest(folder)
    return result, folder


COMPILED = "compiled, not executed: that takes a GPU"


def test_an_export_with_engines_says_what_was_compiled(export: Exported) -> None:
    profiles = ["--profile", "batch=1:8:32,sequence=1:16:64", "--profile", "batch=1,sequence=1:16:64"]
    result, folder = compiled_export(export, "token-classification", "--fp16", *profiles, "--workspace", "512")
    (engine,) = engines_of_bundle(folder)
    assert (engine.targets, engine.workspace, engine.attentions) == (("sm89",), 2**29, (LAYERS, LAYERS))
    note = f"tensorrt-rtx {engine.version}; {COMPILED}"
    assert f"engines: {note}\n" in result.stdout
    assert f"tensorrt-rtx {engine.version} for sm89: full in float16, " in result.stdout
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))["engines"]
    assert report["note"] == note
    assert report["engines"] == [json.loads(json.dumps(dataclasses.asdict(engine)))]
    text = (folder / "report.md").read_text(encoding="utf-8")
    assert f"## Engines\n\n{note}.\n" in text
    rows = [line for line in text.splitlines() if line.startswith(f"| {engine.plan.path} | sm89 | ")]
    assert [row.split(" | ")[2] for row in rows] == ["batch=1:8:32, sequence=1:16:64", "batch=1:1:1, sequence=1:16:64"]
    assert all(f" | {engine.plan.size:,} | {engine.weights:,} | " in row for row in rows)
    assert f"| {engine.plan.path} | {engine.plan.size:,} |" in text  # among the sizes
    assert "\n\n\n" not in text


def test_the_report_as_json_holds_the_engines(export: Exported) -> None:
    result, folder = compiled_export(export, "token-classification", "--fp16", "--json")
    assert json.loads(result.stdout)["engines"]["engines"][0]["plan"]["path"] == engines_of_bundle(folder)[0].plan.path


@pytest.mark.parametrize("options", [["--fp16"], ["--int8", "--min-agreement", "0"]], ids=["fp16", "int8"])
def test_a_decoder_is_exported_as_what_can_be_compiled(export: Exported, options: list[str]) -> None:
    _, folder = compiled_export(export, "text-generation", *options)
    assert [graph.variant for graph in read_manifest(folder).graphs] == ["prefill", "decode"]
    assert [engine.variant for engine in engines_of_bundle(folder)] == ["decode", "prefill"]


@pytest.fixture
def auto(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let --engine auto look for TensorRT, on a machine without a GPU."""
    monkeypatch.setattr(engine_plans, "_installed", _installed)
    monkeypatch.setattr(engine_plans, "device_target", lambda: None)


@pytest.mark.usefixtures("auto")
def test_auto_builds_with_what_is_installed(export: Exported) -> None:
    result, folder = compiled_export(export, "token-classification", "--bf16", "--engine", "auto")
    (engine,) = engines_of_bundle(folder)
    assert (engine.targets, engine.precision) == (RTX.default_targets, "bfloat16")
    assert f"engines: tensorrt-rtx {engine.version}; {COMPILED}\n" in result.stdout


def assert_no_engine(result: Result, folder: Path, note: str) -> None:
    """Check that the bundle has no engines, is valid, and that one line says why."""
    assert [line for line in result.stdout.splitlines() if line.startswith("engines: ")] == [f"engines: {note}"]
    assert f"## Engines\n\n{note}.\n" in (folder / "report.md").read_text(encoding="utf-8")
    assert engines_of_bundle(folder) == []
    assert not (folder / "engines").exists()


def test_without_tensorrt_a_line_says_how_to_get_it(export: Exported) -> None:
    result, folder = compiled_export(export, "token-classification", "--engine", "auto")
    assert_no_engine(result, folder, f"no TensorRT is installed. To build engines: {RTX.install}")


@pytest.mark.usefixtures("auto")
@pytest.mark.parametrize("error", [EngineError("it is as it is"), MissingExtraError("no library")])
def test_if_auto_cannot_build_an_engine_all_are_left_out(
    export: Exported, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    built: list[Path] = []

    def second_fails(graph: Path, *arguments: Any, **options: Any) -> Any:
        built.append(graph)
        if len(built) == 2:
            raise error
        return build_engine(graph, *arguments, **options)

    monkeypatch.setattr(engines, "build_engine", second_fails)
    options = ["--fp16", "--variants", "prefill,decode", "--engine", "auto"]
    result, folder = compiled_export(export, "text-generation", *options)
    assert [path.name for path in built] == ["prefill.onnx", "decode.onnx"]
    assert_no_engine(result, folder, f"no engine: {error}")


@pytest.mark.usefixtures("auto")
def test_auto_does_not_leave_out_an_engine_with_options(export: Exported) -> None:
    result, folder = export("text-generation", "--variants", "with-past", "--engine", "auto", "--gpu", "sm89")
    assert (result.exit_code, folder.exists()) == (PlanError.exit_code, False)
    assert "--variants prefill,decode" in result.stderr


def test_an_engine_that_cannot_be_built_fails_the_export(export: Exported) -> None:
    result, folder = export("token-classification", "--fp16", "--workspace", "1")
    assert result.exit_code == EngineError.exit_code
    assert "within workspace limit" in result.stderr
    assert "Traceback" not in result.output
    assert list(folder.parent.iterdir()) == []


def test_graphs_in_the_forms_for_tensorrt_are_compiled(export: Exported) -> None:
    # One Attention replaces products and softmax, and one projection replaces three.
    _, folder = compiled_export(
        export, "token-classification", "--fp16", "--optimize", "attention", "--target", "tensorrt"
    )
    (engine,) = engines_of_bundle(folder)
    assert engine.attentions == (LAYERS,)


# -- optional inputs and outputs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "attentions"),
    [
        (
            [
                "--inputs=inputs_embeds,position_ids,token_type_ids",
                "--outputs=hidden_states,pooler_output",
                "--io-dtype=fp16",
            ],
            LAYERS,
        ),
        # The head mask is multiplied between softmax and product, and no fused kernel computes that.
        (["--inputs=head_mask"], 0),
        # A fused kernel does not write attention probabilities.
        (["--outputs=attentions"], 0),
    ],
    ids=["embeddings and states", "head mask", "attention weights"],
)
def test_optional_inputs_and_outputs_are_compiled(export: Exported, options: list[str], attentions: int) -> None:
    _, folder = compiled_export(export, "feature-extraction", "--fp16", *options)
    (engine,) = engines_of_bundle(folder)
    (graph,) = read_manifest(folder).graphs
    taken, given = tensors_of_network(folder / graph.path)
    assert taken == {spec.name: (spec.dtype, rank(spec)) for spec in graph.inputs}
    assert given == {spec.name: (spec.dtype, rank(spec)) for spec in graph.outputs}
    assert engine.attentions == (attentions,)
    assert engine.precision == "float16"
