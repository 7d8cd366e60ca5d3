"""What the chooser learns: which of four texts continues a given one; three of them are from other documents.

The given text is either a sentence, and the next one is wanted, or the beginning of a sentence, and its end is wanted.

B is the number of items in a batch, C of choices in each, T the number of tokens of the longest prompt and choice.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import torch
from tokenizers import Tokenizer
from torch import nn

from training.batches import Batch, batches_by_length, padded_inputs
from training.brown import Document
from training.plain_text import text_from_words
from training.tokenizer import END_ID, START_ID

CHOICES: Final = 4

_SENTENCE_WORDS: Final = range(5, 41)  # shorter ones fit anywhere
_FEWEST_WORDS: Final = 3  # of a sentence's beginning, and of its end
_BATCH_TOKENS: Final = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A prompt, texts to choose from, and the place among them of the one that continues the prompt."""

    prompt: str
    choices: tuple[str, ...]
    answer: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedItem:
    """The tokens of the prompt with each choice, <s> prompt </s></s> choice </s>, and the place of the right choice."""

    rows: list[list[int]]
    answer: int

    def __len__(self) -> int:
        """Return the number of tokens with padding."""
        return len(self.rows) * max(map(len, self.rows))


def next_sentences(documents: Sequence[Document], *, rng: random.Random) -> list[Item]:
    """Return an item for every two sentences in a row."""
    texts = [_sentences(document) for document in documents]
    pairs = [
        (place, before, after)
        for place, sentences in enumerate(texts)
        for before, after in pairwise(sentences)
        if _is_usable(before) and _is_usable(after)
    ]
    usable = [[text for text in sentences if _is_usable(text)] for sentences in texts]
    return [_item(place, before, after, usable, rng) for place, before, after in pairs]


def sentence_ends(documents: Sequence[Document], *, rng: random.Random) -> list[Item]:
    """Return an item for every sentence, cut between two random words."""
    cut = [
        [_cut(text, rng) for text in _sentences(document) if _is_usable(text) and len(text.split()) > 2 * _FEWEST_WORDS]
        for document in documents
    ]
    ends = [[end for _, end in sentences] for sentences in cut]
    return [
        _item(place, beginning, end, ends, rng) for place, sentences in enumerate(cut) for beginning, end in sentences
    ]


def encode_items(tokenizer: Tokenizer, items: Sequence[Item], *, max_length: int) -> list[EncodedItem]:
    """Tokenize the items, and leave out those in which a prompt and a choice have more than `max_length` tokens."""
    prompts = tokenizer.encode_batch([item.prompt for item in items], add_special_tokens=False)
    choices = iter(tokenizer.encode_batch([text for item in items for text in item.choices], add_special_tokens=False))
    encoded = [
        EncodedItem(
            rows=[
                [START_ID, *prompt.ids, END_ID, END_ID, *next(choices).ids, END_ID] for _ in range(len(item.choices))
            ],
            answer=item.answer,
        )
        for item, prompt in zip(items, prompts, strict=True)
    ]
    return [item for item in encoded if max(map(len, item.rows)) <= max_length]


def chooser_inputs(items: Sequence[EncodedItem]) -> Batch:
    """Return the items padded, as input_ids and attention_mask, both (B, C, T)."""
    inputs = padded_inputs([row for item in items for row in item.rows])
    return {name: table.view(len(items), -1, table.shape[1]) for name, table in inputs.items()}


def chooser_batch(items: Sequence[EncodedItem]) -> Batch:
    """Return the items padded, with labels (B)."""
    return {**chooser_inputs(items), "labels": torch.tensor([item.answer for item in items])}


@torch.inference_mode()
def chooser_accuracy(model: nn.Module, items: Sequence[EncodedItem]) -> float:
    """Return the share of items for which a multiple choice `model` chooses rightly. Puts the model into eval mode."""
    model.eval()
    right = 0
    for group in batches_by_length(items, max_tokens=_BATCH_TOKENS):
        answers_B = torch.tensor([item.answer for item in group])
        right += int((model(**chooser_inputs(group)).logits.argmax(-1) == answers_B).sum())
    return right / len(items)


def baseline_accuracy(likeness: Callable[[str, str], float], items: Sequence[Item]) -> float:
    """Return the share of items whose right choice is most like the prompt; a tie of n choices counts 1/n."""
    right = 0.0
    for item in items:
        scores = [likeness(item.prompt, choice) for choice in item.choices]
        if scores[item.answer] == max(scores):
            right += 1 / scores.count(max(scores))
    return right / len(items)


def _item(place: int, prompt: str, right: str, texts: Sequence[Sequence[str]], rng: random.Random) -> Item:
    """Return an item whose wrong choices are drawn from other documents than the one at `place`."""
    choices: list[str] = []
    while len(choices) < CHOICES - 1:
        other = rng.randrange(len(texts))
        if other != place and texts[other]:
            choices.append(rng.choice(texts[other]))
    answer = rng.randrange(CHOICES)
    choices.insert(answer, right)
    return Item(prompt=prompt, choices=tuple(choices), answer=answer)


def _cut(text: str, rng: random.Random) -> tuple[str, str]:
    words = text.split()
    place = rng.randint(_FEWEST_WORDS, len(words) - _FEWEST_WORDS)
    return " ".join(words[:place]), " ".join(words[place:])


def _sentences(document: Document) -> list[str]:
    return [text_from_words(sentence).text for sentence in document.sentences]


def _is_usable(text: str) -> bool:
    return len(text.split()) in _SENTENCE_WORDS
