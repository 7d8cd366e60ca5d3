"""Make the embedded language model: a decoder that continues English text, trained on the Brown corpus.

    python -m training.train_causal_lm [--data FOLDER] [--output FOLDER] [--epochs N]

See training/README.md.
"""

import random
import time
from collections.abc import Sequence
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
from training.loop import muon_and_adamw, train
from training.model_card import write_language_model_card
from training.options import parse_options
from training.perplexity import Surprise, ngram_row, surprise_of_network, surprise_of_ngrams
from training.split import Split
from training.tokenizer import END_ID, PAD_ID, START_ID, open_ended, save_tokenizer, train_tokenizer, write_json
from training.windows import Stream, full_windows, streams_of

_OUTPUT: Final = "rpln_export/default_checkpoints/text-generation"

_SEED: Final = 20
_VOCABULARY_SIZE: Final = 4096
_MAX_LENGTH: Final = 256  # tokens, <s> included
_EPOCHS: Final = 5
_BATCH_WINDOWS: Final = 8
_MATRIX_RATE: Final = 0.02
_OTHER_RATE: Final = 3e-3
_INITIALIZER_RANGE: Final = 0.05  # the usual 0.02 suits wider models; this one needs twice the steps from there
_HEAD_OFFSETS: Final = (-1, -2, -3, -4)  # whom each head of the first layer looks at
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


def main() -> None:
    """Train, save, and report how well the saved checkpoint foretells files that had no part in it."""
    options = parse_options("Train the embedded language model.", output=_OUTPUT, epochs=_EPOCHS)
    torch.manual_seed(_SEED)
    rng = random.Random(_SEED)
    torch.set_num_threads(1)
    started = time.process_time()
    split = brown_split(options.data)
    tokenizer = _tokenizer_for(split.train)
    model = RobertaPreLayerNormForCausalLM(_config(tokenizer))
    point_first_layer_at_neighbours(model.roberta_prelayernorm, offsets=_HEAD_OFFSETS)
    print(f"{len(split.train)} files to train on, {model.num_parameters():,} parameters", flush=True)
    steps = _train(model, tokenizer, split, rng=rng, epochs=options.epochs)

    folder = options.output
    model.half().save_pretrained(folder)
    save_tokenizer(tokenizer, folder, max_length=_MAX_LENGTH, tokenizer_class="PreTrainedTokenizerFast")
    write_json(folder / "generation_config.json", _GENERATION)
    metrics = {
        "training": {
            "seed": _SEED,
            "epochs": options.epochs,
            "steps": steps,
            "parameters": model.num_parameters(),
            "cpu_minutes": round((time.process_time() - started) / 60, 1),
        },
        **report_on_saved(folder, tokenizer, split),
    }
    write_json(folder / "metrics.json", metrics)
    write_language_model_card(folder, metrics)
    print(
        f"{folder}: perplexity {metrics['test']['token_perplexity']:.1f} of {metrics['test']['tokens']:,} test tokens"
    )


def report_on_saved(folder: Path, tokenizer: Tokenizer, split: Split[Document]) -> dict[str, Any]:
    """Score the checkpoint as a user loads it, from the file's fp16 weights, computing in fp32, and the baselines."""
    model = RobertaPreLayerNormForCausalLM.from_pretrained(folder)
    train_streams, dev, test = (streams_of(tokenizer, side) for side in (split.train, split.dev, split.test))
    surprises = {
        "dev": surprise_of_network(model, dev, length=_MAX_LENGTH),
        "test": surprise_of_network(model, test, length=_MAX_LENGTH),
    }
    for name, order in _BASELINES.items():
        rows = [ngram_row(stream, order=order) for stream in train_streams]
        ngrams = KneserNey(rows, order=order, vocabulary_size=tokenizer.get_vocab_size())
        surprises[name] = surprise_of_ngrams(ngrams, test)
    scores = {name: _perplexities(surprise) for name, surprise in surprises.items()}
    return {**scores, "examples": _examples(model, tokenizer)}


def _tokenizer_for(documents: Sequence[Document]) -> Tokenizer:
    texts = (text.text for text in texts_of(documents))
    return open_ended(train_tokenizer(texts, vocabulary_size=_VOCABULARY_SIZE))


def _config(tokenizer: Tokenizer) -> RobertaPreLayerNormConfig:
    return RobertaPreLayerNormConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=512,
        hidden_dropout_prob=0.0,  # in few epochs nothing is learned by heart
        attention_probs_dropout_prob=0.0,
        initializer_range=_INITIALIZER_RANGE,
        max_position_embeddings=_MAX_LENGTH + PAD_ID + 1,  # positions are counted from PAD_ID + 1
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        is_decoder=True,
        bos_token_id=START_ID,
        pad_token_id=PAD_ID,
        eos_token_id=END_ID,
    )


def _train(
    model: RobertaPreLayerNormForCausalLM,
    tokenizer: Tokenizer,
    split: Split[Document],
    *,
    rng: random.Random,
    epochs: int,
) -> int:
    """Return the number of steps. Every epoch cuts the documents anew."""
    streams, dev = streams_of(tokenizer, split.train), streams_of(tokenizer, split.dev)

    def loss_of(batch: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):  # the weights stay in fp32
            loss: Tensor = model(input_ids=batch, labels=batch).loss
        return loss

    return train(
        model,
        epochs=epochs,
        optimizers=muon_and_adamw(model, matrix_rate=_MATRIX_RATE, other_rate=_OTHER_RATE),
        batches_of_epoch=lambda: _batches(streams, rng),
        loss_of=loss_of,
        after_epoch=lambda: (
            f"perplexity {surprise_of_network(model, dev, length=_MAX_LENGTH).token_perplexity:.1f} of the dev tokens"
        ),
    )


def _batches(streams: Sequence[Stream], rng: random.Random) -> list[Tensor]:
    windows: list[list[int]] = []
    for stream in streams:
        windows += full_windows(stream, length=_MAX_LENGTH, first=rng.randrange(_LATEST_START))
    rng.shuffle(windows)
    return [torch.tensor(windows[start : start + _BATCH_WINDOWS]) for start in range(0, len(windows), _BATCH_WINDOWS)]


def _perplexities(surprise: Surprise) -> dict[str, float]:
    return {
        **asdict(surprise),
        "token_perplexity": surprise.token_perplexity,
        "word_perplexity": surprise.word_perplexity,
    }


def _examples(model: RobertaPreLayerNormForCausalLM, tokenizer: Tokenizer) -> list[dict[str, str]]:
    torch.manual_seed(_SEED)
    return [
        {
            "how": how,
            "prompt": prompt,
            "text": continuation(model, tokenizer, prompt, max_new_tokens=40, sampling=sampling),
        }
        for prompt in _PROMPTS
        for how, sampling in _EXAMPLES.items()
    ]


if __name__ == "__main__":
    main()
