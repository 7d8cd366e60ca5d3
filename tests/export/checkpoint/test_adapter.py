"""Adapters of peft are merged: what is exported equals peft's own model around transformers' classes."""

import copy
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from rpln_export.checkpoint.model import load_model, source_from_plan
from rpln_export.cli import export_command, rpln_command
from rpln_export.errors import PlanError
from rpln_export.plan.adapter import MERGEABLE, UNMERGEABLE_FIELDS
from rpln_export.plan.export_plan import make_plan
from rpln_model.errors import CheckpointError
from rpln_runtime import load
from rpln_runtime.errors import MissingExtraError
from rpln_runtime.manifest import read_manifest
from rpln_runtime.tasks import TASKS

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
IDS = torch.tensor([[0, 5, 6, 7, 8, 2], [0, 9, 10, 2, 1, 1]])
MASK = (IDS != 1).long()

# peft 0.21 asks transformers 5.23 by a name that will go.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Unsupported layer type .*LayerNorm"),
]
QUERY = ["query", "value"]


def train(base: Path, folder: Path, task: str, config: peft.PeftConfig, **fields: Any) -> Any:
    """Write an adapter with random weights, as if it had been trained, and return peft's model with it."""
    kind = getattr(transformers, TASKS[task].architecture)
    adapted = peft.get_peft_model(kind.from_pretrained(base, **fields), copy.deepcopy(config))
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in adapted.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn(weight.shape, generator=draw) * 0.1)
    adapted.save_pretrained(str(folder))
    return peft.PeftModel.from_pretrained(kind.from_pretrained(base, **fields), folder).eval()


def answer(model: Any) -> torch.Tensor:
    with torch.no_grad():
        outputs = model(input_ids=IDS, attention_mask=MASK)
    logits: torch.Tensor = outputs.logits
    return logits


def merged(folder: Path, **choices: Any) -> Any:
    return load_model(make_plan(str(folder), **choices))[0]


KINDS: dict[str, peft.PeftConfig] = {
    "ADALORA": peft.AdaLoraConfig(target_modules=QUERY, total_step=10, init_r=4),
    "IA3": peft.IA3Config(
        target_modules=["key", "value", "intermediate.dense"], feedforward_modules=["intermediate.dense"]
    ),
    "LN_TUNING": peft.LNTuningConfig(target_modules=["LayerNorm"]),
    "LOHA": peft.LoHaConfig(target_modules=QUERY, r=4),
    "LOKR": peft.LoKrConfig(target_modules=QUERY, r=4),
    "LORA": peft.LoraConfig(target_modules=QUERY, r=4),
    "OFT": peft.OFTConfig(target_modules=QUERY, oft_block_size=4),
    "VERA": peft.VeraConfig(target_modules=QUERY, r=4),
    "lora-of-every-layer": peft.LoraConfig(target_modules="all-linear", r=4, use_rslora=True, bias="all"),
    "rank-patterns": peft.LoraConfig(
        target_modules=QUERY, r=4, rank_pattern={"layer.1.*query": 2}, alpha_pattern={"layer.0.*value": 3}
    ),
    "dora": peft.LoraConfig(target_modules=["query", "output.dense"], r=4, use_dora=True),
    "embeddings": peft.LoraConfig(target_modules=["word_embeddings", "query"], r=4),
    "a-head": peft.LoraConfig(target_modules=QUERY, r=4, task_type="TOKEN_CLS"),
}


def test_every_type_that_is_merged_is_tested() -> None:
    assert set(MERGEABLE) <= KINDS.keys()


@pytest.mark.parametrize("name", KINDS)
def test_a_merged_adapter_answers_as_peft_does(checkpoint: Callable[[str], Path], tmp_path: Path, name: str) -> None:
    task = "token-classification"
    base = checkpoint(task)
    expected = answer(train(base, tmp_path / "adapter", task, KINDS[name]))
    found = merged(tmp_path / "adapter")

    assert not torch.allclose(answer(merged(base)), expected, atol=1e-2)  # the adapter changes something
    torch.testing.assert_close(answer(found), expected, atol=1e-4, rtol=1e-4)
    assert found.state_dict().keys() == merged(base).state_dict().keys()


