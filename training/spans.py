"""Questions as the model reads them, the answers that it finds, and its scores beside those of a lexical baseline.

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

from training.batches import Batch, batches_by_length, padded_inputs
from training.networks import ENCODER_LENGTH
from training.questions import Question
from training.word_weights import TfIdf, words_of

_CONTEXT: Final = 1
_MOST_TOKENS: Final = 15  # of an answer, as in the pipelines of transformers
_BATCH_TOKENS: Final = 8192
_WORD: Final = re.compile(r"\w+(?:['’]\w+)*")


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedQuestion:
    """A question and its context in tokens, and the first and last token of the answer.

    `characters` says for each token where it is in the context, from one character to another, or None for a token
    outside of the context.
    """

    question: Question
    token_ids: list[int]
    first: int
    last: int
    characters: list[tuple[int, int] | None]

    def __len__(self) -> int:
        """Return the number of tokens."""
        return len(self.token_ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerScores:
    """The share of questions answered with the very words, and the mean F1 of the answers' words, both in 0..1."""

    questions: int
    exact: float
    f1: float


def encode_questions(tokenizer: Tokenizer, questions: Sequence[Question]) -> list[EncodedQuestion]:
    """Tokenize the questions with their contexts, and leave out those that are too long together."""
    encodings = tokenizer.encode_batch([(question.question, question.context) for question in questions])
    pairs = zip(questions, encodings, strict=True)
    return [_encoded(question, encoding) for question, encoding in pairs if len(encoding) <= ENCODER_LENGTH]


def answerer_batch(questions: Sequence[EncodedQuestion]) -> Batch:
    """Return the questions padded, with start_positions and end_positions (B)."""
    return {
        **padded_inputs([question.token_ids for question in questions]),
        "start_positions": torch.tensor([question.first for question in questions]),
        "end_positions": torch.tensor([question.last for question in questions]),
    }


@torch.inference_mode()
def answerer_scores(model: nn.Module, questions: Sequence[EncodedQuestion]) -> AnswerScores:
    """Return the scores of the best answers of a question answering `model`. Puts the model into eval mode."""
    model.eval()
    pairs = []
    for group in batches_by_length(questions, max_tokens=_BATCH_TOKENS):
        outputs = model(**padded_inputs([one.token_ids for one in group]))
        for one, start_T, end_T in zip(group, outputs.start_logits, outputs.end_logits, strict=True):
            pairs.append((best_answer(one, start_T, end_T), one.question.answer))
    return _scores(pairs)


def best_answer(question: EncodedQuestion, start_T: Tensor, end_T: Tensor) -> str:
    """Return the part of the context whose first and last token have the highest sum of logits."""
    outside = torch.tensor([place is None for place in question.characters])
    tokens = len(question)
    scores_TT = start_T[:tokens, None].float() + end_T[None, :tokens].float()
    allowed = torch.ones(tokens, tokens).triu().tril(_MOST_TOKENS - 1).bool() & ~outside[:, None] & ~outside
    first, last = divmod(int(scores_TT.masked_fill(~allowed, -torch.inf).argmax()), tokens)
    start, end = question.characters[first], question.characters[last]
    assert start and end  # both are in the context
    return question.question.context[start[0] : end[1]]


class WordsBeside:
    """The baseline: it answers with the words beside the part of the context that is most like the question.

    That part is as long as the question, and its words count by their inverse document frequency. The answer is the
    `answer_words` words before it, or behind it if the question word comes last, or one word if a number is asked for.
    """

    def __init__(self, weights: TfIdf, *, answer_words: int) -> None:
        self._weights = weights
        self._answer_words = answer_words

    def answer(self, question: Question) -> str:
        """Return a part of the question's context."""
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


def baseline_answerer_scores(baseline: WordsBeside, questions: Sequence[Question]) -> AnswerScores:
    """Return the scores of the baseline's answers."""
    return _scores([(baseline.answer(question), question.answer) for question in questions])


def _encoded(question: Question, encoding: Encoding) -> EncodedQuestion:
    characters = [
        (start, end) if sequence == _CONTEXT else None
        for sequence, (start, end) in zip(encoding.sequence_ids, encoding.offsets, strict=True)
    ]
    inside = [
        place for place, span in enumerate(characters) if span and span[0] < question.end and span[1] > question.start
    ]
    return EncodedQuestion(
        question=question, token_ids=encoding.ids, first=inside[0], last=inside[-1], characters=characters
    )


def _scores(pairs: Sequence[tuple[str, str]]) -> AnswerScores:
    """Return the scores of pairs (answer found, true answer)."""
    words = [(words_of(found), words_of(true)) for found, true in pairs]
    return AnswerScores(
        questions=len(pairs),
        exact=sum(found == true for found, true in words) / len(pairs),
        f1=sum(_f1(found, true) for found, true in words) / len(pairs),
    )


def _f1(found: Sequence[str], true: Sequence[str]) -> float:
    common = sum((Counter(found) & Counter(true)).values())
    return 2 * common / max(len(found) + len(true), 1)
