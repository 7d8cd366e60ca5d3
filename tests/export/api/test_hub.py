"""`push_to_hub`, against a server that stands in for the hub: what is uploaded, what the model card says, refusals."""

import dataclasses
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from click.testing import CliRunner
from huggingface_hub import ModelCard

from rpln_export import Bundle, HubError, push_to_hub
from rpln_export.api import model_card as cards
from rpln_export.api.model_card import model_card
from rpln_export.bundle.pages.running import TEXT, cpp_program, python_arguments
from rpln_export.bundle.report import QuantizationReport
from rpln_export.cli import rpln_command
from rpln_model.hub import uses_cache_only
from rpln_runtime import ManifestError, pipeline
from rpln_runtime.manifest import Candidate, read_manifest
from rpln_runtime.tasks import TASKS
from tests.export.api.hub_stand_in import TOKEN, Hub, running_hub


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Return a hub that takes the place of the real one."""
    uses_cache_only.cache_clear()
    with running_hub() as hub:
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.endpoint)
        huggingface_hub.close_session()
        yield hub
        huggingface_hub.close_session()
    uses_cache_only.cache_clear()


def test_what_is_uploaded_is_the_bundle(hub: Hub, tagger: Bundle, tmp_path: Path) -> None:
    extra = shutil.copytree(tagger.path, tmp_path / "tagger")
    (extra / "notes.txt").write_text("not of the bundle")
    address = push_to_hub(extra, "ada/tagger", private=True, token=TOKEN, revision="next", commit_message="First")
    assert address == f"{hub.endpoint}/ada/tagger/commit/{'a' * 40}"
    made = hub.repositories["ada/tagger"]
    assert made.get("visibility") == "private" or made.get("private") is True  # by the version of huggingface_hub
    assert (hub.branches, hub.committed_to, hub.header["summary"]) == (["next"], "next", "First")
    assert hub.files.keys() == {*(path.name for path in tagger.path.iterdir()), "README.md"}
    downloaded = tmp_path / "downloaded"
    downloaded.mkdir()
    for name, content in hub.files.items():
        (downloaded / name).write_bytes(content)
    assert read_manifest(downloaded) == tagger.manifest


def test_the_command_and_the_method_upload_to_the_main_branch(
    hub: Hub, tagger: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    result = CliRunner().invoke(rpln_command, ["push", str(tagger.path), "ada/tagger"], catch_exceptions=False)
    assert (result.exit_code, result.output) == (0, f"{hub.endpoint}/ada/tagger/commit/{'a' * 40}\n")
    by_command = (hub.committed_to, hub.header["summary"], hub.files)
    hub.files = {}
    tagger.push_to_hub("ada/tagger")
    assert by_command == (hub.committed_to, hub.header["summary"], hub.files)
    assert by_command[:2] == ("main", "Add pos-tagger-brown for token-classification in fp32")


def test_an_altered_bundle_is_not_uploaded(hub: Hub, tagger: Bundle, tmp_path: Path) -> None:
    folder = shutil.copytree(tagger.path, tmp_path / "altered")
    (folder / "config.json").write_text("{}".ljust((folder / "config.json").stat().st_size))
    with pytest.raises(ManifestError, match="SHA-256"):
        push_to_hub(folder, "ada/tagger", token=TOKEN)
    assert hub.repositories == {}


@pytest.mark.parametrize(("name", "token"), [("ada/tagger", "hf_wrong"), ("a b/c", TOKEN)])
def test_what_the_hub_refuses_says_what_to_do(hub: Hub, tagger: Bundle, name: str, token: str) -> None:
    with pytest.raises(HubError, match=f"{name} was not uploaded to {hub.endpoint}: .* run `hf auth login`"):
        push_to_hub(tagger, name, token=token)
    assert hub.files == {}


def test_without_a_hub_the_error_says_so(tagger: Bundle) -> None:
    uses_cache_only.cache_clear()
    with pytest.raises(HubError, match="does not answer, or HF_HUB_OFFLINE is set"):
        push_to_hub(tagger, "ada/tagger", token=TOKEN)


# -- the model card --------------------------------------------------------------------------------------------------


def metadata_of(bundle: Bundle) -> dict[str, Any]:
    """Return the metadata of a bundle's card, as the hub's own client reads it."""
    metadata: dict[str, Any] = vars(ModelCard(model_card(bundle, "ada/tagger")).data)
    return {name: value for name, value in metadata.items() if value is not None}


def test_the_metadata_is_what_the_hub_takes(tagger: Bundle) -> None:
    assert metadata_of(tagger) == {
        "library_name": "onnx",
        "license": "apache-2.0",  # as the checkpoint's own card says
        "pipeline_tag": "token-classification",
        "tags": ["onnx", "roberta-prelayernorm", "rpln-export", "fp32"],
    }


def test_the_card_says_what_the_report_says(tagger: Bundle) -> None:
    card = model_card(tagger, "ada/tagger")
    for row in tagger.report.comparisons:
        assert f"| {row.output} | {row.method} | {row.cases} | {row.difference:.2e} | {row.share:.0%} |" in card
    for file in tagger.manifest.files:
        assert f"| {file.path} | {file.size:,} |" in card
    assert tagger.manifest.source.sha256 in card
    assert "No speed was measured: not in tests." in card


def test_the_python_code_of_the_card_runs(tagger: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name: {"ada/tagger": tagger.path}[name])
    (code,) = re.findall(r"```python\n(.*?)```", model_card(tagger, "ada/tagger"), re.DOTALL)
    answers: list[object] = []
    exec(code, {"print": answers.append})  # noqa: S102 # the code of the card
    assert answers == [pipeline(tagger.path)(TEXT)]


@pytest.mark.parametrize("task", TASKS)
def test_the_card_has_the_code_of_each_task(tagger: Bundle, task: str) -> None:
    card = model_card(dataclasses.replace(tagger, _report=dataclasses.replace(tagger.report, task=task)), "ada/tagger")
    assert f"print(run({python_arguments(task)}))" in card
    # tests/cpp compiles these programs.
    assert re.findall(r"```cpp\n(.*?)\n```", card, re.DOTALL) == [cpp_program(task, "bundle")]


@pytest.mark.parametrize(("quantized", "reference"), [(False, "the standard form"), (True, "the graph in fp32")])
def test_the_card_says_what_speeds_are_relative_to(tagger: Bundle, quantized: bool, reference: str) -> None:
    candidate = Candidate(
        variant="full",
        form="static",
        provider="cpu",
        speedup=2.0,
        speedup_low=1.9,
        speedup_high=2.1,
        outcome="chosen",
    )
    optimization = dataclasses.replace(tagger.report.optimization, candidates=(candidate,))
    quantization = QuantizationReport(measured=0, held_back=4, gate="all equal", metric="", forms=[])
    report = dataclasses.replace(
        tagger.report, optimization=optimization, quantization=quantization if quantized else None
    )
    card = model_card(dataclasses.replace(tagger, _report=report), "ada/tagger")
    assert f"How many times as fast a form is as {reference} on cpu" in card
    assert "| full | static | cpu | 2.00 | 1.90 to 2.10 |" in card


def test_the_base_model_is_named_if_it_is_in_the_cache_of_the_hub(
    tagger: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = tmp_path / "models--ada--tagger-base" / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    monkeypatch.setattr(cards, "find_checkpoint", lambda *_: snapshot)
    for content in (None, "no metadata", "---\n[\n---\n", "---\nlicense: [mit]\n---\n"):
        if content is not None:
            (snapshot / "README.md").write_text(content)
        data = metadata_of(tagger)
        assert (data["base_model"], data.get("license")) == ("ada/tagger-base", None)


def test_a_checkpoint_that_is_not_at_hand_is_named_without_a_link(
    tagger: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> Path:
        raise HubError("not here")

    monkeypatch.setattr(cards, "find_checkpoint", fail)
    card = model_card(tagger, "ada/tagger")
    assert "of the checkpoint pos-tagger-brown," in card
    assert metadata_of(tagger).keys() == {"library_name", "pipeline_tag", "tags"}
