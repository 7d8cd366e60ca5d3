"""`rpln build` and `rpln engine` on a finished bundle, which stays valid whatever stops them."""

import dataclasses
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from rpln_export.bundle import engines
from rpln_export.bundle.engines import EnginesBuilt, build_engines, engines_of_bundle, export_engines
from rpln_export.cli import INTERRUPTED, rpln_command
from rpln_export.errors import DestinationError, PlanError
from rpln_export.plan.engines import EnginePlan
from rpln_graphs.errors import EngineError
from rpln_graphs.tensorrt.backends import BACKENDS
from rpln_graphs.tensorrt.builder import BuiltEngine, build_engine
from rpln_runtime.engines.manifest import EngineManifest, Range
from rpln_runtime.errors import ManifestError
from rpln_runtime.manifest import read_manifest, write_manifest
from tests.export.engines import RECIPE, copied, ignore, make_bundle
from tests.tensorrt import NEEDS_TENSORRT_RTX

pytestmark = NEEDS_TENSORRT_RTX

RTX = BACKENDS["tensorrt-rtx"]
USAGE = 2
NAME = "engines/model.tensorrt-rtx-sm89"
PLAN = EnginePlan(backend=RTX, targets=("sm89",), required=True)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bare") / "bundle")


@pytest.fixture(scope="module")
def compiled(bare: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = copied(bare, tmp_path_factory.mktemp("compiled"))
    build_engines(PLAN, folder, ignore)
    return folder


@pytest.fixture
def folder(bare: Path, tmp_path: Path) -> Path:
    """Return a bundle without engines, which the test may change."""
    return copied(bare, tmp_path)


def build(folder: Path, *options: str) -> Result:
    return CliRunner().invoke(rpln_command, ["build", str(folder), *options])


def built(folder: Path, *options: str) -> list[EngineManifest]:
    result = build(folder, "--engine", "tensorrt-rtx", *options)
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    read_manifest(folder)
    return engines_of_bundle(folder)


# -- the commands ------------------------------------------------------------------------------------------------------


def test_an_engine_is_added_to_the_bundle(folder: Path) -> None:
    before = read_manifest(folder)
    (engine,) = built(folder, "--gpu", "sm89")
    after = read_manifest(folder)
    assert dataclasses.replace(after, files=()) == dataclasses.replace(before, files=())
    added = {file.path for file in after.files} - {file.path for file in before.files}
    assert added == {f"{NAME}.plan", f"{NAME}.json"}
    assert engine.plan.path == f"{NAME}.plan"
    assert [path.name for path in folder.parent.iterdir()] == ["bundle"]


def test_options_reach_the_builder_and_the_manifest(folder: Path) -> None:
    profiles = ["--profile", "batch=1:2:4,sequence=1:8:16", "--profile", "batch=1,sequence=1"]
    (engine,) = built(folder, "--gpu", "sm80,sm89", *profiles, "--workspace", "512")
    assert engine.targets == ("sm80", "sm89")
    assert engine.workspace == 512 * 2**20
    assert [{axis: str(sizes) for axis, sizes in profile.items()} for profile in engine.profiles] == [
        {"batch": "1:2:4", "sequence": "1:8:16"},
        {"batch": "1:1:1", "sequence": "1:1:1"},
    ]
    # In the second profile, a token attends only to itself, and nothing has to be fused.
    assert engine.attentions[0] == 1
    assert len(engine.activations) == 2
    assert {layer.profile for layer in engine.layers} == {0, 1}


def test_engines_of_several_gpus_are_side_by_side_and_the_same_is_replaced(folder: Path) -> None:
    built(folder, "--gpu", "sm89")
    built(folder, "--gpu", "sm80", "--profile", "sequence=8")
    paths = ["engines/model.tensorrt-rtx-sm80.plan", f"{NAME}.plan"]
    assert [engine.plan.path for engine in engines_of_bundle(folder)] == paths
    found = built(folder, "--gpu", "sm89", "--profile", "sequence=4")
    assert [engine.plan.path for engine in found] == paths
    assert [str(engine.profiles[0]["sequence"]) for engine in found] == ["8:8:8", "4:4:4"]


@pytest.mark.parametrize("dtype", RECIPE)
def test_the_precision_of_the_bundle_is_that_of_its_engine(tmp_path: Path, dtype: str) -> None:
    folder = make_bundle(tmp_path / "bundle", dtype)
    (engine,) = built(folder)
    assert engine.precision == dtype
    refused = build(folder, "--engine", "tensorrt-rtx", "--gpu", "sm75")
    if dtype == "float16":
        assert refused.exit_code == 0
    else:
        assert (refused.exit_code, f"does not build {RECIPE[dtype]} engines" in refused.stderr) == (USAGE, True)


def test_a_graph_whose_weights_all_stayed_as_they_are_multiplies_in_fp16(folder: Path) -> None:
    # The gate may leave out all that one of a decoder's graphs has.
    write_manifest(folder, dataclasses.replace(read_manifest(folder), recipe="int4-tensorrt"))
    (engine,) = built(folder)
    assert (engine.precision, engine.targets) == ("float16", RTX.default_targets)


def test_engines_are_printed_as_a_table_and_as_json(folder: Path) -> None:
    result = build(folder, "--engine", "tensorrt-rtx", "--gpu", "sm89", "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    document = json.loads(result.stdout)
    assert document == json.loads(f"[{(folder / f'{NAME}.json').read_text(encoding='utf-8')}]")
    shown = CliRunner().invoke(rpln_command, ["engine", str(folder), "--json"])
    assert (shown.exit_code, json.loads(shown.stdout)) == (0, document)
    table = CliRunner().invoke(rpln_command, ["engine", str(folder)])
    (engine,) = engines_of_bundle(folder)
    words = (
        f"{NAME}.plan",
        f"tensorrt-rtx {engine.version} for sm89: full in float16",
        "batch=1:4:8, sequence=1:64:64",
        *(layer.name for layer in engine.layers if len(layer.name) < 20),
        "softmax",
    )
    assert [word for word in words if word not in table.stdout] == []


def test_a_bundle_without_engines_says_how_to_get_some(folder: Path) -> None:
    result = CliRunner().invoke(rpln_command, ["engine", str(folder)])
    assert (result.exit_code, result.stdout) == (
        0,
        "This bundle has no engines. To add some, run: rpln build FOLDER --engine tensorrt-rtx\n",
    )
    assert json.loads(CliRunner().invoke(rpln_command, ["engine", str(folder), "--json"]).stdout) == []


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        ([], USAGE, "Missing option '--engine'"),
        (["--engine", "none"], USAGE, "nothing to build: none was asked for (--engine none)"),
        (["--engine", "auto"], USAGE, "nothing to build: no TensorRT is installed."),
        (["--engine", "tensorrt-rtx", "--gpu", "sm90"], USAGE, "--gpu sm90"),
        (["--engine", "tensorrt-rtx", "--profile", "sequence=65"], USAGE, "takes at most 64 there"),
        (["--engine", "tensorrt-rtx", "--profile", "x=1"], USAGE, "'x', which is an input"),
        (["--engine", "tensorrt-rtx", "--workspace", "99999999999999999"], USAGE, "is not in the range"),
        (["--engine", "tensorrt-rtx", "--workspace", "1"], EngineError.exit_code, "within workspace limit"),
    ],
)
def test_what_cannot_be_built_leaves_the_bundle_as_it_was(
    folder: Path, options: list[str], code: int, says: str
) -> None:
    before = contents(folder.parent)
    result = build(folder, *options)
    assert result.exit_code == code, result.output
    assert says in result.stderr
    assert contents(folder.parent) == before


