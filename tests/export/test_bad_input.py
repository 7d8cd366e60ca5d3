"""A bad input gives one line that says what is wrong and what to do, a documented exit code, and no bundle."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from rpln_export.cli import export_command
from rpln_model.errors import CheckpointNotFoundError
from tests.export.checkpoints import make_tokenizer

Spoil = Callable[[Path], object]

NOT_AS_ASKED = 2
BROKEN_CHECKPOINT = 7
DESTINATION = 9

WEIGHTS = "model.safetensors"
LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 7\n"
OLD_BUNDLE = {"rpln.json": "an older bundle", "model.onnx": "its graph"}


def leave(folder: Path) -> None:
    """Leave the checkpoint as it is."""


def edit_config(**fields: Any) -> Spoil:
    """Return a function that sets fields of config.json; None removes one."""

    def edit(folder: Path) -> None:
        path = folder / "config.json"
        config = json.loads(path.read_text(encoding="utf-8")) | fields
        path.write_text(json.dumps({name: value for name, value in config.items() if value is not None}))

    return edit


def edit_tokenizer(**fields: Any) -> Spoil:
    """Set fields of tokenizer.json."""

    def edit(folder: Path) -> None:
        path = folder / "tokenizer.json"
        path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | fields))

    return edit


def edit_weights(name: str, change: Callable[[torch.Tensor], torch.Tensor | None]) -> Spoil:
    """Return a function that changes the weight `name`; None removes it."""

    def edit(folder: Path) -> None:
        weights = load_file(folder / WEIGHTS)
        changed = change(weights.pop(name))
        save_file(weights if changed is None else {**weights, name: changed}, folder / WEIGHTS, {"format": "pt"})

    return edit


def write(name: str, content: bytes) -> Spoil:
    return lambda folder: (folder / name).write_bytes(content)


def truncate(name: str) -> Spoil:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-1000])


def remove(*patterns: str) -> Spoil:
    def remove_from(folder: Path) -> None:
        for pattern in patterns:
            for path in folder.glob(pattern):
                path.unlink()

    return remove_from


def filled(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def fill(tensor: torch.Tensor) -> torch.Tensor:
        tensor.view(-1)[-1] = value
        return tensor

    return fill


def larger_vocabulary(folder: Path) -> None:
    make_tokenizer(folder, vocab_size=320)


@dataclass(frozen=True, kw_only=True)
class Bad:
    """A case: what is done to a token-classification checkpoint, the options, and what the message must contain."""

    id: str
    spoil: Spoil = leave
    options: tuple[str, ...] = ()
    code: int
    says: tuple[str, ...] = field(default=())


ALL_TASKS = ("feature-extraction", "fill-mask", "text-classification", "token-classification", "question-answering")

TABLE = (
    # The task and the head
    Bad(
        id="unknown-task",
        options=("--task", "tokenclassification"),
        code=NOT_AS_ASKED,
        says=("unknown task 'tokenclassification'", *ALL_TASKS, "Did you mean 'token-classification'?"),
    ),
    Bad(
        id="wrong-head",
        options=("--task", "fill-mask"),
        code=NOT_AS_ASKED,
        says=(
            "lacks weights of RobertaPreLayerNormForMaskedLM",
            "lm_head.dense.weight",
            "RobertaPreLayerNormForTokenClassification",
            "--allow-random-head",
        ),
    ),
    Bad(
        id="head-of-a-sibling",
        options=("--task", "text-classification"),
        code=NOT_AS_ASKED,
        says=(
            "lacks weights of RobertaPreLayerNormForSequenceClassification",
            "classifier.out_proj.weight",
            "--task",
        ),
    ),
    Bad(
        id="pooler-asked-for-and-absent",
        options=("--task", "feature-extraction", "--outputs", "pooler_output"),
        code=NOT_AS_ASKED,
        says=("pooler.dense.weight", "--allow-random-head"),
    ),
    Bad(
        id="no-architectures",
        spoil=edit_config(architectures=None),
        code=NOT_AS_ASKED,
        says=("names no task (architectures: none)", "--task", *ALL_TASKS),
    ),
    Bad(
        id="architecture-without-a-task",
        spoil=edit_config(architectures=["RobertaPreLayerNormForTrainingAtHome"]),
        code=NOT_AS_ASKED,
        says=("RobertaPreLayerNormForTrainingAtHome", "--task"),
    ),
    # Options
    Bad(id="old-opset", options=("--opset", "16"), code=NOT_AS_ASKED, says=("opset 16", "17")),
    Bad(id="unknown-trace", options=("--trace", "fast"), code=NOT_AS_ASKED, says=("--trace 'fast'", "repeat, full")),
    Bad(id="future-opset", options=("--opset", "99"), code=NOT_AS_ASKED, says=("opset 99", "17")),
    Bad(
        id="unknown-input",
        options=("--inputs", "input_embeds"),
        code=NOT_AS_ASKED,
        says=("input_embeds", "inputs_embeds", "position_ids", "token_type_ids", "head_mask"),
    ),
    Bad(
        id="unknown-output",
        options=("--outputs", "hidden_state"),
        code=NOT_AS_ASKED,
        says=("'hidden_state'", "hidden_states", "attentions"),
    ),
    Bad(
        id="output-of-another-task",
        options=("--outputs", "pooler_output"),
        code=NOT_AS_ASKED,
        says=("pooler_output", "token-classification", "hidden_states"),
    ),
    Bad(id="io-dtype-alone", options=("--io-dtype", "fp16"), code=NOT_AS_ASKED, says=("--io-dtype fp16", "--fp16")),
    Bad(id="unknown-io-dtype", options=("--io-dtype", "int8"), code=NOT_AS_ASKED, says=("'int8'", "fp32", "fp16")),
    Bad(
        id="no-calibration-file",
        options=("--fp16", "--calibration", "nowhere.txt"),
        code=NOT_AS_ASKED,
        says=("nowhere.txt", "--calibration"),
    ),
    # The configuration
    Bad(
        id="another-architecture",
        spoil=edit_config(model_type="roberta", architectures=["RobertaForTokenClassification"]),
        code=BROKEN_CHECKPOINT,
        says=("'roberta'", "'roberta-prelayernorm'"),
    ),
    Bad(id="no-config", spoil=remove("config.json"), code=BROKEN_CHECKPOINT, says=("config.json", "expected")),
    Bad(
        id="config-is-no-json",
        spoil=write("config.json", b'{"model_type": '),
        code=BROKEN_CHECKPOINT,
        says=("config.json", "not valid JSON"),
    ),
    Bad(
        id="config-of-another-size",
        spoil=edit_config(hidden_size=64),
        code=BROKEN_CHECKPOINT,
        says=("do not fit the configuration", "embeddings.word_embeddings.weight is (300, 32), not (300, 64)"),
    ),
    Bad(
        id="heads-do-not-divide",
        spoil=edit_config(num_attention_heads=5),
        code=BROKEN_CHECKPOINT,
        says=("hidden_size 32", "num_attention_heads 5"),
    ),
    Bad(
        id="labels-from-1",
        spoil=edit_config(id2label={"1": "O", "2": "NOUN", "3": "VERB", "4": "PLACE", "5": "TIME"}),
        code=NOT_AS_ASKED,
        says=("id2label in the config of checkpoint names the classes 1, 2, 3, 4, 5; expected 0 to 4", "config.json"),
    ),
    Bad(
        id="labels-with-a-gap",
        spoil=edit_config(id2label={"0": "O", "1": "NOUN", "2": "VERB", "3": "PLACE", "9": "TIME"}),
        code=NOT_AS_ASKED,
        says=("names the classes 0, 1, 2, 3, 9; expected 0 to 4",),
    ),
    Bad(id="no-labels", spoil=edit_config(id2label={}), code=NOT_AS_ASKED, says=("names the classes none",)),
    Bad(
        id="labels-that-are-no-texts",
        spoil=edit_config(id2label={"0": 0, "1": 1}),
        code=BROKEN_CHECKPOINT,
        says=("config.json: id2label is {'0': 0, '1': 1}; expected an object with a text for each class",),
    ),
    Bad(
        id="an-epsilon-that-is-no-number",
        spoil=edit_config(layer_norm_eps=float("nan")),
        code=BROKEN_CHECKPOINT,
        says=("config.json: layer_norm_eps is nan; expected a number from 0 to 1. Correct this field.",),
    ),
    Bad(
        id="quantized",
        spoil=edit_config(quantization_config={"quant_method": "gptq", "bits": 4}),
        code=BROKEN_CHECKPOINT,
        says=("quantization_config (gptq)", "dequantize()"),
    ),
    Bad(
        id="remote-code",
        spoil=edit_config(
            auto_map={"AutoModel": "modeling_mine.MyModel", "AutoTokenizer": ["tokenization.Mine", None]}
        ),
        code=NOT_AS_ASKED,
        says=("auto_map: AutoModel: modeling_mine.MyModel)", "Remove auto_map"),
    ),
    Bad(
        id="adapter-that-cannot-be-merged",
        spoil=write("adapter_config.json", b'{"base_model_name_or_path": "org/base", "peft_type": "PROMPT_TUNING"}'),
        code=NOT_AS_ASKED,
        says=("an adapter of peft of type PROMPT_TUNING, which cannot be merged", "LORA"),
    ),
    Bad(
        id="adapter-without-weights",
        spoil=write("adapter_config.json", b'{"peft_type": "LORA", "target_modules": ["query"]}'),
        code=BROKEN_CHECKPOINT,
        says=("adapter_config.json, but no weights of the adapter", "adapter_model.safetensors"),
    ),
    Bad(
        id="adapter-alone",
        spoil=lambda folder: [remove("*")(folder), write("adapter_config.json", b'{"peft_type": "LORA"}')(folder)],
        code=NOT_AS_ASKED,
        says=("no network that it belongs to: base_model_name_or_path in adapter_config.json is None",),
    ),
    Bad(
        id="adapter-damaged",
        spoil=write("adapter_config.json", b"{"),
        code=BROKEN_CHECKPOINT,
        says=("adapter_config.json is not valid JSON", "copy the adapter again"),
    ),
    # The weights
    Bad(id="no-weights", spoil=remove("*.safetensors"), code=BROKEN_CHECKPOINT, says=("no weights", WEIGHTS)),
    Bad(id="truncated-weights", spoil=truncate(WEIGHTS), code=BROKEN_CHECKPOINT, says=(WEIGHTS, "truncated", "again")),
    Bad(
        id="corrupt-weights",
        spoil=write(WEIGHTS, b"\x07" * 5000),
        code=BROKEN_CHECKPOINT,
        says=(WEIGHTS, "corrupt", "again"),
    ),
    Bad(id="empty-weights", spoil=write(WEIGHTS, b""), code=BROKEN_CHECKPOINT, says=(WEIGHTS, "truncated", "again")),
    Bad(
        id="lfs-pointer",
        spoil=write(WEIGHTS, LFS_POINTER),
        code=BROKEN_CHECKPOINT,
        says=("git lfs pull",),
    ),
    Bad(
        id="lfs-pointer-for-the-config",
        spoil=write("config.json", LFS_POINTER),
        code=BROKEN_CHECKPOINT,
        says=("config.json is a Git LFS pointer", "git lfs pull"),
    ),
    Bad(
        id="lfs-pointer-for-the-tokenizer",
        spoil=write("tokenizer.json", LFS_POINTER),
        code=NOT_AS_ASKED,
        says=("tokenizer.json is a Git LFS pointer", "git lfs pull"),
    ),
    Bad(
        id="nan-weights",
        spoil=edit_weights("roberta_prelayernorm.encoder.layer.1.output.dense.weight", filled(torch.nan)),
        code=BROKEN_CHECKPOINT,
        says=("NaN", "encoder.layer.1.output.dense.weight"),
    ),
    Bad(
        id="infinite-weights",
        spoil=edit_weights("classifier.bias", filled(-torch.inf)),
        code=BROKEN_CHECKPOINT,
        says=("infinite", "classifier.bias"),
    ),
    Bad(
        id="one-weight-missing",
        spoil=edit_weights("roberta_prelayernorm.encoder.layer.0.attention.self.query.bias", lambda tensor: None),
        code=BROKEN_CHECKPOINT,
        says=("incomplete", "encoder.layer.0.attention.self.query.bias", "again"),
    ),
    Bad(
        id="one-weight-missing-though-a-random-head-is-allowed",
        spoil=edit_weights("roberta_prelayernorm.embeddings.word_embeddings.weight", lambda tensor: None),
        options=("--allow-random-head",),
        code=BROKEN_CHECKPOINT,
        says=("incomplete", "embeddings.word_embeddings.weight"),
    ),
    # The tokenizer
    Bad(
        id="no-tokenizer",
        spoil=remove("*token*", "vocab*", "merges*"),
        code=NOT_AS_ASKED,
        says=("no tokenizer", "tokenizer.json", "--tokenizer"),
    ),
    Bad(
        id="corrupt-tokenizer",
        spoil=write("tokenizer.json", b'{"version": "1.0", "model"'),
        code=NOT_AS_ASKED,
        says=("tokenizer", "--tokenizer"),
    ),
    Bad(
        id="tokenizer-with-a-number-for-a-part",
        spoil=edit_tokenizer(post_processor=1),
        code=NOT_AS_ASKED,
        says=("tokenizer", "--tokenizer"),
    ),
    Bad(
        id="tokenizer-with-an-added-token-that-is-none",
        spoil=edit_tokenizer(added_tokens=[None]),
        code=NOT_AS_ASKED,
        says=("tokenizer", "--tokenizer"),
    ),
    Bad(
        id="tokenizer-with-a-merge-without-its-parts",
        spoil=edit_tokenizer(model={"type": "BPE", "vocab": {"a": 0}, "merges": ["ab"]}),
        code=NOT_AS_ASKED,
        says=("tokenizer", "--tokenizer"),
    ),
    Bad(
        id="deep-tokenizer",
        spoil=write("tokenizer.json", b"[" * 100_000),
        code=NOT_AS_ASKED,
        says=("tokenizer", "--tokenizer"),
    ),
    Bad(
        id="tokenizer-with-more-ids",
        spoil=larger_vocabulary,
        code=NOT_AS_ASKED,
        says=("ids up to 319", "0 to 299", "--tokenizer"),
    ),
    Bad(
        id="tokenizer-elsewhere-and-not-there",
        options=("--tokenizer", "no-such-folder"),
        code=NOT_AS_ASKED,
        says=("no-such-folder", "--tokenizer"),
    ),
)


@pytest.mark.parametrize("bad", TABLE, ids=lambda bad: bad.id)
def test_bad_input_is_refused_by_name_and_leaves_no_trace(
    checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: Bad
) -> None:
    source = tmp_path / "checkpoint"
    shutil.copytree(checkpoint("token-classification"), source)
    bad.spoil(source)
    home = tmp_path / "home"
    (home / "old").mkdir(parents=True)
    for name, text in OLD_BUNDLE.items():
        (home / "old" / name).write_text(text, encoding="utf-8")
    monkeypatch.chdir(home)
    for destination in ("new", "old"):
        result = CliRunner().invoke(export_command, [str(source), "-o", destination, *bad.options])
        assert result.exit_code == bad.code, result.output
        assert result.stderr.startswith("Error: ")
        assert [part for part in bad.says if part not in result.stderr] == []
        assert result.stdout == ""
    assert {path.name: path.read_text(encoding="utf-8") for path in (home / "old").iterdir()} == OLD_BUNDLE
    assert [path.name for path in home.iterdir()] == ["old"]


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("./no-such-folder", ("./no-such-folder does not exist", "config.json")),
        ("no-such-folder", ("'no-such-folder'", "hub")),
        ("some-org/no-such-model", ("'some-org/no-such-model'", "HF_HUB_OFFLINE")),
        ("file.bin", ("file.bin", "is a file", "folder")),
    ],
)
def test_a_checkpoint_that_is_not_there_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, says: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.bin").write_bytes(b"")
    result = CliRunner().invoke(export_command, [source, "--task", "fill-mask"])
    assert result.exit_code == (BROKEN_CHECKPOINT if source == "file.bin" else CheckpointNotFoundError.exit_code)
    assert [part for part in says if part not in result.stderr] == []
    assert [path.name for path in tmp_path.iterdir()] == ["file.bin"]


def test_what_is_at_the_destination_and_no_bundle_is_refused_before_any_work(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    (tmp_path / "thesis.txt").write_text("years of work", encoding="utf-8")
    result = CliRunner().invoke(export_command, [str(checkpoint("fill-mask")), "-o", str(tmp_path)])
    assert result.exit_code == DESTINATION
    assert "exists and is not a bundle" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_place_that_cannot_be_written_is_refused(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    result = CliRunner().invoke(export_command, [str(checkpoint("fill-mask")), "-o", str(tmp_path / "file" / "out")])
    assert result.exit_code == DESTINATION
    assert f"{tmp_path / 'file'} cannot be written" in result.stderr


def test_a_disk_without_room_is_refused_before_the_trace(
    checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    result = CliRunner().invoke(export_command, [str(checkpoint("fill-mask")), "-o", str(tmp_path / "out")])
    assert result.exit_code == DESTINATION
    assert "0.0 MB free" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"\xff\xfe\x00", "UTF-8"), (b"", "empty"), (b"\n\n", "empty")],
    ids=["not-utf-8", "empty", "blank-lines"],
)
def test_a_calibration_file_without_text_is_refused(
    checkpoint: Callable[[str], Path], tmp_path: Path, content: bytes, says: str
) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_bytes(content)
    arguments = [str(checkpoint("text-classification")), "--fp16", "--calibration", str(texts)]
    result = CliRunner().invoke(export_command, [*arguments, "-o", str(tmp_path / "out")])
    assert result.exit_code == NOT_AS_ASKED, result.output
    assert "texts.txt" in result.stderr
    assert says in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["texts.txt"]
