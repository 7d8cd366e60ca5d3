"""`Bundle`: what it opens, proves and shows. What it shows is compared with the files and with the report."""

import copy
import dataclasses
import html
import json
import pickle
import re
import shutil
from pathlib import Path

import pytest

from rpln_export import Bundle, ValidationError
from rpln_export.errors import ReportError
from rpln_export.plan.defaults import DEFAULTS
from rpln_export.validation.proof import ProofRefusal
from rpln_runtime import InputError, ManifestError, Pipeline, Session


def test_a_bundle_is_opened_again(tagger: Bundle) -> None:
    opened = Bundle.open(str(tagger.path))
    assert opened == tagger
    assert json.dumps(opened.report.to_json()) == json.dumps(tagger.report.to_json())
    assert pickle.loads(pickle.dumps(opened)) == copy.copy(tagger) == tagger  # noqa: S301 # made here


def test_a_bundle_that_was_altered_is_refused(tagger: Bundle, tmp_path: Path) -> None:
    folder = shutil.copytree(tagger.path, tmp_path / "altered")
    (folder / "config.json").write_text("{}".ljust((folder / "config.json").stat().st_size))
    with pytest.raises(ManifestError, match="SHA-256"):
        Bundle.open(folder)
    unverified = Bundle.open(folder, verify=False)
    (folder / "report.json").write_text("[]")
    with pytest.raises(ReportError):
        _ = unverified.report


def test_it_opens_what_the_runtime_opens(tagger: Bundle) -> None:
    tag = tagger.pipeline(task="token-classification", aggregation_strategy="simple", provider="cpu")
    session = tagger.session(provider="cpu", rewritten=False)
    assert session.described()["graph"] == "model.onnx, variant full"
    assert isinstance(tag, Pipeline)
    assert isinstance(session, Session)
    assert [group["entity_group"] for group in tag("The old man walked.")] == ["DET", "ADJ", "NOUN", "VERB", "."]
    with pytest.raises(InputError, match="expected the bundle of a decoder"):
        tagger.generator()


def test_it_is_proven_again(tagger: Bundle) -> None:
    proof = tagger.validate(progress=False)
    outputs = [(row.output, row.method, row.cases) for row in tagger.report.comparisons]
    assert [(row.output, row.method, row.cases) for row in proof.comparisons] == outputs
    shown = repr(proof)
    facts = dict(re.split(r"  +", line.strip(), maxsplit=1) for line in shown.splitlines()[1:])
    assert len(shown.splitlines()) == 6
    assert facts["outcome"] == "accepted"
    assert facts["compared"].endswith(f" over {proof.comparisons[0].cases} cases")
    assert facts["argmaxes"] == "{0:,} of {0:,} equal".format(sum(row.decisions for row in proof.comparisons))
    assert facts["difference"] == f"at most {max(row.difference for row in proof.comparisons):.2e}"
    assert "<caption>Proof</caption>" in proof._repr_html_()
    refused = dataclasses.replace(proof, refusal=ProofRefusal(message="long", reason="logits differ by 3"))
    assert "refused: logits differ by 3" in repr(refused)
    with pytest.raises(ValidationError, match="which has other weights"):
        tagger.validate(DEFAULTS["text-classification"].folder, progress=False)


def test_a_checkpoint_whose_config_was_changed_since_is_named(tagger: Bundle, tmp_path: Path) -> None:
    checkpoint = shutil.copytree(DEFAULTS["token-classification"].folder, tmp_path / "checkpoint")
    fields = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(fields | {"layer_norm_eps": 0.01, "hidden_act": "relu"}))
    changed = "hidden_act is 'relu', and was 'gelu' at the export; layer_norm_eps is 0.01, and was 1e-05 at the export"
    with pytest.raises(ValidationError, match=re.escape(changed)):
        tagger.validate(checkpoint, progress=False)


def test_it_is_measured_beside_another(tagger: Bundle, tmp_path: Path) -> None:
    other = shutil.copytree(tagger.path, tmp_path / "other")
    report = tagger.bench(other, batches=[1], lengths=[8], with_torch=False, seconds=0.1, progress=False)
    assert {row["contender"] for row in report.to_json()["results"]} == {"tagger cpu", "other cpu"}


def test_it_shows_what_is_in_its_files(tagger: Bundle) -> None:
    shown = repr(tagger)
    lines = shown.splitlines()
    size = sum(path.stat().st_size for path in tagger.path.iterdir() if path.name != "rpln.json") / 1e6
    assert lines[0] == "Bundle"
    assert len(lines) < 12
    facts = dict(re.split(r"  +", line.strip(), maxsplit=1) for line in lines[1:])
    assert facts["folder"] == str(tagger.path)
    assert facts["task"] == "token-classification, 12 labels"
    assert facts["checkpoint"] == "pos-tagger-brown"
    assert facts["files"].startswith(f"{len(list(tagger.path.iterdir())) - 1} files, {size:.1f} MB")
    assert facts["limits"] == "texts of at most 256 tokens"
    assert f"{max(row.difference for row in tagger.report.comparisons):.2e}" in facts["proven"]
    assert f" over {tagger.report.comparisons[0].cases} cases, " in facts["proven"]
    own = {"rpln.json", "report.json", "report.md", "report.html"}
    others = [path for path in tagger.path.iterdir() if path.name not in own]
    assert re.search(rf"files +{len(others)} files, .* MB, and rpln.json and the report\n", repr(tagger.report))


def test_a_report_shows_the_verdict(tagger: Bundle) -> None:
    worst = max(row.share for row in tagger.report.comparisons)
    assert re.search(
        rf"verdict +accepted\. .* reaches {worst:.1%} of what is accepted: logits by ", repr(tagger.report)
    )
    refused = [dataclasses.replace(row, finite=False) for row in tagger.report.comparisons]
    assert re.search("verdict +not accepted", repr(dataclasses.replace(tagger.report, comparisons=refused)))
    assert "1,788,300 parameters" in repr(tagger.report)
    assert len(repr(tagger.report).splitlines()) < 14


def test_notebooks_get_the_same_facts_and_no_markup_of_users(tagger: Bundle) -> None:
    hostile = dataclasses.replace(tagger, path=Path("<script>alert('x')</script>"))
    page = hostile._repr_html_()
    assert "<script>" not in page
    cells = [html.unescape(cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", page)]
    assert dict(zip(cells[::2], cells[1::2], strict=True)) == hostile.described()
