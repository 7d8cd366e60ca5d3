"""Conversion of checkpoints that transformers cannot load: files of fairseq and folders of DinkyTrain.

`as_transformers` and `tokenizer_for` serve the commands that take any checkpoint; `convert` makes a folder to keep.
"""

import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rpln_export.checkpoint.fairseq_tokenizer import FairseqVocabulary, tokenizer_from_fairseq
from rpln_export.checkpoint.quiet import quiet_transformers
from rpln_export.checkpoint.tokenizer import save_tokenizer
from rpln_export.destination import check_writable, published, temporary_beside
from rpln_export.errors import DestinationError, PlanError
from rpln_export.plan.export_plan import FAIRSEQ_SUFFIX
from rpln_export.plan.source import Origin
from rpln_graphs.temporary import temporary_folder
from rpln_model.checkpoints import load_config
from rpln_model.config import usable_length
from rpln_model.dinkytrain import is_dinkytrain, network_from_dinkytrain
from rpln_model.errors import CheckpointError
from rpln_model.fairseq import network_from_fairseq
from rpln_model.network import Network
from rpln_model.weights import CONFIG, PICKLE, SAFETENSORS, local_folder, weight_files
from rpln_runtime.replacing import contents
from rpln_runtime.tasks import TASKS

CLASSIFICATION: Final = "text-classification"
"""The task whose head a file of fairseq may have besides that of fill-mask."""

_TOKENIZER_FILES: Final = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Readable:
    """A checkpoint that `make_plan` can read.

    Attributes:
        source: its folder or hub id; None for the embedded default.
        origin: the checkpoint that `source` was converted from, if it was.
        tokenizer: where its own tokenizer is expected, if that is not `source`; None for files of fairseq, which have
            none, and for checkpoints that were not converted.
    """

    source: str | None
    origin: Origin | None
    tokenizer: str | None


@contextmanager
def as_transformers(
    checkpoint: str | None, *, task: str | None = None, revision: str | None = None, beside: Path | None = None
) -> Iterator[Readable]:
    """Yield `checkpoint` as it is, or converted for the `task` into a folder that exists within the block.

    The folder lies beside the destination `beside`; None means where temporary files lie. Raises CheckpointError or
    ConfigError for a checkpoint that cannot be converted, and DestinationError where the folder cannot be made.
    """
    source = checkpoint and _named_by_its_folder(checkpoint)
    path = _foreign(source, revision) if source else None
    if source is None or path is None:
        yield Readable(source=source, origin=None, tokenizer=None)
        return
    with _temporary_folder(beside) as folder:
        with quiet_transformers():
            _network(path, task).save_pretrained(folder)
        is_file = path.is_file()
        origin = Origin(name=Path(source).absolute().name, files=(path,) if is_file else tuple(weight_files(path)))
        yield Readable(source=str(folder), origin=origin, tokenizer=None if is_file else source)


@contextmanager
def tokenizer_for(
    readable: Readable,
    *,
    tokenizer: str | None,
    vocabulary: FairseqVocabulary | None,
    beside: Path | None = None,
) -> Iterator[str | None]:
    """Yield the folder or hub id of the tokenizer: the named one, one made of `vocabulary`, or the checkpoint's own.

    The folder of the one that is made lies beside the destination `beside`, as that of `as_transformers`. Raises
    PlanError where two are named, where there is none, and for a vocabulary that is not the checkpoint's, and
    DestinationError where the folder cannot be made.
    """
    if tokenizer and vocabulary:
        raise PlanError("--tokenizer and --dict with --bpe both name a tokenizer. Leave one of them out.")
    if vocabulary and readable.source is None:
        raise PlanError(
            "--dict and --bpe name the vocabulary of a checkpoint, but no CHECKPOINT was given. Name it, too."
        )
    if vocabulary and readable.source:
        with _temporary_folder(beside) as folder:
            _save_vocabulary(vocabulary, folder, config_of=readable.source)
            yield str(folder)
        return
    if not (tokenizer or readable.tokenizer) and readable.origin:
        raise PlanError(
            f"{readable.origin.name} is a checkpoint of fairseq, which holds no vocabulary. Name its files with "
            "--dict dict.txt --bpe encoder.json vocab.bpe, or a folder or hub id with --tokenizer."
        )
    yield tokenizer or readable.tokenizer