def test_what_is_no_bundle_is_refused(tmp_path: Path) -> None:
    for command in (["build", str(tmp_path), "--engine", "tensorrt-rtx"], ["engine", str(tmp_path)]):
        result = CliRunner().invoke(rpln_command, command)
        assert result.exit_code == ManifestError.exit_code
        assert "Make one with rpln-export" in result.stderr


def test_an_altered_graph_is_not_compiled(folder: Path) -> None:
    path = folder / "model.onnx"
    path.write_bytes(path.read_bytes() + b"\0")
    result = build(folder, "--engine", "tensorrt-rtx")
    assert result.exit_code == ManifestError.exit_code
    assert not (folder / "engines").exists()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# -- what the engine turns out to be -----------------------------------------------------------------------------------


Change = Callable[[BuiltEngine], BuiltEngine]


def in_fp32(plan: BuiltEngine) -> BuiltEngine:
    """Return the kernels with the projection computed in fp32."""
    return dataclasses.replace(
        plan,
        layers=tuple(
            dataclasses.replace(one, inputs=("float32", "float32")) if "product" in one.nodes else one
            for one in plan.layers
        ),
    )


def unfused(plan: BuiltEngine) -> BuiltEngine:
    """Return the kernels with a separate one for the last product of the attention."""
    own = dataclasses.replace(plan.layers[-1], name="own", nodes=("y",), inputs=("float16",))
    others = (dataclasses.replace(one, nodes=tuple(name for name in one.nodes if name != "y")) for one in plan.layers)
    return dataclasses.replace(plan, layers=(*others, own))


