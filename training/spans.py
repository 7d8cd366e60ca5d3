"""Questions as the model sees them, the spans it finds, and its scores beside those of a lexical baseline.

B is the number of questions in a batch, T the number of tokens of the longest with its context.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from tokenizers import Encoding, Tokenizer
from torch import Tensor, nn

from training.batches import batches_by_length, padded_table
from training.encoder import MAX_LENGTH
from training.questions import Question
from training.tokenizer import PAD_ID
from training.word_weights import TfIdf, words_of

_CONTEXT: Final = 1
_MOST_TOKENS: Final = 15  # of an answer, as in the pipelines of transformers
_BATCH_TOKENS: Final = 8192
_WORD: Final = re.compile(r"\w+(?:['’]\w+)*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A question and its context in tokens, and the first and last token of the answer.

    Of every token: where it is in the context, as characters, or None for one that is not in the context.
    """

    question: Question
    token_ids: list[int]
    first: int
    last: int
    characters: list[tuple[int, int] | None]

    def __len__(self) -> int:
        """How many tokens it has."""
        return len(self.token_ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Examples padded on the right: token ids and attention mask (B, T), first and last token (B); int64."""

    input_ids: Tensor
    attention_mask: Tensor
    first: Tensor
    last: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Of `questions`, the share answered with the very words, and the mean F1 of an answer's words; in 0..1."""

    questions: int
    exact: float
    f1: float


def encode_questions(tokenizer: Tokenizer, questions: Sequence[Question]) -> list[Example]:
    """Tokenize the questions with their contexts; those that are too long together are left out."""
    encodings = tokenizer.encode_batch([(question.question, question.context) for question in questions])
    pairs = zip(questions, encodings, strict=True)
    return [_example(question, encoding) for question, encoding in pairs if len(encoding) <= MAX_LENGTH]


def batch_from_examples(examples: Sequence[Example]) -> Batch:
    """Pad the examples to the longest of them."""
    input_ids = padded_table([example.token_ids for example in examples], padding=PAD_ID)
    return Batch(
        input_ids=input_ids,
        attention_mask=(input_ids != PAD_ID).long(),
        first=torch.tensor([example.first for example in examples]),
        last=torch.tensor([example.last for example in examples]),
    )


@torch.inference_mode()
def network_scores(model: nn.Module, examples: Sequence[Example]) -> Scores:
    """Score the best span that a question answering `model`, put into eval mode, finds in each context."""
    model.eval()
    pairs = []
    for group in batches_by_length(examples, max_tokens=_BATCH_TOKENS):
        batch = batch_from_examples(group)
        outputs = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
        for example, start_T, end_T in zip(group, outputs.start_logits, outputs.end_logits, strict=True):
            pairs.append((best_answer(example, start_T, end_T), example.question.answer))
    return _scores(pairs)


def best_answer(example: Example, start_T: Tensor, end_T: Tensor) -> str:
    """Return the text of the span of the context whose first and last token have the highest logits together."""
    outside = torch.tensor([place is None for place in example.characters])
    tokens = len(example)
    scores_TT = start_T[:tokens, None].float() + end_T[None, :tokens].float()
    allowed = torch.ones(tokens, tokens).triu().tril(_MOST_TOKENS - 1).bool() & ~outside[:, None] & ~outside
    first, last = divmod(int(scores_TT.masked_fill(~allowed, -torch.inf).argmax()), tokens)
    start, end = example.characters[first], example.characters[last]
    assert start and end  # both are in the context
    return example.question.context[start[0] : end[1]]


class WordsBeside:
    """The baseline: the words beside the part of the context that has most in common with the question.

    That part is as long as the question, and its words count by their inverse document frequency. The answer is so many
    words before it, or behind it where the question word comes last; one word where a number is asked for.
    """

    def __init__(self, weights: TfIdf, *, answer_words: int) -> None:
        self._weights = weights
        self._answer_words = answer_words

    def answer(self, question: Question) -> str:
        """Return a part of the context."""
        asked = words_of(question.question)
        comes_last = asked[-1] in {"what", "who"}
        known = asked[:-1] if comes_last else asked[2:] if asked[:2] == ["how", "many"] else asked[1:]
        places = [match.span() for match in _WORD.finditer(question.context)]
        values = [self._weights.weight(word) if word in known else 0.0 for word in words_of(question.context)]
        sums = [sum(values[start : start + len(known)]) for start in range(max(1, len(values) - len(known) + 1))]
        start = sums.index(max(sums))
        matched = [place for place in range(start, min(start + len(known), len(values))) if values[place]] or [start]
        count = 1 if asked[:2] == ["how", "many"] else self._answer_words
        chosen = (
            places[matched[-1] + 1 : matched[-1] + 1 + count]
            if comes_last
            else places[max(0, matched[0] - count) : matched[0]]
        )
        return question.context[chosen[0][0] : chosen[-1][1]] if chosen else ""


def baseline_scores(baseline: WordsBeside, questions: Sequence[Question]) -> Scores:
    """Score the baseline's answers."""
    return _scores([(baseline.answer(question), question.answer) for question in questions])


def _example(question: Question, encoding: Encoding) -> Example:
    characters = [
        (start, end) if sequence == _CONTEXT else None
        for sequence, (start, end) in zip(encoding.sequence_ids, encoding.offsets, strict=True)
    ]
    inside = [
        place for place, span in enumerate(characters) if span and span[0] < question.end and span[1] > question.start
    ]
    return Example(question=question, token_ids=encoding.ids, first=inside[0], last=inside[-1], characters=characters)


def _scores(pairs: Sequence[tuple[str, str]]) -> Scores:
    """Of pairs (found, true)."""
    words = [(words_of(found), words_of(true)) for found, true in pairs]
    return Scores(
        questions=len(pairs),
        exact=sum(found == true for found, true in words) / len(pairs),
        f1=sum(_f1(found, true) for found, true in words) / len(pairs),
    )


def _f1(found: Sequence[str], true: Sequence[str]) -> float:
    common = sum((Counter(found) & Counter(true)).values())
    return 2 * common / max(len(found) + len(true), 1)
