"""The examples of the model's documentation page (transformers 4.56) run with these classes on a local checkpoint.

The page's checkpoint is a masked language model on the hub, here it is a folder with such a model. Texts are tokenized
by words.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import RobertaPreLayerNormConfig

from rpln_model import (
    RobertaPreLayerNormForCausalLM,
    RobertaPreLayerNormForMaskedLM,
    RobertaPreLayerNormForMultipleChoice,
    RobertaPreLayerNormForQuestionAnswering,
    RobertaPreLayerNormForSequenceClassification,
    RobertaPreLayerNormForTokenClassification,
    RobertaPreLayerNormModel,
)
from rpln_model.base import RobertaPreLayerNormPreTrainedModel
from tests.model.references import tiny_config

VOCABULARY = (
    "<s> <pad> </s> <unk> <mask> hello , my dog is cute the capital of france paris . who was jim henson ? a nice "
    "puppet in italy pizza served formal settings such as at restaurant presented unsliced it eaten with fork and "
    "knife while held hand huggingface company based new york"
)
WORDS = VOCABULARY.split()
BEGIN, PAD, END, UNKNOWN, MASK = range(5)


class Tokenizer:
    """A tokenizer by words, whose results have the form that the page's tokenizer gives."""

    mask_token_id = MASK

    def __call__(self, texts: str | list[str], pairs: str | list[str] | None = None) -> dict[str, torch.Tensor]:
        firsts = [texts] if isinstance(texts, str) else texts
        seconds = [pairs] if isinstance(pairs, str) else pairs
        rows = [[BEGIN, *self._ids(text), END] for text in firsts]
        if seconds is not None:
            rows = [[*row, END, *self._ids(text), END] for row, text in zip(rows, seconds, strict=True)]
        longest = max(map(len, rows))
        ids = torch.tensor([row + [PAD] * (longest - len(row)) for row in rows])
        return {"input_ids": ids, "attention_mask": (ids != PAD).long()}

    def _ids(self, text: str) -> list[int]:
        spaced = text.lower().replace(",", " , ").replace(".", " . ").replace("?", " ? ")
        return [WORDS.index(word) if word in WORDS else UNKNOWN for word in spaced.split()]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("efficient_mlm")
    torch.manual_seed(0)
    config = tiny_config(vocab_size=len(WORDS), max_position_embeddings=66)
    RobertaPreLayerNormForMaskedLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def tokenizer() -> Tokenizer:
    return Tokenizer()


def labels_of(model: RobertaPreLayerNormPreTrainedModel) -> dict[Any, str]:
    labels = model.config.id2label
    assert labels is not None
    return labels


def test_configuration() -> None:
    configuration = RobertaPreLayerNormConfig(num_hidden_layers=1, vocab_size=100)
    model = RobertaPreLayerNormModel(configuration)
    configuration = model.config
    assert configuration.hidden_size == 768
    assert model(torch.tensor([[0, 5, 2]])).pooler_output.shape == (1, 768)


def test_model(checkpoint: Path, tokenizer: Tokenizer) -> None:
    model = RobertaPreLayerNormModel.from_pretrained(checkpoint)
    outputs = model(**tokenizer("Hello, my dog is cute"))
    assert outputs.last_hidden_state.shape == (1, 8, model.config.hidden_size)


def test_causal_lm(checkpoint: Path, tokenizer: Tokenizer) -> None:
    config = RobertaPreLayerNormConfig.from_pretrained(checkpoint)
    config.is_decoder = True
    model = RobertaPreLayerNormForCausalLM.from_pretrained(checkpoint, config=config)
    prediction_logits = model(**tokenizer("Hello, my dog is cute")).logits
    assert prediction_logits.shape == (1, 8, len(WORDS))
    shorter = model(**tokenizer("Hello, my dog")).logits
    torch.testing.assert_close(prediction_logits[:, :5], shorter[:, :5])


def test_masked_lm(checkpoint: Path, tokenizer: Tokenizer) -> None:
    model = RobertaPreLayerNormForMaskedLM.from_pretrained(checkpoint)
    inputs = tokenizer("The capital of France is <mask>.")
    with torch.no_grad():
        logits = model(**inputs).logits
    mask_token_index = (inputs["input_ids"] == tokenizer.mask_token_id)[0].nonzero(as_tuple=True)[0]
    predicted_token_id = logits[0, mask_token_index].argmax(axis=-1)
    assert mask_token_index.tolist() == [6]
    assert 0 <= predicted_token_id < len(WORDS)

    labels = tokenizer("The capital of France is Paris.")["input_ids"]
    labels = torch.where(inputs["input_ids"] == tokenizer.mask_token_id, labels, -100)
    loss = model(**inputs, labels=labels).loss
    expected = -logits.log_softmax(dim=-1)[0, 6, WORDS.index("paris")]
    torch.testing.assert_close(loss, expected)