@pytest.fixture
def building(monkeypatch: pytest.MonkeyPatch) -> Callable[[Change], None]:
    """Return a function that changes what is read of every engine that is built."""
    original = build_engine

    def change(by: Change) -> None:
        monkeypatch.setattr(engines, "build_engine", lambda *args, **options: by(original(*args, **options)))

    return change


def test_an_engine_that_multiplies_in_another_type_is_refused(folder: Path, building: Callable[[Change], None]) -> None:
    building(in_fp32)
    before = contents(folder)
    result = build(folder, "--engine", "tensorrt-rtx", "--allow-partial-fusion")
    assert result.exit_code == EngineError.exit_code
    assert "product (float16: float32)" in result.stderr
    assert contents(folder) == before


def test_an_engine_of_another_type_than_the_bundle_is_refused(folder: Path) -> None:
    manifest = dataclasses.replace(read_manifest(folder), precision="bfloat16")
    write_manifest(folder, manifest)
    result = build(folder, "--engine", "tensorrt-rtx")
    assert result.exit_code == EngineError.exit_code
    for fact in ("engine of model.onnx", "float16,", "bfloat16"):
        assert fact in result.stderr


def test_attention_in_several_kernels_is_refused_by_name_unless_allowed(
    folder: Path, building: Callable[[Change], None]
) -> None:
    building(unfused)
    result = build(folder, "--engine", "tensorrt-rtx")
    assert result.exit_code == EngineError.exit_code
    for fact in ("1 attentions", "profile 0: softmax", "--allow-partial-fusion"):
        assert fact in result.stderr
    assert engines_of_bundle(folder) == []
    (engine,) = built(folder, "--allow-partial-fusion")
    assert engine.attentions == (0,)


