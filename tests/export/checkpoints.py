"""Tiny checkpoints as transformers itself makes them: random weights wide enough to tell tokens and labels apart."""

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
"""Tasks on pairs of texts: their checkpoints tell token types apart, the others know one, as RoBERTa does."""

DECODER: Final = {"is_decoder": True, "add_cross_attention": True}
"""What makes a network the decoder of an encoder-decoder."""

ENCODER_TASKS: Final = tuple(name for name, row in TASKS.items() if row.postprocess is not None)
"""Tasks that are answered by one run of one graph: those that generate are not among them."""

CORPUS: Final = (
    "The dog barked and the cat slept while the rain fell on the roof.",
    "Ada Lovelace wrote to Charles Babbage in London in 1843.",
    "Is this a question? Yes, it is -- isn't it!",
)


def make_checkpoint(folder: Path, task: str, *, dtype: torch.dtype = torch.float32, **config_fields: Any) -> Path:
    """A checkpoint of the task's architecture with its tokenizer, written by `save_pretrained`."""
    tokenizer = make_tokenizer(folder)
    model = make_model(task, vocab_size=len(tokenizer), **config_fields)
    model.to(dtype).save_pretrained(folder)
    return folder


def make_model(task: str, *, vocab_size: int, **config_fields: Any) -> Any:
    """A model of the task's architecture; `config_fields` are the decoder's where there is an encoder beside it."""
    fields = config_fields_of(task, vocab_size=vocab_size)
    model: Any
    if TASKS[task].encoders:
        model = transformers.EncoderDecoderModel(
            encoder_decoder_config(make_config(**fields), make_config(**(fields | DECODER | config_fields)))
        )
    else:
        model = getattr(transformers, TASKS[task].architecture)(make_config(**(fields | config_fields)))
    # Decoders are held to eager torch in bf16 over many more steps: at 0.15 they leave what bf16 is allowed.
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
    """Of the two together, with the ids that transformers' `generate` needs."""
    return transformers.EncoderDecoderConfig.from_encoder_decoder_configs(
        encoder, decoder, decoder_start_token_id=0, pad_token_id=1, eos_token_id=2
    )


def draw_weights(model: Any, *, seed: int, spread: float = 0.15) -> None:
    """At transformers' own 0.02 nothing that attention does would show in the outputs."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            offset = 1.0 if name.endswith(("LayerNorm.weight", "layer_norm.weight")) else 0.0
            parameter.normal_(offset, spread, generator=generator)


def make_tokenizer(folder: Path, *, corpus: Sequence[str] = CORPUS, vocab_size: int = 300) -> Any:
    """RoBERTa's byte-level BPE, trained on the spot and written by transformers."""
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
