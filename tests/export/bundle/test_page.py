"""report.html says what report.json says, escapes every text in it, and says why a section has nothing to show."""

import dataclasses
import html
import json
import re
import shlex
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import onnx
import pytest
from click.testing import CliRunner

from rpln_export.bundle.pages.layers import blocks_of_layer
from rpln_export.bundle.pages.page import PAGE_NAME, SECTIONS, page_from_report, percent, size
from rpln_export.bundle.pages.running import snippets
from rpln_export.bundle.pages.side_by_side import page_from_reports, side_by_side
from rpln_export.bundle.reading import report_from_folder
from rpln_export.bundle.report import Report
from rpln_export.cli import rpln_command
from rpln_export.errors import ReportError
from rpln_runtime.manifest import Candidate, read_manifest, write_manifest
from rpln_runtime.tasks import TASKS
from tests.embedded import embedded_bundle
from tests.export.conftest import Export

HOSTILE = '<img src=x onerror="alert(1)"><script>alert(1)</script>'


class Page(HTMLParser):
    """The tables, the texts and the elements of a page, by the section that they are in."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.section = ""
        self.in_cell = False
        self.tags: list[str] = []
        self.tables: dict[str, list[list[list[str]]]] = {}
        self.texts: dict[str, str] = {}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag == "section":
            self.section = dict(attrs).get("id") or ""
        elif tag == "table":
            self.tables.setdefault(self.section, []).append([])
        elif tag == "tr":
            self.tables[self.section][-1].append([])
        elif tag in {"td", "th"}:
            self.tables[self.section][-1][-1].append("")
            self.in_cell = True

    def handle_endtag(self, tag: str) -> None:
        self.in_cell = self.in_cell and tag not in {"td", "th"}

    def handle_data(self, data: str) -> None:
        self.texts[self.section] = self.texts.get(self.section, "") + data
        if self.in_cell:
            self.tables[self.section][-1][-1][-1] += data.strip()


@pytest.fixture(scope="session")
def int8(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return embedded_bundle(tmp_path_factory, "text-classification", precision="int8")


@pytest.fixture(scope="session")
def fp16(exported: Callable[..., Export]) -> Path:
    return exported("text-classification", "--fp16").folder


@pytest.fixture(scope="session")
def folders(fp16: Path, int8: Path, exported: Callable[..., Export]) -> dict[str, Path]:
    return {"fp16": fp16, "int8": int8, "fp32": exported("text-generation").folder}


def document_of(folder: Path) -> Any:
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


def page_of(folder: Path) -> str:
    return (folder / PAGE_NAME).read_text(encoding="utf-8")


KINDS = pytest.mark.parametrize("kind", ["fp16", "int8", "fp32"])


# -- the page of a bundle --------------------------------------------------------------------------------------------


@KINDS
def test_the_page_is_made_of_report_json_alone(folders: dict[str, Path], kind: str) -> None:
    assert page_from_report(report_from_folder(folders[kind])) == page_of(folders[kind])


@KINDS
def test_every_section_is_there(folders: dict[str, Path], kind: str) -> None:
    text = page_of(folders[kind])
    found = re.findall(r'<section [^>]*id="(\w+)"', text)
    assert set(found) == {"verdict", *SECTIONS} - (set() if kind == "int8" else {"quantization"})
    assert re.findall(r'<a href="#(\w+)">', text) == [name for name in SECTIONS if name in found]
    assert text.count("<svg") == {"fp16": 2, "int8": 1, "fp32": 1}[kind]


@KINDS
def test_the_verdict_names_the_worst_comparison(folders: dict[str, Path], kind: str) -> None:
    document = document_of(folders[kind])
    worst = max(document["comparisons"], key=lambda row: row["share"])
    verdict = Page(page_of(folders[kind])).texts["verdict"]
    assert "Accepted" in verdict
    assert f"{worst['share']:.1%} of what is accepted: {worst['output']} by {worst['method']}" in verdict
    assert worst["worst_case"] in verdict


def test_the_verdict_says_what_was_not_run(fp16: Path) -> None:
    verdict = Page(page_of(fp16)).texts["verdict"]
    assert "No GPU ran anything: the form for cuda was run on the CPU." in verdict
    assert "No speed was measured: not in tests." in verdict


def test_a_refused_comparison_is_not_accepted(fp16: Path) -> None:
    report = report_from_folder(fp16)
    rows = [dataclasses.replace(row, share=1.5) for row in report.comparisons]
    assert "Not accepted" in Page(page_from_report(dataclasses.replace(report, comparisons=rows))).texts["verdict"]


def test_a_form_that_fails_its_gate_is_not_accepted(int8: Path) -> None:
    report = report_from_folder(int8)
    assert report.quantization is not None
    forms = [dataclasses.replace(form, holds=False) for form in report.quantization.forms]
    failed = dataclasses.replace(report, quantization=dataclasses.replace(report.quantization, forms=forms))
    verdict = Page(page_from_report(failed)).texts["verdict"]
    assert "Not accepted" in verdict
    assert "is held by no form" in verdict


@KINDS
def test_the_matrix_has_the_worst_case_of_each_size_and_mask(folders: dict[str, Path], kind: str) -> None:
    document = document_of(folders[kind])
    (header, *rows), *_ = Page(page_of(folders[kind])).tables["validation"]
    found = {
        (*row[0].split(" × "), mask): cell
        for row in rows
        for mask, cell in zip(header[1:], row[1:], strict=True)
        if cell != "–"
    }
    worst: dict[tuple[str, ...], float] = {}
    for case in document["cases"]:
        key = (str(case["batch"]), str(case["length"]), case["mask"])
        worst[key] = max(worst.get(key, 0.0), case["share"])
    assert found == {key: percent(share) for key, share in worst.items()}
    assert len(found) > 20


@KINDS
def test_tables_have_the_numbers_of_report_json(folders: dict[str, Path], kind: str) -> None:
    document, page = document_of(folders[kind]), Page(page_of(folders[kind]))
    comparisons = page.tables["validation"][-1]
    assert [row[:5] for row in comparisons[1:]] == [
        [row["output"], row["method"], str(row["cases"]), f"{row['difference']:.2e}", percent(row["share"])]
        for row in document["comparisons"]
    ]
    (drift,) = page.tables["drift"]
    assert [[row[0], *map(float, row[2:])] for row in drift[1:]] == [
        [row["block"], *(pytest.approx(row[kind]["largest"], rel=0.06) for kind in ("distance", "noise"))]
        for row in document["drifts"][0]["blocks"]
    ]
    files, operators, *passes = page.tables["operators"]
    assert dict(files[1:]) == {name: size(count) for name, count in document["sizes"].items()}
    columns = [*document["graphs"], *document["forms"]]
    assert operators[0][1:] == [row["path"] for row in columns]
    for place, row in enumerate(columns, start=1):
        counted = {line[0]: int(line[place]) for line in operators[1:-1] if line[place] != "–"}
        assert counted == row["operators"]
        assert int(operators[-1][place]) == sum(counted.values())
        assert {line[0]: int(line[1]) for line in passes[place - 1][1:]} == row["passes"]
    (steps,) = page.tables["steps"]
    assert [row[0] for row in steps[1:]] == [step["name"] for step in document["steps"]]


def test_sections_without_data_say_why(folders: dict[str, Path]) -> None:
    fp32 = Page(page_of(folders["fp32"])).texts
    assert "No graph was rescaled for fp16" in fp32["headroom"]
    assert "No candidate was measured" in fp32["candidates"]
    assert document_of(folders["fp32"])["engines"]["note"] in fp32["engines"]
    bare = dataclasses.replace(report_from_folder(folders["fp32"]), cases=[], drifts=[], layer=None)
    texts = Page(page_from_report(bare)).texts
    assert "The report names no cases" in texts["validation"]
    assert "The drift was not measured" in texts["drift"]
    assert "tell no layers" in texts["layer"]


def test_candidates_are_bars_with_their_speeds(fp16: Path) -> None:
    text = page_from_report(with_candidates(report_from_folder(fp16)))
    bars = re.search(r'<section id="candidates">.*?</section>', text, re.DOTALL)
    assert bars is not None
    assert "2.00 chosen" in bars[0]
    assert "The largest speed is 2.00: fused on cpu." in bars[0]
    assert "not equal to eager torch" in bars[0]
    (row,) = [row for row in Page(text).tables["candidates"][0] if row[1] == "packed"]
    assert row[3] == "–"


def with_candidates(report: Report) -> Report:
    rows = tuple(
        Candidate(
            variant="full",
            form=form,
            provider="cpu",
            speedup=speed,
            speedup_low=speed * 0.9,
            speedup_high=speed * 1.1,
            outcome=outcome,
        )
        for form, speed, outcome in (("standard", 1.0, "measured"), ("fused", 2.0, "chosen"))
    )
    # A form that was measured and refused keeps its interval, but not its speed.
    refused = dataclasses.replace(rows[1], form="packed", speedup=None, outcome="not equal to eager torch")
    optimization = dataclasses.replace(report.optimization, candidates=(*rows, refused))
    return dataclasses.replace(report, optimization=optimization)


def test_every_text_of_the_report_is_escaped(folders: dict[str, Path], tmp_path: Path) -> None:
    known = {"task", "mask", "dtype"}

    def hostile(value: Any, name: str = "") -> Any:
        if isinstance(value, dict):
            return {key: hostile(item, key) for key, item in value.items()}
        if isinstance(value, list):
            return [hostile(item, name) for item in value]
        return value + HOSTILE if isinstance(value, str) and name not in known else value

    for folder in folders.values():
        (tmp_path / "report.json").write_text(json.dumps(hostile(document_of(folder))), encoding="utf-8")
        report = report_from_folder(tmp_path)
        for text in (page_from_report(report), page_from_reports({HOSTILE: report, "other": report})):
            page = Page(text)
            assert page.tags.count("script") == 1
            assert "img" not in page.tags
            assert HOSTILE in html.unescape(text)


def test_the_manifest_lists_the_page_and_bundles_without_one_still_load(fp16: Path, tmp_path: Path) -> None:
    manifest = read_manifest(fp16)
    assert PAGE_NAME in {file.path for file in manifest.files}
    old = shutil.copytree(fp16, tmp_path / "old")
    (old / PAGE_NAME).unlink()
    write_manifest(old, manifest)
    assert read_manifest(old).graphs == manifest.graphs


def test_the_page_names_nothing_outside_of_it(folders: dict[str, Path]) -> None:
    for folder in folders.values():
        text = page_of(folder)
        assert set(re.findall(r'(?:href|src)="([^"#][^"]*)"', text)) == {"data:,"}
        assert "url(h" not in text
        assert str(folder.parent) not in text


# -- what the report knows -------------------------------------------------------------------------------------------


def test_cases_are_told_by_size_and_mask(fp16: Path) -> None:
    document = document_of(fp16)
    assert [case["name"] for case in document["cases"]] == [
        f"batch {case['batch']} x length {case['length']}, mask {case['mask']}" for case in document["cases"]
    ]
    worst = max(document["cases"], key=lambda case: case["share"])
    assert worst["share"] == max(row["share"] for row in document["comparisons"])
    assert {row["cases"] for row in document["comparisons"]} == {len(document["cases"])}


@pytest.mark.parametrize(("kind", "least", "most"), [("fp16", 1e-5, 1e-2), ("int8", 1e-4, 1.0), ("fp32", 1e-9, 1e-5)])
def test_drift_is_as_large_as_the_precision_makes_it(
    folders: dict[str, Path], kind: str, least: float, most: float
) -> None:
    (drift,) = document_of(folders[kind])["drifts"]
    names = [row["block"] for row in drift["blocks"]]
    assert names[:3] == ["embeddings", "encoder.layer.0.attention", "encoder.layer.0.intermediate"]
    last = drift["blocks"][-1]
    assert least < last["distance"]["largest"] / last["reach"] < most
    assert 1e-9 < last["noise"]["largest"] / last["reach"] < 1e-5
    assert "mask none" not in drift["case"]


def test_the_layer_has_the_nodes_of_the_files(fp16: Path) -> None:
    layer = document_of(fp16)["layer"]
    assert (layer["layer"], [form["form"] for form in layer["forms"]]) == (
        "encoder.layer.1",
        ["traced", "standard", "fused"],
    )
    for form in layer["forms"][1:]:
        nodes = onnx.load(fp16 / form["path"]).graph.node
        assert [(node["operator"], node["domain"]) for node in form["nodes"]] == [
            (node.op_type, node.domain) for node in nodes if node.name.startswith("encoder.layer.1.")
        ]
    assert "MultiHeadAttention" in {node["operator"] for node in layer["forms"][2]["nodes"]}


# -- reading report.json ---------------------------------------------------------------------------------------------


def test_operators_that_normalize_and_multiply_are_told_apart_in_every_form(fp16: Path) -> None:
    layer = report_from_folder(fp16).layer
    assert layer is not None
    drawn = {
        form.form: {
            (row.does, node.operator): kind
            for block in blocks_of_layer(form)
            for row in block.rows
            for node, kind in row.nodes
        }
        for form in layer.forms
    }
    for found in drawn.values():
        assert {kind for (_, operator), kind in found.items() if operator.endswith("LayerNormalization")} == {"norm"}
    assert drawn["fused"]["attend", "MultiHeadAttention"] == drawn["traced"]["attend", "Softmax"] == "attend"
    assert {found["query", "MatMul"] for form, found in drawn.items() if form != "fused"} == {"product"}


@KINDS
def test_a_report_is_read_as_it_was_written(folders: dict[str, Path], kind: str) -> None:
    assert json.loads(json.dumps(report_from_folder(folders[kind]).to_json())) == document_of(folders[kind])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda document: document.pop("cases"), "the report lacks cases"),
        (lambda document: document.update(parameters="many"), "the report.parameters is 'many', expected int"),
        (lambda document: document.update(graphs={}), "the report.graphs is {}, expected"),
        (lambda document: document["graphs"][0].update(rescaling=[]), "graphs[0].rescaling is [], expected"),
        (lambda document: document["tolerance"].clear(), "the report.tolerance lacks"),
        (lambda document: document.update(task="poetry"), "names the task 'poetry'"),
    ],
)
def test_a_damaged_report_is_refused_with_a_sentence(
    fp16: Path, tmp_path: Path, damage: Callable[[Any], None], message: str
) -> None:
    document = document_of(fp16)
    damage(document)
    (tmp_path / "report.json").write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(ReportError) as caught:
        report_from_folder(tmp_path)
    assert message in str(caught.value)
    assert "Export the checkpoint again" in str(caught.value)


def test_a_folder_without_a_report_and_one_that_is_not_json(tmp_path: Path) -> None:
    for content, message in ((None, "holds no report.json"), ("{", "cannot be read"), ("[]", "expected an object")):
        if content is not None:
            (tmp_path / "report.json").write_text(content, encoding="utf-8")
        result = CliRunner().invoke(rpln_command, ["report", str(tmp_path), "-o", str(tmp_path / "page.html")])
        assert result.exit_code == 2
        assert message in result.stderr
        assert not (tmp_path / "page.html").exists()


# -- rpln report -----------------------------------------------------------------------------------------------------


def test_the_command_writes_the_page_of_one_bundle_anew(fp16: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(rpln_command, ["report", str(fp16), "-o", str(tmp_path / "page.html")])
    assert result.exit_code == 0, result.output
    assert "of what is accepted" in result.output
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == page_of(fp16)


def test_the_command_compares_bundles(fp16: Path, int8: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    result = CliRunner().invoke(rpln_command, ["report", str(fp16), str(int8), "-o", str(page)])
    assert result.exit_code == 0, result.output
    facts = {
        fact.name: fact
        for facts in side_by_side({"a": report_from_folder(fp16), "b": report_from_folder(int8)}).topics.values()
        for fact in facts
    }
    documents = [document_of(folder) for folder in (fp16, int8)]
    assert list(facts["precision"].values) == [document["recipe"] for document in documents]
    assert list(facts["all files"].values) == [size(sum(document["sizes"].values())) for document in documents]
    assert facts["precision"].differs
    assert not facts["task"].differs
    assert "holds" in facts["gate"].values[1]
    assert "precision ≠" in result.output
    assert Page(page.read_text(encoding="utf-8")).texts[""].count("precision ≠") == 1
    assert page.read_text(encoding="utf-8").count("<svg") == 1


def facts_of(report: Report) -> dict[str, str]:
    return {fact.name: fact.values[0] for facts in side_by_side({"a": report}).topics.values() for fact in facts}


def with_speeds(report: Report, **speeds: float) -> Report:
    """Return the report of a bundle whose first candidate was chosen and whose others were slower or not clear."""
    rows = tuple(
        Candidate(
            variant="full",
            form=form.replace("_", "-"),
            provider="cpu",
            speedup=speed,
            speedup_low=speed - 0.1,
            speedup_high=speed + 0.1,
            outcome="measured" if place else "chosen",
        )
        for place, (form, speed) in enumerate(speeds.items())
    )
    return dataclasses.replace(report, optimization=dataclasses.replace(report.optimization, candidates=rows))


def test_the_comparison_names_the_form_that_was_published_not_the_fastest(fp16: Path, int8: Path) -> None:
    published = "form published, and its speed by its own reference"
    standard = facts_of(with_speeds(report_from_folder(fp16), standard=1.0, attention=1.1))
    assert standard[published] == "standard, 1.00 (0.90 to 1.10)"
    assert facts_of(with_speeds(report_from_folder(int8), static=1.16, dynamic=1.28))[published].startswith(
        "static, 1.16"
    )
    unmeasured = with_speeds(report_from_folder(int8))
    assert facts_of(unmeasured)[published] == unmeasured.optimization.note


@pytest.mark.parametrize(
    ("chosen", "drop", "expected"),
    [
        ("static", 0.0, "0.00 points worse in int8 (static)"),
        ("static_packed", -1.0, "1.00 points better in int8 (static)"),
        ("dynamic", 2.5, "2.50 points worse in int8 (dynamic)"),
    ],
)
def test_the_comparison_says_the_metric_of_the_quantized_bundle(
    int8: Path, chosen: str, drop: float, expected: str
) -> None:
    report = with_speeds(with_metric(report_from_folder(int8), drop), **{chosen: 1.2})
    assert facts_of(report)["metric"] == f"accuracy on mails.jsonl: 0.8800 in fp32, {expected}"


def with_metric(report: Report, drop: float, *, decisions: int = 1_000) -> Report:
    """Return the report of a quantized bundle whose metric dropped by so much in every form."""
    assert report.quantization is not None
    forms = [
        dataclasses.replace(
            form, curve=[dataclasses.replace(row, drop=drop, decisions=decisions) for row in form.curve]
        )
        for form in report.quantization.forms
    ]
    metric = "accuracy on mails.jsonl: 0.8800 in fp32"
    return dataclasses.replace(
        report, quantization=dataclasses.replace(report.quantization, metric=metric, forms=forms)
    )


def test_every_report_says_that_few_decisions_tell_little(int8: Path) -> None:
    report = with_metric(report_from_folder(int8), -1.0, decisions=2)
    enough = with_metric(report_from_folder(int8), -1.0)
    sentence = "2 decisions tell little: give more texts with --calibration."
    for shown, silent in zip(shown_forms(report), shown_forms(enough), strict=True):
        assert sentence in shown
        assert "tell little" not in silent
    assert report.quantization is not None
    without = dataclasses.replace(report.quantization, metric="")
    assert without.caution.endswith("give more texts with --calibration, or examples with --eval")
    assert "1.00 points better" in page_from_report(report)
    assert "| 1.00 points better |" in report.to_markdown()


def shown_forms(report: Report) -> list[str]:
    return [repr(report), report.to_markdown(), page_from_report(report)]


def test_a_page_is_not_written_into_a_bundle(fp16: Path) -> None:
    result = CliRunner().invoke(rpln_command, ["report", str(fp16), "-o", str(fp16 / "page.html")])
    assert result.exit_code == 9
    assert "lies in a bundle" in result.stderr
    read_manifest(fp16)


# -- how to run it ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["text-classification", "question-answering", "text-generation"])
def test_the_code_to_copy_runs(
    exported: Callable[..., Export], task: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = exported(task).folder
    monkeypatch.chdir(folder.parent)
    shell, python, *_ = snippets(task, folder.name)
    exec(python.code, {})  # noqa: S102 # it is what readers run
    assert capsys.readouterr().out.strip()
    _, *arguments = shlex.split(shell.code.replace("\\\n", " "))
    result = CliRunner().invoke(rpln_command, arguments)
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("task", TASKS)
def test_names_of_folders_are_quoted(task: str) -> None:
    shell, python, cpp, triton = (snippet.code for snippet in snippets(task, 'it\'s "mine"'))
    assert shlex.split(shell.replace("\\\n", " "))[2] == 'it\'s "mine"'
    assert repr('it\'s "mine"') in python
    assert r'answer("it' in cpp
    assert r'\"mine\""' in cpp
    *_, flag, body = shlex.split(triton)
    assert flag == "-d"
    assert json.loads(body)