def test_fp32_has_no_fused_attention_and_one_token_need_not(
    tmp_path: Path, folder: Path, building: Callable[[Change], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    building(unfused)
    (engine,) = built(folder, "--profile", "sequence=1")
    assert engine.attentions == (0,)
    monkeypatch.undo()
    (engine,) = built(make_bundle(tmp_path / "fp32", "float32"))
    assert engine.attentions == (0,)


def test_auto_says_in_one_line_why_a_graph_is_not_compiled(folder: Path) -> None:
    manifest = read_manifest(folder)
    graph = dataclasses.replace(manifest.graphs[0], variant="with-past")
    described = dataclasses.replace(manifest, graphs=(graph,))
    result = export_engines(dataclasses.replace(PLAN, required=False), folder, described, ignore, allow_partial=False)
    assert result == EnginesBuilt(
        note="no engine by tensorrt-rtx: TensorRT allows no empty past, so prompt and steps need a graph each: "
        "--variants prefill,decode"
    )


# -- interruptions -----------------------------------------------------------------------------------------------------


class Stop(BaseException):
    """Stands for a kill: code that handles errors does not catch it."""


STEPS = {
    "a file moves": (Path, "replace"),
    "a file goes": (Path, "unlink"),
    "a manifest is written": (engines, "write_manifest"),
    "a plan is written": (Path, "write_bytes"),
    "an engine is described": (engines, "write_engine"),
    "a graph is compiled": (engines, "build_engine"),
}


def stop_at(monkeypatch: pytest.MonkeyPatch, step: str, number: int, *, after: bool) -> None:
    """Raise Stop before or after the n-th time that a step is done."""
    place, name = STEPS[step]
    original = getattr(place, name)
    taken = 0

    def counted(*args: Any, **options: Any) -> Any:
        nonlocal taken
        taken += 1
        if taken == number and not after:
            raise Stop
        result = original(*args, **options)
        if taken == number:
            raise Stop
        return result

    monkeypatch.setattr(place, name, counted)


@pytest.fixture
def compiled_once(compiled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let builds take no time. Their engines differ in their shapes."""
    (engine,) = engines_of_bundle(compiled)

    def remembered(graph: Path, profiles: Sequence[Any], **_: Any) -> BuiltEngine:
        return BuiltEngine(
            data=memoryview(repr(profiles).encode()),
            version=engine.version,
            layers=engine.layers,
            weights=engine.weights,
            activations=engine.activations,
            seconds=engine.seconds,
            timings=None,
        )

    monkeypatch.setattr(engines, "build_engine", remembered)


@pytest.mark.usefixtures("compiled_once")
@pytest.mark.parametrize("after", [False, True], ids=["before", "behind"])
@pytest.mark.parametrize(("step", "number"), [(step, number) for step in STEPS for number in range(1, 6)])
def test_a_build_that_is_stopped_leaves_a_bundle(
    compiled: Path, tmp_path: Path, step: str, number: int, after: bool
) -> None:
    folder = copied(compiled, tmp_path)
    plan = dataclasses.replace(PLAN, profiles=({"sequence": Range(minimum=1, optimum=4, maximum=8)},))
    with pytest.MonkeyPatch.context() as monkeypatch:
        stop_at(monkeypatch, step, number, after=after)
        try:
            build_engines(plan, folder, ignore)
            finished = True
        except Stop:
            finished = False
    # The bundle has the old engine, the new one, or none.
    found = {str(engine.profiles[0]["sequence"]) for engine in engines_of_bundle(folder)}
    assert found in ([{"1:4:8"}] if finished else [{"1:64:64"}, {"1:4:8"}, set()])
    assert_whole(folder)
    # The next builds are not obstructed by what was left.
    build_engines(dataclasses.replace(PLAN, targets=("sm80",)), folder, ignore)
    assert_whole(folder)
    build_engines(plan, folder, ignore)
    assert_whole(folder)
    assert [engine.targets for engine in engines_of_bundle(folder)] == [("sm80",), ("sm89",)]
    assert str(engines_of_bundle(folder)[1].profiles[0]["sequence"]) == "1:4:8"


def test_the_next_build_removes_what_a_killed_one_left(compiled: Path, compiled_once: None, tmp_path: Path) -> None:
    folder = copied(compiled, tmp_path)
    names = {path.name for path in folder.iterdir()}
    left = folder / ".engines.0123abcd.partial"
    (left / "new").mkdir(parents=True)
    (left / "lock").touch()
    build_engines(PLAN, folder, ignore)
    assert {path.name for path in folder.iterdir()} == names


def assert_whole(folder: Path) -> None:
    """Check that every file is what the manifest says, and every plan what its engine's manifest says."""
    manifest = read_manifest(folder)
    for engine in engines_of_bundle(folder):
        assert engine.plan in manifest.files


def test_the_steps_are_those_that_a_build_takes(
    compiled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[str] = []
    for step, (place, name) in STEPS.items():
        original = getattr(place, name)

        def noted(*args: Any, step: str = step, original: Any = original, **options: Any) -> Any:
            taken.append(step)
            return original(*args, **options)

        monkeypatch.setattr(place, name, noted)
    build_engines(PLAN, copied(compiled, tmp_path), ignore)
    counts = {step: taken.count(step) for step in STEPS}
    assert all(1 <= count <= 5 for count in counts.values()), counts


def test_an_interrupt_is_reported_in_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> Iterator[None]:
        raise KeyboardInterrupt

    monkeypatch.setattr(engines, "build_engine", interrupted)
    before = contents(folder.parent)
    result = build(folder, "--engine", "tensorrt-rtx")
    assert (result.exit_code, result.stdout) == (INTERRUPTED, "")
    assert result.stderr.startswith("Interrupted: ")
    assert contents(folder.parent) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write to any folder")
def test_a_folder_that_is_read_only_is_left_alone(folder: Path) -> None:
    folder.chmod(0o555)
    try:
        with pytest.raises(DestinationError, match="cannot be written"):
            build_engines(PLAN, folder, ignore)
    finally:
        folder.chmod(0o755)
    assert engines_of_bundle(folder) == []


@pytest.mark.parametrize("step", ["a file moves", "a plan is written", "an engine is described"])
def test_a_full_disk_is_reported_and_harms_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(*STEPS[step], full)
    result = build(folder, "--engine", "tensorrt-rtx")
    monkeypatch.undo()
    assert result.exit_code == DestinationError.exit_code, result.output
    assert str(folder) in result.stderr
    assert os.strerror(28) in result.stderr
    assert engines_of_bundle(folder) == []
    assert [path.name for path in folder.parent.iterdir()] == ["bundle"]


def test_a_profile_is_checked_before_anything_is_compiled(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "build_engine", None)
    plan = dataclasses.replace(PLAN, profiles=({"colour": Range(minimum=1, optimum=1, maximum=1)},))
    with pytest.raises(PlanError, match="'colour', which is no axis"):
        build_engines(plan, folder, ignore)
