from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from training.questions import Question
from training.spans import (
    WordsBeside,
    answerer_batch,
    answerer_scores,
    baseline_answerer_scores,
    best_answer,
    encode_questions,
)
from training.tokenizer import train_tokenizer
from training.word_weights import TfIdf

_CONTEXT = "It rained. The old man walked to the boat, and his crew watched 70 stars. It rained."


def _question(question: str, answer: str) -> Question:
    start = _CONTEXT.index(answer)
    return Question(question=question, context=_CONTEXT, start=start, end=start + len(answer))


_QUESTIONS = [
    _question("Who walked to the boat?", "The old man"),
    _question("his crew watched what?", "70 stars"),
    _question("How many stars are there?", "70"),
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer([_CONTEXT] * 3, vocabulary_size=300)


def test_first_and_last_token_are_those_of_the_answer(tokenizer: Tokenizer) -> None:
    for example, question in zip(encode_questions(tokenizer, _QUESTIONS), _QUESTIONS, strict=True):
        assert example.token_ids == tokenizer.encode(question.question, question.context).ids
        inside = example.token_ids[example.first : example.last + 1]
        assert tokenizer.decode(inside).strip() == question.answer
        start = torch.zeros(len(example)).index_fill(0, torch.tensor([example.first]), 1)
        end = torch.zeros(len(example)).index_fill(0, torch.tensor([example.last]), 1)
        assert best_answer(example, start, end) == question.answer


def test_a_question_that_is_too_long_is_left_out(tokenizer: Tokenizer) -> None:
    long = Question(question="Who?", context="boat " * 130, start=0, end=4)
    assert [example.question for example in encode_questions(tokenizer, [long, *_QUESTIONS])] == _QUESTIONS


def test_only_spans_of_the_context_of_at_most_15_tokens_are_answers(tokenizer: Tokenizer) -> None:
    (example,) = encode_questions(tokenizer, _QUESTIONS[:1])
    places = [place for place, span in enumerate(example.characters) if span]
    start, end = torch.zeros(len(example)), torch.zeros(len(example))
    start[places[0] - 1] = end[places[0] - 1] = 9.0  # before the context
    start[places[3]], end[places[20]] = 5.0, 5.0  # too long together
    end[places[2]] = 4.0  # before the start
    end[places[10]] = 3.0
    wanted = (example.characters[places[3]], example.characters[places[10]])
    assert wanted[0]
    assert wanted[1]
    assert best_answer(example, start, end) == _CONTEXT[wanted[0][0] : wanted[1][1]]


class _KnowsOne(nn.Module):
    """A model that finds the span of the first question in every context."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        (example,) = encode_questions(tokenizer, _QUESTIONS[:1])
        self.wanted = example.token_ids[example.first : example.last + 1]

    def forward(self, *, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        rows = [row.tolist() for row in input_ids]
        size = len(self.wanted)
        starts = [next(i for i in range(len(row)) if row[i : i + size] == self.wanted) for row in rows]
        one_hot = nn.functional.one_hot(torch.tensor(starts), input_ids.shape[1]).float()
        return SimpleNamespace(start_logits=one_hot, end_logits=one_hot.roll(size - 1, dims=1))


def test_scores_are_exact_words_and_shared_words(tokenizer: Tokenizer) -> None:
    examples = encode_questions(tokenizer, [_QUESTIONS[0], _question("Who?", "old man"), _question("Who?", "crew")])
    scores = answerer_scores(_KnowsOne(tokenizer), examples)
    assert scores.questions == 3
    assert scores.exact == pytest.approx(1 / 3)
    assert scores.f1 == pytest.approx((1 + 2 * 2 / (3 + 2) + 0) / 3)


def test_a_batch_is_padded_on_the_right(tokenizer: Tokenizer) -> None:
    examples = encode_questions(tokenizer, _QUESTIONS)
    batch = answerer_batch(examples)
    assert batch["attention_mask"].sum(dim=1).tolist() == [len(example) for example in examples]
    assert [(int(f), int(e)) for f, e in zip(batch["start_positions"], batch["end_positions"], strict=True)] == [
        (example.first, example.last) for example in examples
    ]


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Who walked to the boat?", "old man"),
        ("his crew watched what?", "70 stars"),
        ("How many stars are there?", "70"),
        ("What is not there?", ""),
        ("It rained what?", "The old"),
    ],
)
def test_the_baseline_takes_the_words_beside_the_best_match(question: str, answer: str) -> None:
    weights = TfIdf(["It rained.", "The man.", "the boat, the crew"])
    baseline = WordsBeside(weights, answer_words=2)
    assert baseline.answer(Question(question=question, context=_CONTEXT, start=0, end=1)) == answer


def test_the_baselines_score_is_of_its_answers() -> None:
    baseline = WordsBeside(TfIdf(["It rained."]), answer_words=2)
    scores = baseline_answerer_scores(baseline, _QUESTIONS)
    assert scores.exact == pytest.approx(2 / 3)
    assert scores.f1 == pytest.approx((2 * 2 / 5 + 1 + 1) / 3)
