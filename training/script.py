"""The skeleton of every training script: read the corpora, train, save the checkpoint, score it, write its card."""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.optim import Optimizer

from training.loop import train
from training.model_card import write_card
from training.options import CHECKPOINTS, parse_options
from training.tokenizer import save_tokenizer, write_json

_Data = TypeVar("_Data")
_Batch = TypeVar("_Batch")

SEED: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup(Generic[_Batch]):
    """A network before its training, and how it is trained.

    Attributes:
        model: the network that becomes the checkpoint.
        tokenizer: the checkpoint's tokenizer.
        max_length: the most tokens of a text, special tokens included.
        optimizers: hold the parameters that are trained, with their peak learning rates.
        batches_of_epoch: returns the batches of an epoch; called anew for each.
        loss_of: returns the scalar loss of a batch.
        after_epoch: returns a phrase for the log that says how good the model is.
        bfloat16: whether the loss is computed in bfloat16; the weights stay in fp32.
        trained: the module with all parameters that are trained, if these are more than the model's.
        tokenizer_class: the class by which transformers loads the tokenizer.
        generation: what generation_config.json says, for a model that writes text.
        facts: figures about the training that metrics.json holds besides seed, epochs, steps, parameters and time.
    """

    model: Any
    tokenizer: Tokenizer
    max_length: int
    optimizers: Sequence[Optimizer]
    batches_of_epoch: Callable[[], Sequence[_Batch]]
    loss_of: Callable[[_Batch], Tensor]
    after_epoch: Callable[[], str]
    bfloat16: bool = True
    trained: nn.Module | None = None
    tokenizer_class: str = "RobertaTokenizer"
    generation: Mapping[str, int] | None = None
    facts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Script(Generic[_Data]):
    """A training script: what it does in its own way.

    Attributes:
        makes: the checkpoint in words, for --help.
        task: the task, after which the checkpoint's folder is called.
        card: the template of the model card, a file in training/cards.
        epochs: the number of epochs unless the command line says another.
        read: returns the corpora in the given folder, split into training, dev and test documents.
        prepare: returns the setup for these corpora; what it draws at random comes from the given generator.
        score: returns what metrics.json says of the checkpoint in the given folder.
        headline: returns the most important score, for the log.
    """

    makes: str
    task: str
    card: str
    epochs: int
    read: Callable[[Path], _Data]
    prepare: Callable[[_Data, random.Random], Setup[Any]]
    score: Callable[[Path, Tokenizer, _Data], Mapping[str, Any]]
    headline: Callable[[Mapping[str, Any]], str]


def run(script: Script[Any]) -> None:
    """Train and save a checkpoint, and report what it scores on documents that had no part in its training."""
    options = parse_options(f"Train {script.makes}.", output=CHECKPOINTS / script.task, epochs=script.epochs)
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    started = time.process_time()
    corpora = script.read(options.data)
    setup = script.prepare(corpora, random.Random(SEED))
    print(f"{setup.model.num_parameters():,} parameters", flush=True)
    steps = train(
        setup.trained or setup.model,
        epochs=options.epochs,
        optimizers=setup.optimizers,
        batches_of_epoch=setup.batches_of_epoch,
        loss_of=setup.loss_of,
        after_epoch=setup.after_epoch,
        bfloat16=setup.bfloat16,
    )
    record = {
        "seed": SEED,
        "epochs": options.epochs,
        "steps": steps,
        "parameters": setup.model.num_parameters(),
        "cpu_minutes": round((time.process_time() - started) / 60, 1),
        **setup.facts,
    }
    folder = options.output
    _save(setup, folder)
    # The checkpoint is scored as a user loads it: with the file's fp16 weights, computing in fp32.
    metrics = {"training": record, **script.score(folder, setup.tokenizer, corpora)}
    write_json(folder / "metrics.json", metrics)
    write_card(folder, script.card, metrics)
    print(f"{folder}: {script.headline(metrics)}")


def _save(setup: Setup[Any], folder: Path) -> None:
    """Write the checkpoint in fp16, with the files of its tokenizer."""
    setup.model.half().save_pretrained(folder)
    save_tokenizer(setup.tokenizer, folder, max_length=setup.max_length, tokenizer_class=setup.tokenizer_class)
    if setup.generation is not None:
        write_json(folder / "generation_config.json", setup.generation)
