"""Folders of sentence-transformers around a tiny checkpoint: written by the library, and as its old versions wrote."""

import importlib
import json
import logging
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import sentence_transformers
import torch
from sentence_transformers import SentenceTransformer

with warnings.catch_warnings():
    # Version 6 has moved its modules, and warns of the old name, which is the only one that both versions have.
    warnings.simplefilter("ignore")
    modules: Any = importlib.import_module("sentence_transformers.models")

POOLINGS: Final = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
"""The poolings of the library."""
OLD_TYPES: Final = "sentence_transformers.models."
"""What the names of the modules began with before version 5.4."""


def save_sentences(
    folder: Path, checkpoint: Path, *, poolings: Sequence[str], layers: Sequence[Any] = (), **settings: Any
) -> Path:
    """Let the library save `checkpoint` with these poolings, `layers`, and `settings` of SentenceTransformer."""
    network = modules.Transformer(str(checkpoint))
    size = network.model.config.hidden_size
    model = SentenceTransformer(
        modules=[network, modules.Pooling(size, pooling_mode=tuple(poolings)), *layers], device="cpu", **settings
    )
    model.save(str(folder))
    return folder


def dense(size: int, out: int, **options: Any) -> Any:
    """Return a Dense module with weights wide enough to tell values apart."""
    layer = modules.Dense(size, out, **options)
    generator = torch.Generator().manual_seed(out)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(0, 0.05, generator=generator)
    return layer


def normalize() -> Any:
    """Return a Normalize module."""
    return modules.Normalize()


def make_old(folder: Path, **network_settings: Any) -> Path:
    """Write `folder` anew as version 2 did: the network in a folder of its own, other names, a pickle of weights."""
    listed = json.loads((folder / "modules.json").read_text())
    network = folder / "0_Transformer"
    network.mkdir()
    for path in folder.iterdir():
        if path.is_file() and path.name not in {"modules.json", "config_sentence_transformers.json"}:
            shutil.move(path, network)
    listed[0]["path"] = network.name
    for module in listed:
        module["type"] = OLD_TYPES + module["type"].rpartition(".")[2]
    change(folder / "modules.json", lambda _: listed)
    change(network / "sentence_bert_config.json", lambda _: network_settings)
    change(
        folder / "1_Pooling" / "config.json",
        lambda new: {
            "word_embedding_dimension": new["embedding_dimension"],
            "pooling_mode_cls_token": False,
            "pooling_mode_mean_tokens": new["pooling_mode"] == "mean",
            "pooling_mode_max_tokens": new["pooling_mode"] == "max",
            "pooling_mode_mean_sqrt_len_tokens": False,
        },
    )
    for path in folder.glob("*_Dense"):
        change(
            path / "config.json",
            lambda new: {key: new[key] for key in ("in_features", "out_features", "bias", "activation_function")},
        )
        _pickle_weights(path)
    for path in folder.glob("*_Normalize"):
        shutil.rmtree(path)
    return folder


def change(path: Path, changed: Any) -> None:
    """Write what `changed` makes of the JSON in the file `path`."""
    old = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(changed(old)))


def _pickle_weights(folder: Path) -> None:
    from safetensors.torch import load_file

    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def encoded(folder: Path, texts: Sequence[str], **options: Any) -> Any:
    """Return what the library's `encode` gives, fp32."""
    logging.getLogger(sentence_transformers.__name__).setLevel(logging.ERROR)
    return SentenceTransformer(str(folder), device="cpu").encode(list(texts), **options)
