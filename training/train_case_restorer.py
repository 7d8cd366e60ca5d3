"""Make the checkpoint for text2text generation: an encoder-decoder that restores capitals and punctuation.

    python -m training.train_case_restorer [--data FOLDER] [--output FOLDER] [--epochs N]

It is trained on the Brown corpus. See training/README.md.
"""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import EncoderDecoderConfig, RobertaPreLayerNormConfig

from rpln_model import EncoderDecoderModel
from rpln_model.layers import Layer
from training.batches import batches_by_length
from training.brown import Document
from training.corpora import brown_split
from training.local_attention import point_cross_attention_at_places, point_first_layer_at_neighbours
from training.loop import muon_and_adamw
from training.networks import NO_DROPOUT, SHARED, WIDE_START, table_sizes
from training.restoration import bare_text, written_sentences
from training.restoration_scores import WordByWord, restoration_scores
from training.restoring import Pair, encode_pairs, restored_texts, restorer_batch, token_accuracy
from training.script import Script, Setup, run
from training.split import Split
from training.tokenizer import END_ID, FIRST_LETTERS_APART, PAD_ID, START_ID, train_tokenizer

_VOCABULARY_SIZE: Final = 2048
_MAX_LENGTH: Final = 192  # of either side
_ENCODER_LAYERS: Final = 3
_DECODER_LAYERS: Final = 2
_BATCH_TOKENS: Final = 2048
_MATRIX_RATE: Final = 0.02
_OTHER_RATE: Final = 3e-3

# Where each head of the first layer looks, and each head of the decoder's into the encoder: at the next token to copy,
# which is so many places back as marks were inserted.
_ENCODER_OFFSETS: Final = (-1, 1, -2, 2)
_DECODER_OFFSETS: Final = (-1, -2, -3, -4)
_CROSS_OFFSETS: Final = (1, 0, -1, -2)
_COPY_SCALE: Final = 0.7

_GENERATION: Final = {
    "bos_token_id": START_ID,
    "decoder_start_token_id": START_ID,
    "eos_token_id": END_ID,
    "pad_token_id": PAD_ID,
    "max_length": _MAX_LENGTH,
}
_EXAMPLES: Final = 8


def _setup(documents: Split[Document], rng: random.Random) -> Setup[list[Pair]]:
    texts = written_sentences(documents.train)
    tokenizer = train_tokenizer(
        [*texts, *map(bare_text, texts)], vocabulary_size=_VOCABULARY_SIZE, pieces=FIRST_LETTERS_APART
    )
    model = EncoderDecoderModel(_config(tokenizer))
    _prepare_to_copy(model)
    pairs = encode_pairs(tokenizer, texts, max_length=_MAX_LENGTH)
    dev = encode_pairs(tokenizer, written_sentences(documents.dev), max_length=_MAX_LENGTH)

    def loss_of(group: list[Pair]) -> Tensor:
        loss: Tensor = model(**restorer_batch(group), use_cache=False).loss
        return loss

    return Setup(
        model=model,
        tokenizer=tokenizer,
        max_length=_MAX_LENGTH,
        optimizers=muon_and_adamw(model, matrix_rate=_MATRIX_RATE, other_rate=_OTHER_RATE),
        batches_of_epoch=lambda: batches_by_length(pairs, max_tokens=_BATCH_TOKENS, rng=rng),
        loss_of=loss_of,
        after_epoch=lambda: f"{token_accuracy(model, dev):.4f} of the dev tokens right",
        generation=_GENERATION,
        facts={"sentences": len(texts)},
    )


def _config(tokenizer: Tokenizer) -> EncoderDecoderConfig:
    side = {
        **SHARED,
        **NO_DROPOUT,
        **WIDE_START,
        **table_sizes(tokenizer, max_length=_MAX_LENGTH),
        "intermediate_size": 512,
    }
    encoder = RobertaPreLayerNormConfig(**side, num_hidden_layers=_ENCODER_LAYERS)
    decoder = RobertaPreLayerNormConfig(
        **side, num_hidden_layers=_DECODER_LAYERS, is_decoder=True, add_cross_attention=True
    )
    config = EncoderDecoderConfig(
        encoder=encoder.to_dict(), decoder=decoder.to_dict(), decoder_start_token_id=START_ID, pad_token_id=PAD_ID
    )
    config.eos_token_id = END_ID
    return config


@torch.no_grad()
def _prepare_to_copy(model: EncoderDecoderModel) -> None:
    """Let the decoder begin as a poor copyist, which then learns to be a good one instead of learning to write."""
    encoder, decoder = model.encoder, model.decoder.roberta_prelayernorm
    assert encoder is not None
    point_first_layer_at_neighbours(encoder, offsets=_ENCODER_OFFSETS)
    point_first_layer_at_neighbours(decoder, offsets=_DECODER_OFFSETS)
    decoder.embeddings.word_embeddings.weight.copy_(encoder.embeddings.word_embeddings.weight)
    decoder.embeddings.position_embeddings.weight.copy_(encoder.embeddings.position_embeddings.weight)
    copy = torch.eye(encoder.config.hidden_size)
    for layer in cast(Sequence[Layer], decoder.encoder.layer):
        point_cross_attention_at_places(layer, offsets=_CROSS_OFFSETS)
        layer.crossattention.self.value.weight += _COPY_SCALE * copy
        layer.crossattention.output.dense.weight += _COPY_SCALE * copy
    model.decoder.lm_head.dense.weight += copy


def scores_of_saved(folder: Path, tokenizer: Tokenizer, documents: Split[Document]) -> Mapping[str, Any]:
    """Return the scores of the checkpoint in `folder` and of the baseline, and sentences that it restores."""
    model = EncoderDecoderModel.from_pretrained(folder)
    baseline = WordByWord(written_sentences(documents.train))
    dev, test = written_sentences(documents.dev), written_sentences(documents.test)
    bare = [bare_text(text) for text in test]
    restored = restored_texts(model, tokenizer, bare, max_length=_MAX_LENGTH)
    restored_dev = restored_texts(model, tokenizer, [bare_text(text) for text in dev], max_length=_MAX_LENGTH)
    return {
        "dev": _rates(dev, restored_dev),
        "test": _rates(test, restored),
        "baseline": _rates(test, [baseline.restore(text) for text in bare]),
        "examples": [
            {"bare": bare[place], "restored": restored[place], "written": test[place]}
            for place in range(len(test) // _EXAMPLES // 2, len(test), len(test) // _EXAMPLES)
        ],
    }


def _rates(wanted: Sequence[str], restored: Sequence[str]) -> dict[str, Any]:
    scores = restoration_scores(wanted, restored)
    return {
        "sentences": len(wanted),
        "words": scores.words,
        "f1": scores.both.f1,
        "f1_of": {name: finding.f1 for name, finding in scores.findings.items()},
        "exact": scores.exact / scores.words,
        "kept": scores.kept / scores.words,
        "added": scores.added / scores.words,
    }


SCRIPT: Final = Script(
    makes="the checkpoint for text2text generation, which restores capitals and punctuation",
    task="text2text-generation",
    card="case_restorer.md",
    epochs=3,
    read=brown_split,
    prepare=_setup,
    score=scores_of_saved,
    headline=lambda metrics: f"F1 {metrics['test']['f1']:.3f} over {metrics['test']['words']:,} test words",
)

if __name__ == "__main__":
    run(SCRIPT)
