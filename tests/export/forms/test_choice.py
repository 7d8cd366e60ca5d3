"""Which form is exported: the fastest of a measurement, a form that is named, or the default. Each is proven.

The figures of the measurements are made up.
"""

import dataclasses
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import pytest
from click.testing import CliRunner, Result

from rpln_export import pipeline
from rpln_export.cli import export_command, rpln_command
from rpln_export.errors import PlanError
from rpln_export.forms import graph_forms
from rpln_export.forms.candidates import UNCLEAR, Settings
from rpln_export.forms.choice import Measurements, choose_forms
from rpln_export.forms.speeds import Speed
from rpln_export.plan.export_plan import make_plan
from rpln_export.plan.workloads import WORKLOADS, workload_from_file
from rpln_export.validation import proof
from rpln_export.validation.proof import Proof, ProofRefusal
from rpln_graphs.forms import Form, write_form
from rpln_graphs.recipes import Recipe
from rpln_graphs.rewriting.traits import GraphTraits
from rpln_graphs.tolerances import RangeTolerance
from rpln_runtime import load, session
from rpln_runtime.engines.providers import open_engine
from rpln_runtime.manifest import Candidate, Manifest, Rewritten, read_manifest
from tests.export.conftest import Export
from tests.export.sabotage import scaled

TASK = "token-classification"


def candidate(
    form: str, speedup: float | None, provider: str = "cpu", variant: str = "full", *, noise: float = 0.01
) -> Candidate:
    if speedup is None:
        return Candidate(variant=variant, form=form, provider=provider, speedup=None, outcome="not there")
    ends = (1.0, 1.0) if speedup == 1.0 else (speedup * (1 - noise), speedup * (1 + noise))
    speed = Speed(median=speedup, low=ends[0], high=ends[1])
    return Candidate(
        variant=variant,
        form=form,
        provider=provider,
        speedup=speed.median,
        outcome=UNCLEAR if speed.is_unclear else "measured",
        speedup_low=speed.low,
        speedup_high=speed.high,
    )


def measurements(*rows: Candidate) -> Measurements:
    return Measurements(candidates=rows, settings=Settings(threads=1, spinning=False))


# -- who wins --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "winner"),
    [
        ([("standard", 1.0), ("fused", 1.2)], "fused"),
        ([("standard", 1.0), ("fused", 1.035)], "standard"),
        ([("fused", 1.035), ("standard", 1.0)], "standard"),
        ([("standard", 1.0), ("fused", 1.2), ("packed", 1.24)], "fused"),
        ([("standard", 1.0), ("fused", 1.2), ("packed", 1.3)], "packed"),
        ([("standard", 1.0), ("fused", 0.5)], "standard"),
        ([("standard", None), ("fused", 1.1)], "fused"),
    ],
)
def test_a_form_is_chosen_only_if_it_is_clearly_faster(rows: Sequence[tuple[str, float]], winner: str) -> None:
    best = measurements(*(candidate(*row) for row in rows)).fastest("full", "cpu")

    assert best is not None
    assert best.form == winner


def test_nothing_is_chosen_if_nothing_ran() -> None:
    assert measurements(candidate("standard", None)).fastest("full", "cpu") is None
    assert measurements(candidate("standard", None)).provider == "cpu"
    assert Measurements(why_not="no").provider == "cpu"


@pytest.mark.parametrize(("speedup", "provider"), [(1.3, "openvino"), (1.22, "cpu"), (1.0, "cpu")])
def test_another_provider_must_beat_the_best_form_on_the_cpu(speedup: float, provider: str) -> None:
    rows = (candidate("standard", 1.0), candidate("fused", 1.2), candidate("standard", speedup, "openvino"))

    assert measurements(*rows).provider == provider