def convert(
    checkpoint: str,
    destination: Path,
    *,
    task: str | None = None,
    revision: str | None = None,
    vocabulary: FairseqVocabulary | None = None,
) -> None:
    """Write the checkpoint to `destination` as transformers loads it: config.json, weights, and a tokenizer if any.

    The tokenizer is made of fairseq's `vocabulary`, or copied from DinkyTrain's folder. Raises PlanError for a
    checkpoint that needs no conversion, for a task whose head it lacks and for a wrong vocabulary, DestinationError for
    a folder that is in use or cannot be written, and CheckpointError or ConfigError for a checkpoint that cannot be
    converted.
    """
    check_writable(destination)
    if destination.exists() and (not destination.is_dir() or contents(destination)):
        raise DestinationError(f"{destination} exists already and is not replaced. Choose another folder with -o.")
    path = _foreign(_named_by_its_folder(checkpoint), revision)
    if path is None:
        raise PlanError(
            f"transformers loads {checkpoint} as it is, so that there is nothing to convert. Expected a .pt file of "
            "fairseq or a folder of DinkyTrain (model type roberta)."
        )
    with quiet_transformers():
        network = _network(path, task)
    _check_head(network, task, path)
    with published(destination, mark=CONFIG) as folder:
        with quiet_transformers():
            network.save_pretrained(folder)
        if vocabulary:
            _save_vocabulary(vocabulary, folder, config_of=str(folder))
        elif path.is_dir():
            for name in _TOKENIZER_FILES:
                if (path / name).is_file():
                    shutil.copyfile(path / name, folder / name)


def vocabulary_from_options(dictionary: Path | None, bpe: tuple[Path, Path] | None) -> FairseqVocabulary | None:
    """Return the vocabulary that --dict and --bpe name together. Raises PlanError where only one is given."""
    if dictionary is None and bpe is None:
        return None
    if dictionary is None or bpe is None:
        raise PlanError("--dict and --bpe go together: name both, as in --dict dict.txt --bpe encoder.json vocab.bpe.")
    return FairseqVocabulary(dictionary=dictionary, encoder=bpe[0], merges=bpe[1])


def _temporary_folder(beside: Path | None) -> AbstractContextManager[Path]:
    return temporary_folder() if beside is None else temporary_beside(beside)


def _named_by_its_folder(checkpoint: str) -> str:
    """Return the folder of a weight file that transformers knows by its name; any other checkpoint as it is."""
    path = Path(checkpoint).expanduser()
    if path.name not in (PICKLE, SAFETENSORS) or not path.is_file():
        return checkpoint
    if weight_files(path.parent) != [path]:
        raise CheckpointError(
            f"{path.parent} holds other weights beside {path.name}, and transformers would read those. Move one of "
            "them to another folder."
        )
    return str(path.parent)


def _foreign(checkpoint: str, revision: str | None) -> Path | None:
    """Return the file of fairseq or the folder of DinkyTrain; None for a checkpoint that transformers loads."""
    path = Path(checkpoint).expanduser()
    if path.is_file() and path.suffix == FAIRSEQ_SUFFIX:
        return path
    folder = local_folder(checkpoint, revision=revision)
    return folder if is_dinkytrain(folder) else None


def _network(path: Path, task: str | None) -> Network:
    """Return the network in a folder of DinkyTrain, or in a file of fairseq with the head of the task."""
    if path.is_dir():
        return network_from_dinkytrain(path)
    return network_from_fairseq(path, classification=task in (None, CLASSIFICATION))


def _check_head(network: Network, task: str | None, path: Path) -> None:
    """Raise PlanError unless the `network` has the head of the `task`, if a task was named."""
    architecture = type(network).__name__
    tasks = [name for name, row in TASKS.items() if row.architecture == architecture]
    if task is not None and task not in tasks:
        raise PlanError(
            f"{path.name} has no head for --task {task}: it is a {architecture}. Leave --task out, or choose "
            f"{' or '.join(tasks)}."
        )


def _save_vocabulary(vocabulary: FairseqVocabulary, folder: Path, *, config_of: str) -> None:
    """Write the tokenizer that `vocabulary` makes for the network in `config_of` to `folder`."""
    config = load_config(config_of)
    tokenizer = tokenizer_from_fairseq(vocabulary, vocab_size=config.vocab_size, usable_length=usable_length(config))
    save_tokenizer(tokenizer, folder)