@pytest.mark.parametrize(
    "config",
    [
        peft.LoraConfig(target_modules=["word_embeddings"], r=4),
        peft.LoraConfig(target_modules=QUERY, modules_to_save=["word_embeddings"], r=4),
        peft.LoraConfig(target_modules=["decoder", "query"], r=4),
    ],
    ids=["word-embeddings", "saved-word-embeddings", "projection"],
)
@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings")
@pytest.mark.filterwarnings("ignore:Model with `tie_word_embeddings")
def test_tied_embeddings_become_two_tables_where_the_adapter_changes_one(
    checkpoint: Callable[[str], Path], tmp_path: Path, config: peft.PeftConfig
) -> None:
    expected = answer(train(checkpoint("fill-mask"), tmp_path / "adapter", "fill-mask", config))
    plan = make_plan(str(tmp_path / "adapter"))
    found = load_model(plan)[0]

    torch.testing.assert_close(answer(found), expected, atol=1e-4, rtol=1e-4)
    assert not plan.config.tie_word_embeddings
    found.save_pretrained(tmp_path / "merged")
    torch.testing.assert_close(answer(merged(tmp_path / "merged")), expected, atol=1e-4, rtol=1e-4)


def test_a_head_may_come_with_the_adapter_and_its_labels_from_a_config_beside_it(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    labels = dict(enumerate(["yes", "no", "maybe"]))
    config = peft.LoraConfig(target_modules=QUERY, r=4, task_type="SEQ_CLS")
    adapter = tmp_path / "adapter"
    model = train(checkpoint("fill-mask"), adapter, "text-classification", config, id2label=labels)
    with pytest.raises(PlanError, match=r"classifier\.out_proj\.weight of shape \(3, 32\).*\(5, 32\).*id2label"):
        merged(adapter)

    model.config.save_pretrained(adapter)
    plan = make_plan(str(adapter))
    assert plan.task.name == "text-classification"
    torch.testing.assert_close(answer(load_model(plan)[0]), answer(model), atol=1e-4, rtol=1e-4)
    assert plan.config.id2label == labels


def test_a_head_that_neither_brings_is_refused(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    train(checkpoint("fill-mask"), tmp_path / "adapter", "fill-mask", KINDS["LORA"])
    with pytest.raises(PlanError, match=r"lacks weights of .*classifier\.weight"):
        merged(tmp_path / "adapter", task="token-classification")


def test_an_export_merges_and_says_so(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    """The adapter lies beside its base, whose place in adapter_config.json is then not read."""
    task = "token-classification"
    folder = tmp_path / "both"
    shutil.copytree(checkpoint(task), folder)
    model = train(checkpoint(task), folder, task, KINDS["a-head"])
    change(folder, base_model_name_or_path="/nowhere")
    out, other = tmp_path / "out", tmp_path / "other"
    result = CliRunner().invoke(export_command, [str(folder), "-o", str(out)], catch_exceptions=False)
    assert result.exit_code == 0, result.output

    logits = load(out).run({"input_ids": IDS.numpy(), "attention_mask": MASK.numpy()})["logits"]
    torch.testing.assert_close(torch.from_numpy(logits)[MASK == 1], answer(model)[MASK == 1], atol=1e-4, rtol=1e-4)
    source = read_manifest(out).source
    assert (source.name, source.adapter) == ("both", "LORA, merged into both")
    assert "merged: LORA, merged into both" in result.output
    assert "An adapter of peft was merged: LORA, merged into both." in (out / "report.md").read_text()
    again = CliRunner().invoke(rpln_command, ["validate", str(out), str(folder)])
    assert again.exit_code == 0, again.output

    merged_by_peft = tmp_path / "merged"
    model.merge_and_unload().save_pretrained(merged_by_peft)
    options = [str(merged_by_peft), "-o", str(other), "--tokenizer", str(folder)]
    assert CliRunner().invoke(export_command, options).exit_code == 0
    assert (out / "model.onnx").read_bytes() == (other / "model.onnx").read_bytes()


def change(folder: Path, **fields: Any) -> Path:
    """Change fields of the adapter's description."""
    path = folder / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    return folder


@pytest.fixture
def adapter(checkpoint: Callable[[str], Path], tmp_path: Path) -> Path:
    """Make an adapter that names its base relative to its own folder."""
    shutil.copytree(checkpoint("token-classification"), tmp_path / "base")
    train(tmp_path / "base", tmp_path / "adapter", "token-classification", KINDS["LORA"])
    return change(tmp_path / "adapter", base_model_name_or_path="../base")


def test_the_base_is_found_and_lends_its_tokenizer(adapter: Path, tmp_path: Path) -> None:
    plan = make_plan(str(adapter))
    assert (plan.name, plan.source.network) == ("adapter", str(adapter / "../base"))
    result = CliRunner().invoke(export_command, [str(adapter), "-o", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    source = read_manifest(tmp_path / "out").source
    assert (source.name, source.adapter) == ("adapter", "LORA, merged into base")

    shutil.copy(adapter.parent / "base" / "tokenizer.json", adapter)
    assert make_plan(str(adapter)).tokenizer == str(adapter)


def test_adapter_and_base_on_the_hub_have_revisions_of_their_own(
    adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = merged(adapter).state_dict()
    change(adapter, base_model_name_or_path="someone/base", revision="v2")
    hub = {("someone/adapter", "v1"): adapter, ("someone/base", "v2"): adapter.parent / "base"}
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, *, revision, **_: str(hub[name, revision]))
    plan = make_plan("someone/adapter", revision="v1")
    assert (plan.name, plan.source.network, plan.source.revision) == ("adapter", "someone/base", "v2")
    found = load_model(plan)[0].state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_the_digest_is_of_the_base_the_adapter_and_its_description(adapter: Path) -> None:
    def digest() -> str:
        return source_from_plan(make_plan(str(adapter))).sha256

    digests = {digest(), source_from_plan(make_plan(str(adapter.parent / "base"))).sha256}
    change(adapter, lora_alpha=64)
    digests.add(digest())
    save_file({name: weight + 1 for name, weight in load_file(adapter / WEIGHTS).items()}, adapter / WEIGHTS)
    digests.add(digest())
    assert len(digests) == 4


def test_a_pickle_is_read_if_it_runs_no_code(adapter: Path) -> None:
    expected = answer(merged(adapter))
    weights = load_file(adapter / WEIGHTS)
    (adapter / WEIGHTS).unlink()
    torch.save(weights, adapter / "adapter_model.bin")
    assert torch.equal(answer(merged(adapter)), expected)
    torch.save({"weight": Path("code")}, adapter / "adapter_model.bin")
    with pytest.raises(CheckpointError, match="unsafe"):
        merged(adapter)


def test_without_peft_the_extra_is_named(adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingExtraError, match=r'pip install "rpln-export\[peft\]"'):
        make_plan(str(adapter))


@pytest.mark.parametrize("kind", ["PROMPT_TUNING", "PREFIX_TUNING", "P_TUNING", "XLORA", None, ["LORA"]])
def test_what_cannot_be_merged_is_refused_by_its_type(adapter: Path, kind: Any) -> None:
    change(adapter, peft_type=kind)
    with pytest.raises(PlanError) as refusal:
        make_plan(str(adapter))
    assert f"of type {kind}, which cannot be merged" in str(refusal.value)


@pytest.mark.parametrize("field", UNMERGEABLE_FIELDS)
def test_what_is_more_than_weights_is_refused_by_its_field(adapter: Path, field: str) -> None:
    change(adapter, **{field: [[0, 1]]})
    with pytest.raises(PlanError, match=field):
        make_plan(str(adapter))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"base_model_name_or_path": None}, "base_model_name_or_path in adapter_config.json is None"),
        (
            {"base_model_name_or_path": "../gone"},
            "../gone does not exist. Expected a folder with config.json and weights, or a hub id. It is named by",
        ),
        ({"base_model_name_or_path": "x" * 300}, "no network that it belongs to"),
        ({"base_model_name_or_path": "a\ud800"}, "no network that it belongs to"),
        ({"base_model_name_or_path": "."}, "holds an adapter itself"),
        ({"of_a_later_peft": 3}, "of_a_later_peft, which the installed peft does not know"),
        ({"target_modules": ["no_such_module"]}, "does not fit"),
        ({"target_modules": ["query"]}, "has weights without a place in the network"),
        ({"target_modules": ["query", "value", "key"]}, "lacks weights"),
        ({"target_modules": "("}, "does not fit"),
        ({"r": 8}, "size mismatch for"),
        ({"r": "many"}, "does not fit"),
        ({"r": 10**9}, "r 1000000000, but no axis of the adapter's weights is larger than 32"),
        ({"rank_pattern": {"query": 10**9}}, "rank_pattern {'query': 1000000000}, but no axis"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(adapter: Path, fields: dict[str, Any], words: str) -> None:
    change(adapter, **fields)
    with pytest.raises((PlanError, CheckpointError)) as refusal:
        merged(adapter)
    assert words in str(refusal.value)


def test_damaged_files_are_refused(adapter: Path) -> None:
    (adapter / WEIGHTS).write_bytes(b"\x07" * 500)
    with pytest.raises(CheckpointError, match=WEIGHTS):
        merged(adapter)
    (adapter / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match="no weights of the adapter"):
        merged(adapter)
    (adapter / CONFIG).write_text("{")
    with pytest.raises(CheckpointError, match=CONFIG):
        make_plan(str(adapter))
