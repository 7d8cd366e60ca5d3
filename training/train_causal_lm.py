"""Make the checkpoint for text generation: a decoder that continues English text, trained on the Brown corpus.

    python -m training.train_causal_lm [--data FOLDER] [--output FOLDER] [--epochs N]

See training/README.md.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import RobertaPreLayerNormConfig

from rpln_model import RobertaPreLayerNormForCausalLM
from training.brown import Document
from training.continuations import GREEDY, Sampling, continuation
from training.corpora import brown_split
from training.examples import texts_of
from training.kneser_ney import KneserNey
from training.local_attention import point_first_layer_at_neighbours
from training.loop import muon_and_adamw
from training.networks import NO_DROPOUT, SHARED, WIDE_START, table_sizes
from training.perplexity import Surprise, ngram_row, surprise_of_network, surprise_of_ngrams
from training.script import SEED, Script, Setup, run
from training.split import Split
from training.tokenizer import END_ID, PAD_ID, START_ID, open_ended, train_tokenizer
from training.windows import Stream, full_windows, streams_of

_VOCABULARY_SIZE: Final = 4096
_MAX_LENGTH: Final = 256
_BATCH_WINDOWS: Final = 8
_MATRIX_RATE: Final = 0.02
_OTHER_RATE: Final = 3e-3
_HEAD_OFFSETS: Final = (-1, -2, -3, -4)  # of the tokens that the heads of the first layer look at
_LATEST_START: Final = 10  # a document's first window begins with one of so many sentences

_GENERATION: Final = {
    "bos_token_id": START_ID,
    "eos_token_id": END_ID,
    "pad_token_id": PAD_ID,
    "max_length": _MAX_LENGTH,
}
_BASELINES: Final = {"bigram": 2, "trigram": 3}
_PROMPTS: Final = ("The old man walked to the", "In the United States, the", "She said that")
_EXAMPLES: Final[dict[str, Sampling]] = {
    "greedy": GREEDY,
    "sampled": Sampling(temperature=0.8, top_k=40),
}


def _setup(documents: Split[Document], rng: random.Random) -> Setup[Tensor]:
    """Return the setup; every epoch cuts the documents anew."""
    texts = (text.text for text in texts_of(documents.train))
    tokenizer = open_ended(train_tokenizer(texts, vocabulary_size=_VOCABULARY_SIZE))
    model = RobertaPreLayerNormForCausalLM(_config(tokenizer))
    point_first_layer_at_neighbours(model.roberta_prelayernorm, offsets=_HEAD_OFFSETS)
    streams, dev = streams_of(tokenizer, documents.train), streams_of(tokenizer, documents.dev)

    def loss_of(windows: Tensor) -> Tensor:
        loss: Tensor = model(input_ids=windows, labels=windows).loss
        return loss

    def dev_perplexity() -> str:
        surprise = surprise_of_network(model, dev, length=_MAX_LENGTH)
        return f"perplexity {surprise.token_perplexity:.1f} of the dev tokens"

    return Setup(
        model=model,
        tokenizer=tokenizer,
        max_length=_MAX_LENGTH,
        optimizers=muon_and_adamw(model, matrix_rate=_MATRIX_RATE, other_rate=_OTHER_RATE),
        batches_of_epoch=lambda: _batches(streams, rng),
        loss_of=loss_of,
        after_epoch=dev_perplexity,
        tokenizer_class="PreTrainedTokenizerFast",
        generation=_GENERATION,
    )


def _config(tokenizer: Tokenizer) -> RobertaPreLayerNormConfig:
    return RobertaPreLayerNormConfig(
        **SHARED,
        **NO_DROPOUT,
        **WIDE_START,
        **table_sizes(tokenizer, max_length=_MAX_LENGTH),
        num_hidden_layers=4,
        intermediate_size=512,
        is_decoder=True,
    )


def _batches(streams: Sequence[Stream], rng: random.Random) -> list[Tensor]:
    windows: list[list[int]] = []
    for stream in streams:
        windows += full_windows(stream, length=_MAX_LENGTH, first=rng.randrange(_LATEST_START))
    rng.shuffle(windows)
    return [torch.tensor(windows[start : start + _BATCH_WINDOWS]) for start in range(0, len(windows), _BATCH_WINDOWS)]


def scores_of_saved(folder: Path, tokenizer: Tokenizer, documents: Split[Document]) -> Mapping[str, Any]:
    """Return the perplexities of the checkpoint in `folder` and of the baselines, and texts that it continues."""
    model = RobertaPreLayerNormForCausalLM.from_pretrained(folder)
    training, dev, test = (streams_of(tokenizer, side) for side in (documents.train, documents.dev, documents.test))
    surprises = {
        "dev": surprise_of_network(model, dev, length=_MAX_LENGTH),
        "test": surprise_of_network(model, test, length=_MAX_LENGTH),
    }
    for name, order in _BASELINES.items():
        rows = [ngram_row(stream, order=order) for stream in training]
        ngrams = KneserNey(rows, order=order, vocabulary_size=tokenizer.get_vocab_size())
        surprises[name] = surprise_of_ngrams(ngrams, test)
    scores = {name: _perplexities(surprise) for name, surprise in surprises.items()}
    return {**scores, "examples": _examples(model, tokenizer)}


def _perplexities(surprise: Surprise) -> dict[str, float]:
    return {
        **asdict(surprise),
        "token_perplexity": surprise.token_perplexity,
        "word_perplexity": surprise.word_perplexity,
    }


def _examples(model: RobertaPreLayerNormForCausalLM, tokenizer: Tokenizer) -> list[dict[str, str]]:
    torch.manual_seed(SEED)
    return [
        {
            "how": how,
            "prompt": prompt,
            "text": continuation(model, tokenizer, prompt, max_new_tokens=40, sampling=sampling),
        }
        for prompt in _PROMPTS
        for how, sampling in _EXAMPLES.items()
    ]


SCRIPT: Final = Script(
    makes="the checkpoint for text generation",
    task="text-generation",
    card="causal_lm.md",
    epochs=5,
    read=brown_split,
    prepare=_setup,
    score=scores_of_saved,
    headline=lambda metrics: (
        f"perplexity {metrics['test']['token_perplexity']:.1f} of {metrics['test']['tokens']:,} test tokens"
    ),
)

if __name__ == "__main__":
    run(SCRIPT)
