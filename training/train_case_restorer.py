"""Make the embedded encoder-decoder: it restores capitals and punctuation, and was trained on the Brown corpus.

    python -m training.train_case_restorer [--data FOLDER] [--output FOLDER] [--epochs N]

See training/README.md.
"""

import random
import time
from collections.abc import Sequence
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
from training.loop import muon_and_adamw, train
from training.model_card import write_restorer_card
from training.options import parse_options
from training.restoration import bare_text, written_sentences
from training.restoration_scores import WordByWord, restoration_scores
from training.restoring import Pair, batch_from_pairs, encode_pairs, restored_texts, token_accuracy
from training.split import Split
from training.tokenizer import (
    END_ID,
    FIRST_LETTERS_APART,
    PAD_ID,
    START_ID,
    save_tokenizer,
    train_tokenizer,
    write_json,
)

_OUTPUT: Final = "rpln_export/default_checkpoints/text2text-generation"

_SEED: Final = 20
_VOCABULARY_SIZE: Final = 2048
_MAX_LENGTH: Final = 192  # tokens of either side, <s> and </s> included
_ENCODER_LAYERS: Final = 3
_DECODER_LAYERS: Final = 2
_INITIALIZER_RANGE: Final = 0.05  # the usual 0.02 suits wider models; this one needs more steps from there
_EPOCHS: Final = 3
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


def main() -> None:
    """Train, save, and report what the saved checkpoint restores in files that had no part in it."""
    options = parse_options("Train the embedded encoder-decoder.", output=_OUTPUT, epochs=_EPOCHS)
    torch.manual_seed(_SEED)
    rng = random.Random(_SEED)
    torch.set_num_threads(1)
    started = time.process_time()
    split = brown_split(options.data)
    texts = written_sentences(split.train)
    tokenizer = _tokenizer_for(texts)
    model = EncoderDecoderModel(_config(tokenizer))
    _prepare_to_copy(model)
    print(f"{len(texts)} sentences to train on, {model.num_parameters():,} parameters", flush=True)
    steps = _train(model, tokenizer, texts, written_sentences(split.dev), rng=rng, epochs=options.epochs)

    folder = options.output
    model.half().save_pretrained(folder)
    save_tokenizer(tokenizer, folder, max_length=_MAX_LENGTH)
    write_json(folder / "generation_config.json", _GENERATION)
    metrics = {
        "training": {
            "seed": _SEED,
            "epochs": options.epochs,
            "steps": steps,
            "sentences": len(texts),
            "parameters": model.num_parameters(),
            "cpu_minutes": round((time.process_time() - started) / 60, 1),
        },
        **report_on_saved(folder, tokenizer, split),
    }
    write_json(folder / "metrics.json", metrics)
    write_restorer_card(folder, metrics)
    print(f"{folder}: F1 {metrics['test']['f1']:.3f} over {metrics['test']['words']:,} test words")


def report_on_saved(folder: Path, tokenizer: Tokenizer, split: Split[Document]) -> dict[str, Any]:
    """Score the checkpoint as a user loads it, from the file's fp16 weights, computing in fp32, and the baseline."""
    model = EncoderDecoderModel.from_pretrained(folder)
    baseline = WordByWord(written_sentences(split.train))
    dev, test = written_sentences(split.dev), written_sentences(split.test)
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


def _tokenizer_for(texts: Sequence[str]) -> Tokenizer:
    return train_tokenizer(
        [*texts, *map(bare_text, texts)], vocabulary_size=_VOCABULARY_SIZE, pieces=FIRST_LETTERS_APART
    )


def _train(
    model: EncoderDecoderModel,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    dev_texts: Sequence[str],
    *,
    rng: random.Random,
    epochs: int,
) -> int:
    """Return the number of steps."""
    pairs = encode_pairs(tokenizer, texts, max_length=_MAX_LENGTH)
    dev = encode_pairs(tokenizer, dev_texts, max_length=_MAX_LENGTH)

    def loss_of(group: list[Pair]) -> Tensor:
        batch = batch_from_pairs(group)
        with torch.autocast("cpu", dtype=torch.bfloat16):  # the weights stay in fp32
            loss: Tensor = model(
                input_ids=batch.bare_ids, attention_mask=batch.bare_mask, labels=batch.labels, use_cache=False
            ).loss
        return loss

    return train(
        model,
        epochs=epochs,
        optimizers=muon_and_adamw(model, matrix_rate=_MATRIX_RATE, other_rate=_OTHER_RATE),
        batches_of_epoch=lambda: batches_by_length(pairs, max_tokens=_BATCH_TOKENS, rng=rng),
        loss_of=loss_of,
        after_epoch=lambda: f"{token_accuracy(model, dev):.4f} of the dev tokens right",
    )


def _config(tokenizer: Tokenizer) -> EncoderDecoderConfig:
    def side(layers: int, **fields: Any) -> RobertaPreLayerNormConfig:
        return RobertaPreLayerNormConfig(
            vocab_size=tokenizer.get_vocab_size(),
            hidden_size=128,
            num_hidden_layers=layers,
            num_attention_heads=4,
            intermediate_size=512,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            initializer_range=_INITIALIZER_RANGE,
            max_position_embeddings=_MAX_LENGTH + PAD_ID + 1,  # positions are counted from PAD_ID + 1
            type_vocab_size=1,
            layer_norm_eps=1e-5,
            bos_token_id=START_ID,
            pad_token_id=PAD_ID,
            eos_token_id=END_ID,
            **fields,
        )

    config = EncoderDecoderConfig(
        encoder=side(_ENCODER_LAYERS).to_dict(),
        decoder=side(_DECODER_LAYERS, is_decoder=True, add_cross_attention=True).to_dict(),
        decoder_start_token_id=START_ID,
        pad_token_id=PAD_ID,
    )
    config.eos_token_id = END_ID
    return config


@torch.no_grad()
def _prepare_to_copy(model: EncoderDecoderModel) -> None:
    """Let the decoder begin as a poor copyist, who then learns to be a good one instead of learning to write."""
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


if __name__ == "__main__":
    main()