def test_the_record_keeps_what_another_provider_gains_in_elapsed_time(checkpoint: Callable[[str], Path]) -> None:
    gain = "; 1.30 (1.28 to 1.32) in elapsed time"
    other = dataclasses.replace(candidate("standard", 1.0, "openvino"), outcome=f"measured{gain}")
    rows = measurements(candidate("standard", 1.0), candidate("attention", 1.1), other)

    record = choose_forms(make_plan(str(checkpoint(TASK)), task=TASK), [], rows).record

    assert [row.outcome for row in record.candidates] == ["measured", "chosen", f"the fastest on its provider{gain}"]


def test_int8_that_is_slower_than_fp32_is_said_to_be(checkpoint: Callable[[str], Path]) -> None:
    plan = make_plan(str(checkpoint(TASK)), task=TASK, precision="int8")
    notes = {
        speed: choose_forms(plan, [], measurements(candidate("dynamic", speed))).record.note for speed in (0.5, 1.5)
    }

    slower = "every form that was measured is slower here than the graph in fp32"
    assert {speed: slower in note for speed, note in notes.items()} == {0.5: True, 1.5: False}


@pytest.mark.parametrize(
    ("noise", "speed", "chosen", "unclear"),
    [(0.08, 1.28, "static", True), (0.01, 1.28, "dynamic", False), (0.01, 1.17, "static", False)],
)
def test_int8_that_may_be_faster_than_what_is_kept_is_named(
    checkpoint: Callable[[str], Path], noise: float, speed: float, chosen: str, unclear: bool
) -> None:
    plan = make_plan(str(checkpoint(TASK)), task=TASK, precision="int8")
    rows = [candidate("dynamic", speed, noise=noise), candidate("static", 1.16, noise=noise)]
    record = choose_forms(plan, [], dataclasses.replace(measurements(*rows), standard="static")).record

    assert [row.form for row in record.candidates if row.outcome == "chosen"] == [chosen]
    told = "dynamic on cpu measured 1.28, but the machine was too busy, or the time too short, to tell it from static"
    assert (told in record.note) == unclear
    assert ("the fastest form on this machine" in record.note) == (chosen == "dynamic")


def test_a_provider_that_may_be_faster_is_named_without_a_form_to_ask_for(checkpoint: Callable[[str], Path]) -> None:
    rows = measurements(candidate("standard", 1.0), candidate("standard", 1.3, "openvino", noise=0.4))
    note = choose_forms(make_plan(str(checkpoint(TASK)), task=TASK), [], rows).record.note

    assert "standard on openvino measured 1.30, but the machine was too busy" in note
    assert note.endswith("which is kept: export again on a quiet machine")


def test_the_first_graph_decides_on_the_provider() -> None:
    rows = [candidate("standard", 1.0, variant="with-past"), candidate("standard", 1.5, "cuda", "with-past")]
    rows += [candidate("standard", 9.0, variant="encoder"), candidate("standard", 1.0, "cuda", "encoder")]

    assert measurements(*rows).provider == "cuda"


def test_a_form_that_is_refused_is_left_out_with_its_reason() -> None:
    rows = (candidate("standard", 1.0), candidate("fused", 1.5), candidate("packed", 1.3))
    left = measurements(*rows).without_fastest("cpu", "is wrong")

    assert [(row.form, row.speedup, row.outcome) for row in left.candidates] == [
        ("standard", 1.0, "measured"),
        ("fused", None, "is wrong"),
        ("packed", 1.3, "measured"),
    ]
    assert [row.form for row in left.fastest_candidates] == ["packed"]


def test_an_error_in_a_form_does_not_refuse_the_standard_graph() -> None:
    rows = [candidate("standard", 1.0, variant="with-past"), candidate("fused", 1.5, variant="with-past")]
    rows += [candidate("standard", 1.0, variant="encoder"), candidate("fused", 0.9, variant="encoder")]
    left = measurements(*rows).without_fastest("cpu", "is wrong")

    assert [(row.variant, row.form) for row in left.fastest_candidates] == [
        ("with-past", "standard"),
        ("encoder", "standard"),
    ]


# -- what is written -------------------------------------------------------------------------------------------------

Exporting = Callable[..., Result]


