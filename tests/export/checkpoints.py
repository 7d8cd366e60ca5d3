"""Tiny checkpoints of transformers' own models, with random weights wide enough to tell tokens and labels apart."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from rpln_runtime.tasks import TASKS

LAYERS: Final = 2
HIDDEN: Final = 32
USABLE_LENGTH: Final = 64
LABELS: Final = ("O", "NOUN", "VERB", "PLACE", "TIME")

PAIRS: Final = frozenset({"question-answering", "multiple-choice"})
"""Tasks whose items are pairs of texts. Their checkpoints have two token types, the others a single one, as RoBERTa."""

DECODER: Final = {"is_decoder": True, "add_cross_attention": True}
"""The fields of a config that make a network the decoder of an encoder-decoder."""

ENCODER_TASKS: Final = tuple(name for name, row in TASKS.items() if row.postprocess is not None)
"""Tasks that one run of one graph answers, which are those that do not generate text."""

CORPUS: Final = (
    "The dog barked and the cat slept while the rain fell on the roof.",
    "Ada Lovelace wrote to Charles Babbage in London in 1843.",
    "Is this a question? Yes, it is -- isn't it!",
)


def make_checkpoint(folder: Path, task: str, *, dtype: torch.dtype = torch.float32, **config_fields: Any) -> Path:
    """Write a checkpoint of the task's architecture, and its tokenizer, with `save_pretrained`."""
    tokenizer = make_tokenizer(folder)
    model = make_model(task, vocab_size=len(tokenizer), **config_fields)
    model.to(dtype).save_pretrained(folder)
    return folder


def make_model(task: str, *, vocab_size: int, **config_fields: Any) -> Any:
    """Return a model of the task's architecture. In an encoder-decoder, `config_fields` are those of the decoder."""
    fields = config_fields_of(task, vocab_size=vocab_size)
    model: Any
    if TASKS[task].encoders:
        model = transformers.EncoderDecoderModel(
            encoder_decoder_config(make_config(**fields), make_config(**(fields | DECODER | config_fields)))
        )
    else:
        model = getattr(transformers, TASKS[task].architecture)(make_config(**(fields | config_fields)))
    # Decoders are compared with eager torch over many steps. In bf16, weights of 0.15 would exceed the tolerance.
    draw_weights(model, seed=len(task), spread=0.15 if task in ENCODER_TASKS else 0.08)
    return model.eval()


def config_fields_of(task: str, *, vocab_size: int) -> dict[str, Any]:
    labels = LABELS[:2] if task == "question-answering" else LABELS
    return {
        "vocab_size": vocab_size,
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 2,
        "intermediate_size": 2 * HIDDEN,
        "max_position_embeddings": USABLE_LENGTH + 2,
        "type_vocab_size": 2 if task in PAIRS else 1,
        "id2label": dict(enumerate(labels)),
        "label2id": {label: index for index, label in enumerate(labels)},
        "is_decoder": task == "text-generation",
    }


def make_config(**fields: Any) -> Any:
    return transformers.RobertaPreLayerNormConfig(**fields)


def encoder_decoder_config(encoder: Any, decoder: Any) -> Any:
    """Return the config of an encoder-decoder, with the ids that transformers' `generate` needs."""
    return transformers.EncoderDecoderConfig.from_encoder_decoder_configs(
        encoder, decoder, decoder_start_token_id=0, pad_token_id=1, eos_token_id=2
    )


def draw_weights(model: Any, *, seed: int, spread: float = 0.15) -> None:
    """Draw wide random weights. With transformers' own 0.02, attention would hardly change the outputs."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            offset = 1.0 if name.endswith(("LayerNorm.weight", "layer_norm.weight")) else 0.0
            parameter.normal_(offset, spread, generator=generator)


def make_tokenizer(folder: Path, *, corpus: Sequence[str] = CORPUS, vocab_size: int = 300) -> Any:
    """Train RoBERTa's byte-level BPE, and let transformers write it to `folder`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", AddedToken("<mask>", lstrip=True)],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*corpus] * 3, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    wrapped = transformers.RobertaTokenizerFast(
        tokenizer_object=tokenizer, add_prefix_space=False, model_max_length=USABLE_LENGTH
    )
    wrapped.save_pretrained(folder)
    return wrapped
