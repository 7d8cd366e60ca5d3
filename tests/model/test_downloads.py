"""What is fetched from the hub: the files that a checkpoint is read from, and never code. A folder stands in for it."""

import shutil
from pathlib import Path
from typing import Any, Final

import huggingface_hub
import pytest
from huggingface_hub.utils._paths import filter_repo_objects

from rpln_model.weights import local_folder

OTHERS: Final = (
    "README.md",
    "modeling_mine.py",
    "onnx/model.onnx",
    "tf_model.h5",
    "training_args.bin",
    "checkpoint-500/optimizer.pt",
)
"""Files of repositories that nothing here reads."""
MODULES: Final = ("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json")
NEEDED: Final = {
    "one file": ("config.json", "generation_config.json", "model.safetensors"),
    "shards": ("config.json", "model.safetensors.index.json", "model-00001-of-00001.safetensors"),
    "pickle": ("config.json", "pytorch_model.bin"),
    "shards of pickles": ("config.json", "pytorch_model.bin.index.json", "pytorch_model-00001-of-00001.bin"),
    "adapter": ("adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "tokenizer_config.json"),
    "old adapter": ("adapter_config.json", "adapter_model.bin", "vocab.json", "merges.txt", "tokenizer_config.json"),
    "adapter beside its network": (
        "config.json",
        "model.safetensors",
        "adapter_config.json",
        "adapter_model.safetensors",
    ),
    "sentences": (
        *MODULES,
        "config.json",
        "model.safetensors",
        "1_Pooling/config.json",
        "2_Dense/config.json",
        "2_Dense/model.safetensors",
    ),
    "sentences of old": (
        *MODULES[:1],
        "0_Transformer/config.json",
        "0_Transformer/sentence_bert_config.json",
        "0_Transformer/pytorch_model.bin",
        "0_Transformer/vocab.json",
        "0_Transformer/merges.txt",
        "0_Transformer/tokenizer_config.json",
        "1_Pooling/config.json",
        "2_Dense/config.json",
        "2_Dense/pytorch_model.bin",
    ),
}
"""The files of a repository that are read, by the kind of checkpoint."""


@pytest.mark.parametrize("kind", NEEDED)
def test_what_a_checkpoint_is_read_from_is_fetched_and_nothing_else(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = [f"{Path(name).parent}/custom.py" for name in NEEDED[kind] if "/" in name]
    fill(tmp_path / "hub", [*NEEDED[kind], *OTHERS, *code])
    put_in_place_of_the_hub(tmp_path / "hub", tmp_path / "snapshot", monkeypatch)
    assert local_folder("someone/model", revision="v1") == tmp_path / "snapshot"
    assert files(tmp_path / "snapshot") == set(NEEDED[kind])


def test_pickles_are_left_where_there_are_safetensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "hub", [*NEEDED["one file"], "pytorch_model.bin"])
    put_in_place_of_the_hub(tmp_path / "hub", tmp_path / "snapshot", monkeypatch)
    local_folder("someone/model", revision="v1")
    assert files(tmp_path / "snapshot") == set(NEEDED["one file"])


def fill(folder: Path, names: list[str]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def put_in_place_of_the_hub(hub: Path, snapshot: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let downloads copy from the folder `hub`. Patterns are applied by the function that the hub's client has."""

    def download(model_id: str, *, revision: str, allow_patterns: list[str], **_: Any) -> str:
        assert (model_id, revision) == ("someone/model", "v1")
        snapshot.mkdir(exist_ok=True)
        for name in filter_repo_objects(sorted(files(hub)), allow_patterns=allow_patterns):
            (snapshot / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(hub / name, snapshot / name)
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