@pytest.fixture
def export(
    checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, traced_once: None
) -> Exporting:
    """Export the checkpoint of a task to `tmp_path`/out, as if the forms had been measured with these figures."""

    def run(*options: str, result: Measurements | None = None, task: str = TASK) -> Result:
        if result is not None:
            monkeypatch.setattr(pipeline, "measure_forms", lambda *_: result)
        return CliRunner().invoke(export_command, [str(checkpoint(task)), "-o", str(tmp_path / "out"), *options])

    return run


def manifest_of(folder: Path) -> Manifest:
    return read_manifest(folder / "out")


def engines_of(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Return a list of the engines that sessions open."""
    opened: list[dict[str, Any]] = []
    real = open_engine

    def open_and_note(path: Path, **options: Any) -> Any:
        opened.append({"path": path.name, **{name: options[name] for name in ("provider", "threads", "spinning")}})
        return real(path, **options)

    monkeypatch.setattr(session, "open_engine", open_and_note)
    return opened


WON = measurements(candidate("standard", 1.0), candidate("fused", 1.5), candidate("packed", None))


def test_the_fastest_form_is_written_proven_recorded_and_run(
    export: Exporting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoint: Callable[[str], Path]
) -> None:
    result = export(result=WON)
    assert result.exit_code == 0, result.output
    manifest, folder = manifest_of(tmp_path), tmp_path / "out"
    (graph,) = manifest.graphs
    assert graph.form == "standard"
    assert graph.rewritten == (Rewritten(path="model.ort.onnx", form="fused", providers=("cpu",)),)
    assert manifest.optimization is not None
    assert [row.outcome for row in manifest.optimization.candidates] == ["measured", "chosen", "not there"]

    operators = {node.op_type for node in onnx.load(folder / "model.ort.onnx", load_external_data=False).graph.node}
    assert {"SkipLayerNormalization", "MultiHeadAttention"} <= operators
    domains = {node.domain for node in onnx.load(folder / "model.onnx", load_external_data=False).graph.node}
    assert domains == {""}
    assert sorted(path.name for path in folder.glob("*.data")) == ["model.onnx.data"]  # the weights are shared

    report = json.loads((folder / "report.json").read_text())
    assert [(form["path"], form["form"]) for form in report["forms"]] == [("model.ort.onnx", "fused")]
    methods = [row["method"] for row in report["comparisons"]]
    assert methods == ["rpln_runtime", "rpln_runtime, fused for cpu"]
    assert "model.ort.onnx" in (folder / "report.md").read_text()

    opened = engines_of(monkeypatch)
    load(folder)
    load(folder, rewritten=False, threads=2, spinning=True)
    assert opened == [
        {"path": "model.ort.onnx", "provider": "cpu", "threads": 1, "spinning": False},
        {"path": "model.onnx", "provider": "cpu", "threads": 2, "spinning": True},
    ]
    assert CliRunner().invoke(rpln_command, ["run", str(folder), "The dog barked."]).exit_code == 0
    assert opened[2]["path"] == "model.ort.onnx"

    again = CliRunner().invoke(rpln_command, ["validate", str(folder), str(checkpoint(TASK)), "--json"])
    assert again.exit_code == 0, again.output
    assert [row["method"] for row in json.loads(again.stdout)] == methods


def test_without_a_faster_form_there_is_one_graph(export: Exporting, tmp_path: Path) -> None:
    result = export(result=measurements(candidate("standard", 1.0), candidate("fused", 1.03)))
    assert result.exit_code == 0, result.output
    assert manifest_of(tmp_path).graphs[0].rewritten == ()
    assert [path.name for path in (tmp_path / "out").glob("*.onnx")] == ["model.onnx"]


def test_on_a_machine_too_busy_to_tell_the_standard_form_stays_and_the_note_says_why(
    export: Exporting, tmp_path: Path
) -> None:
    result = export(result=measurements(candidate("standard", 1.0), candidate("fused", 1.5, noise=0.4)))
    assert result.exit_code == 0, result.output
    optimization = manifest_of(tmp_path).optimization

    assert optimization is not None
    assert manifest_of(tmp_path).graphs[0].rewritten == ()
    assert (
        "fused on cpu measured 1.50, but the machine was too busy, or the time too short, to tell it from standard on "
        "cpu, 1.00, which is kept: export again on a quiet machine, or name a form with --optimize fused"
    ) in optimization.note
    (row,) = [row for row in optimization.candidates if row.form == "fused"]
    assert [row.speedup, row.speedup_low, row.speedup_high] == pytest.approx([1.5, 0.9, 2.1])
    report = (tmp_path / "out" / "report.md").read_text()
    assert f"| full | fused | cpu | 1.50 | 0.90 to 2.10 | {UNCLEAR} |" in report
    for shown in ("0.90 to 2.10", "too busy, or the time too short"):
        assert shown in result.output


def sabotage_form(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Break the forms with these names."""

    def write(model: ir.Model, form: Form, traits: GraphTraits, **options: Any) -> ir.Model:
        written = write_form(model, form, traits, **options)
        if form.name in names:
            scaled("encoder.layer.1.intermediate.dense.weight.T", 1.5)(written)
        return written

    monkeypatch.setattr(graph_forms, "write_form", write)


def test_if_the_fastest_form_is_wrong_the_next_one_is_chosen(
    export: Exporting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sabotage_form(monkeypatch, "fused")
    result = export(result=measurements(candidate("standard", 1.0), candidate("fused", 1.5), candidate("packed", 1.3)))
    assert result.exit_code == 0, result.output
    manifest = manifest_of(tmp_path)

    assert [row.form for row in manifest.graphs[0].rewritten] == ["packed"]
    assert manifest.optimization is not None
    outcomes = {row.form: row.outcome for row in manifest.optimization.candidates}
    assert outcomes["packed"] == "chosen"
    assert "logits" in outcomes["fused"]
    assert "fused for cpu" in outcomes["fused"]


def test_if_all_forms_are_wrong_the_standard_graph_is_chosen(
    export: Exporting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sabotage_form(monkeypatch, "fused", "packed")
    result = export(result=measurements(candidate("standard", 1.0), candidate("fused", 1.5), candidate("packed", 1.3)))
    assert result.exit_code == 0, result.output

    assert manifest_of(tmp_path).graphs[0].rewritten == ()
    assert not (tmp_path / "out" / "model.ort.onnx").exists()


def test_if_the_default_form_is_wrong_the_standard_graph_is_chosen_with_a_note(
    export: Exporting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sabotage_form(monkeypatch, "fused")
    result = export("--target", "cuda")
    assert result.exit_code == 0, result.output

    manifest = manifest_of(tmp_path)
    assert manifest.graphs[0].rewritten == ()
    assert manifest.optimization is not None
    assert re.search("standard form, .* fused is not equal to eager torch: logits", manifest.optimization.note)


def refuse_proofs(monkeypatch: pytest.MonkeyPatch, *refusals: ProofRefusal) -> None:
    """Let the first proofs of an export fail with these errors. Later ones are real."""
    waiting, real = list(refusals), proof.prove

    def prove(*args: Any, **options: Any) -> Proof:
        if waiting:
            return Proof(comparisons=(), notes=(), refusal=waiting.pop(0))
        return real(*args, **options)

    monkeypatch.setattr(pipeline, "prove", prove)


NEAR = ProofRefusal(message="the first", reason="", near=True)


@pytest.mark.usefixtures("measuring")
def test_a_near_miss_is_tried_again_without_the_folds_with_a_note(
    export: Exporting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_proofs(monkeypatch, ProofRefusal(message="refused", reason="a hair off", near=True))
    result = export("--target", "portable", "--json")
    assert result.exit_code == 0, result.output
    steps = [step["name"] for step in json.loads(result.stdout)["steps"]]
    assert (steps.count("load"), steps.count("trace"), steps.count("rewrite")) == (1, 1, 2)

    manifest = manifest_of(tmp_path)
    assert manifest.graphs[0].form == "none"
    assert manifest.optimization is not None
    assert manifest.optimization.note == "the graph as it was traced, because with the exact folds it is a hair off"


@pytest.mark.parametrize(
    ("options", "refusals"),
    [
        ((), [NEAR, ProofRefusal(message="the second", reason="")]),
        ((), [ProofRefusal(message="the first", reason="")]),
        (("--optimize", "standard"), [NEAR]),
        (("--optimize", "none"), [NEAR]),
    ],
    ids=["twice wrong", "far off", "by name", "no folds"],
)
def test_other_misses_are_errors(
    export: Exporting,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: Sequence[str],
    refusals: Sequence[ProofRefusal],
) -> None:
    refuse_proofs(monkeypatch, *refusals)
    result = export(*options)

    assert (result.exit_code, result.stderr) == (10, "Error: the first\n")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("factor", "near"), [(1.5, True), (2.5, False)])
def test_a_near_miss_is_within_twice_the_tolerance(
    export: Exporting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factor: float, near: bool
) -> None:
    """The tolerance of the proof is set to a fraction of the difference that there is."""
    found: list[ProofRefusal | None] = []
    real = proof.prove

    def prove(*bundle: Any, recipe: Recipe, **options: Any) -> Proof:
        loose = RangeTolerance(difference=1.0, argmax_agreement=0.0, resolution=0.0)
        proven = real(*bundle, recipe=dataclasses.replace(recipe, tolerance=loose), **options)
        worst = max(row.difference for row in proven.comparisons)
        strict = dataclasses.replace(loose, difference=worst / factor)
        made = real(*bundle, recipe=dataclasses.replace(recipe, tolerance=strict), **options)
        found.append(made.refusal)
        return made

    monkeypatch.setattr(pipeline, "prove", prove)
    export()
    assert found[0] is not None
    assert found[0].near == near


def test_a_form_that_was_named_and_is_wrong_is_an_error(
    export: Exporting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sabotage_form(monkeypatch, "fused")
    result = export("--optimize", "fused")

    assert result.exit_code == 10
    assert "fused" in result.stderr
    assert not (tmp_path / "out").exists()


DEFAULTS = [
    (("--optimize", "fused"), ["fused"], "standard", "the form that was asked for (--optimize fused)"),
    (("--optimize", "packed"), ["packed"], "standard", "the form that was asked for (--optimize packed)"),
    (("--optimize", "none"), [], "none", "the form that was asked for (--optimize none)"),
    (("--optimize", "standard"), [], "standard", "the form that was asked for (--optimize standard)"),
]


@pytest.mark.usefixtures("measuring")
@pytest.mark.parametrize(("options", "forms", "own", "note"), DEFAULTS)
def test_a_form_by_name_is_not_measured(
    export: Exporting, tmp_path: Path, *, options: Sequence[str], forms: list[str], own: str, note: str
) -> None:
    result = export(*options)
    assert result.exit_code == 0, result.output
    manifest = manifest_of(tmp_path)
    (graph,) = manifest.graphs

    assert [row.form for row in graph.rewritten] == forms
    assert graph.form == own
    assert manifest.optimization is not None
    assert (manifest.optimization.candidates, manifest.optimization.note) == ((), note)


@pytest.mark.usefixtures("measuring")
@pytest.mark.parametrize("form", ["fused", "packed"])
def test_a_form_by_name_gives_the_same_files_every_time(export: Exporting, tmp_path: Path, form: str) -> None:
    made = []
    for _ in range(2):
        result = export("--optimize", form)
        assert result.exit_code == 0, result.output
        made.append({path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.onnx*")})

    assert set(made[0]) == {"model.onnx", "model.onnx.data", "model.ort.onnx"}
    assert made[0] == made[1]


REASONS = {"tensorrt": "TensorRT", "portable": "every runtime", "cuda": "CUDA"}


@pytest.mark.usefixtures("measuring")
@pytest.mark.parametrize("target", REASONS)
def test_a_target_that_cannot_run_here_gets_the_default_form_with_a_reason(
    export: Exporting, tmp_path: Path, target: str
) -> None:
    result = export("--target", target)
    assert result.exit_code == 0, result.output
    manifest = manifest_of(tmp_path)

    assert manifest.target == target
    assert manifest.optimization is not None
    assert REASONS[target] in manifest.optimization.note
    assert manifest.optimization.candidates == ()
    domains = {node.domain for node in onnx.load(tmp_path / "out" / "model.onnx", load_external_data=False).graph.node}
    assert domains == {""}


# -- contradictions --------------------------------------------------------------------------------------------------

REFUSED = [
    ({"optimize": "fastest"}, "fastest"),
    ({"target": "tpu"}, "tpu"),
    ({"workload": "heavy"}, "heavy"),
    ({"target": "tensorrt", "optimize": "fused"}, "--target tensorrt needs a model.onnx"),
    ({"target": "portable", "pack_padding": True}, "--target portable needs a model.onnx"),
    ({"pack_padding": True, "optimize": "fused"}, "--pack-padding asks for a packed form"),
    ({"pack_padding": True, "optimize": "none"}, "--optimize none keeps the graph"),
    ({"workload": "ragged", "optimize": "fused"}, "--optimize fused measures nothing"),
    ({"workload": "ragged", "workload_file": Path("lengths.json")}, "--workload and --workload-file both"),
    ({"precision": "bf16", "target": "cpu"}, "--target cpu does not go with --bf16"),
    ({"task": "text-generation", "is_decoder": True, "pack_padding": True}, "--pack-padding is for encoders"),
    ({"precision": "int4", "pack_padding": True}, "--pack-padding does not go with int4, which has no packed form"),
    ({"precision": "int8-weight-only", "pack_padding": True}, "--pack-padding does not go with int8-weight-only"),
]


@pytest.mark.parametrize(("fields", "words"), REFUSED)
def test_contradictions_are_refused_before_any_work(
    checkpoint: Callable[[str], Path], fields: dict[str, Any], words: str
) -> None:
    with pytest.raises(PlanError) as caught:
        make_plan(str(checkpoint(TASK)), **fields)
    assert words in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "{}",
        "[]",
        "[[]]",
        "[3, 0]",
        "[3, -1]",
        "[3, true]",
        "[3, 2.5]",
        '["3"]',
        "[3, [4]]",
        "[[3], []]",
        "null",
    ],
)
def test_a_workload_of_something_else_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "lengths.json"
    path.write_text(text)
    with pytest.raises(PlanError) as caught:
        workload_from_file(path)
    assert str(path) in str(caught.value)
    assert "A file of lengths is JSON" in str(caught.value)


def test_a_workload_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="cannot be read"):
        workload_from_file(tmp_path / "lengths.json")


def test_lengths_are_grouped_and_batches_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "lengths.json"
    path.write_text("[[12, 40], [33, 7]]")
    assert workload_from_file(path).batches == ((12, 40), (33, 7))
    path.write_text("[12, 40, 33, 7]")
    (batch,) = workload_from_file(path).batches
    assert sorted(batch) == [7, 12, 33, 40]
    assert workload_from_file(path).name == "lengths.json"


def test_only_ragged_texts_have_padding() -> None:
    assert {name for name, row in WORKLOADS.items() if row.has_padding} == {"ragged"}


# -- for real --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("measuring")
def test_auto_measures_and_says_what(export: Exporting, tmp_path: Path) -> None:
    lengths = tmp_path / "lengths.json"
    lengths.write_text("[[5, 3]]")
    result = export("--workload-file", str(lengths))
    assert result.exit_code == 0, result.output
    optimization = manifest_of(tmp_path).optimization

    assert optimization is not None
    assert optimization.workload == "lengths.json"
    assert {row.form for row in optimization.candidates} >= {"standard", "fused", "packed"}
    assert any(row.outcome == "chosen" for row in optimization.candidates)


def test_tests_do_not_measure(exported: Callable[..., Export]) -> None:
    optimization = read_manifest(exported(TASK).folder).optimization

    assert optimization is not None
    assert optimization.candidates == ()