def test_sequence_classification(checkpoint: Path, tokenizer: Tokenizer) -> None:
    model = RobertaPreLayerNormForSequenceClassification.from_pretrained(checkpoint)
    inputs = tokenizer("Hello, my dog is cute")
    with torch.no_grad():
        logits = model(**inputs).logits
    predicted_class_id = logits.argmax().item()
    assert labels_of(model)[predicted_class_id] in ("LABEL_0", "LABEL_1")

    # To train on `num_labels` classes, the page passes `num_labels=num_labels` to `.from_pretrained(...)`.
    num_labels = len(labels_of(model))
    model = RobertaPreLayerNormForSequenceClassification.from_pretrained(checkpoint, num_labels=num_labels)
    assert model(**inputs, labels=torch.tensor([1])).loss.item() > 0


def test_multi_label_classification(checkpoint: Path, tokenizer: Tokenizer) -> None:
    model = RobertaPreLayerNormForSequenceClassification.from_pretrained(
        checkpoint, problem_type="multi_label_classification"
    )
    inputs = tokenizer("Hello, my dog is cute")
    with torch.no_grad():
        logits = model(**inputs).logits
    predicted_class_ids = torch.arange(0, logits.shape[-1])[torch.sigmoid(logits).squeeze(dim=0) > 0]
    assert predicted_class_ids.tolist() == [0, 1]

    num_labels = len(labels_of(model))
    model = RobertaPreLayerNormForSequenceClassification.from_pretrained(
        checkpoint, num_labels=num_labels, problem_type="multi_label_classification"
    )
    one_hot = torch.nn.functional.one_hot(predicted_class_ids[None, :].clone(), num_classes=num_labels)
    labels = torch.sum(one_hot, dim=1).to(torch.float)
    assert model(**inputs, labels=labels).loss.item() > 0


def test_multiple_choice(checkpoint: Path, tokenizer: Tokenizer) -> None:
    model = RobertaPreLayerNormForMultipleChoice.from_pretrained(checkpoint)
    prompt = "In Italy, pizza served in formal settings, such as at a restaurant, is presented unsliced."
    choice0, choice1 = "It is eaten with a fork and a knife.", "It is eaten while held in the hand."
    labels = torch.tensor(0).unsqueeze(0)
    encoding = tokenizer([prompt, prompt], [choice0, choice1])
    outputs = model(**{name: tensor.unsqueeze(0) for name, tensor in encoding.items()}, labels=labels)
    assert outputs.logits.shape == (1, 2)
    torch.testing.assert_close(outputs.loss, -outputs.logits.log_softmax(dim=-1)[0, 0])


def test_token_classification(checkpoint: Path, tokenizer: Tokenizer) -> None:
    model = RobertaPreLayerNormForTokenClassification.from_pretrained(checkpoint)
    inputs = tokenizer("HuggingFace is a company based in Paris and New York")
    with torch.no_grad():
        logits = model(**inputs).logits
    predicted_token_class_ids = logits.argmax(-1)
    predicted_tokens_classes = [labels_of(model)[t.item()] for t in predicted_token_class_ids[0]]
    assert len(predicted_tokens_classes) == inputs["input_ids"].shape[1]
    loss = model(**inputs, labels=predicted_token_class_ids).loss
    torch.testing.assert_close(loss, -logits.log_softmax(dim=-1).max(dim=-1).values.mean())


def test_question_answering(checkpoint: Path, tokenizer: Tokenizer) -> None:
    model = RobertaPreLayerNormForQuestionAnswering.from_pretrained(checkpoint)
    inputs = tokenizer("Who was Jim Henson?", "Jim Henson was a nice puppet.")
    with torch.no_grad():
        outputs = model(**inputs)
    answer_start_index, answer_end_index = outputs.start_logits.argmax(), outputs.end_logits.argmax()
    assert 0 <= answer_start_index < inputs["input_ids"].shape[1]
    assert 0 <= answer_end_index < inputs["input_ids"].shape[1]

    target_start_index, target_end_index = torch.tensor([14]), torch.tensor([15])
    inputs_and_targets = inputs | {"start_positions": target_start_index, "end_positions": target_end_index}
    outputs = model(**inputs_and_targets)
    expected = [
        -scores.log_softmax(dim=-1)[0, 14 + end]
        for end, scores in enumerate((outputs.start_logits, outputs.end_logits))
    ]
    torch.testing.assert_close(outputs.loss, sum(expected) / 2)
