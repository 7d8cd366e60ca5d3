"""Question answering: the parts of a context that answer a question.

The answers equal those of transformers' QuestionAnsweringPipeline (4.57; 5.x has none), with these differences:

- With top_k = 1 an item gets a dict, and otherwise a list. A list of one item gets a list of one answer.
- If a context has fewer spans than top_k, the answer has fewer, too, where transformers adds empty ones of score 0.
- Offsets in later windows are those of the whole context. With a tokenizer that has add_prefix_space, an answer of
  transformers at the start of a later window begins with the space before it, and counts as another answer than the
  same words elsewhere; so its score may differ, too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypedDict

import numpy as np

from rpln_runtime.errors import InputError
from rpln_runtime.options import check_integer
from rpln_runtime.postprocess.base import FinishedItem, FinishedRow, ItemField, Postprocess, fields_from_item, softmax
from rpln_runtime.tokenization import Encoding, windows

_CONTEXT = 1
"""The number of the context in `Encoding.sequences`; the question has 0."""


class Answer(TypedDict):
    """An answer in the context.

    Attributes:
        score: the product of the probabilities of its first and its last token, in their window.
        start: its first character in the context.
        end: the character after its last.
        answer: the text `context[start:end]`.
    """

    score: float
    start: int
    end: int
    answer: str


@dataclass(frozen=True, slots=True)
class Span:
    """A part of the context.

    Attributes:
        start: its first character.
        end: the character after its last.
        score: the product of the probabilities of its first and its last token.
    """

    start: int
    end: int
    score: float


@dataclass(frozen=True, slots=True)
class WindowSpans:
    """What was found in a window over the context.

    Attributes:
        spans: the best spans, best first.
        no_answer: the probability that the window has no answer.
    """

    spans: list[Span]
    no_answer: float


@dataclass(frozen=True, kw_only=True)
class QuestionAnswering(Postprocess[WindowSpans]):
    """Question answering and its options.

    Attributes:
        top_k: how many answers an item gets. 1 gives a dict, and more give a list.
        handle_impossible_answer: whether the empty answer may be given, which says that there is none in the context.
        max_answer_len: the most tokens of an answer.
        max_seq_len: the most tokens of a window, question included. None means 384, or the usable length if that is
            less.
        doc_stride: how many tokens two windows share. None means 128, or half of `max_seq_len` if that is less.
        align_to_words: whether an answer is extended to whole words.
    """

    top_k: int = 1
    handle_impossible_answer: bool = False
    max_answer_len: int = 15
    max_seq_len: int | None = None
    doc_stride: int | None = None
    align_to_words: bool = True

    fields: ClassVar[tuple[ItemField, ...]] = (ItemField(name="question"), ItemField(name="context"))

    def __post_init__(self) -> None:
        check_integer("top_k", self.top_k, minimum=1)
        check_integer("max_answer_len", self.max_answer_len, minimum=1)
        if self.max_seq_len is not None:
            check_integer("max_seq_len", self.max_seq_len, minimum=1, maximum=self.manifest.usable_length)
        if self.doc_stride is not None:
            check_integer("doc_stride", self.doc_stride, minimum=0)

    def encode(self, item: Any) -> Sequence[Encoding]:
        """Return the tokens of the question with each window over the context."""
        pair = fields_from_item(item, self.fields)
        for name, text in pair.items():
            if text == "":
                raise InputError(f"the {name} is empty, expected a text.")
        max_length = self.max_seq_len or min(self.manifest.usable_length, 384)
        stride = min(max_length // 2, 128) if self.doc_stride is None else self.doc_stride
        # The question is in every window.
        self.tokenizer.check_bytes(pair["question"], max_length, advice="shorten the question.")
        encoding = self.tokenizer.encode(pair["question"], pair["context"])
        return windows(
            encoding,
            max_length=max_length,
            stride=stride,
            sequence=_CONTEXT,
            truncation_side=self.manifest.truncation_side,
        )

    def score(self, row: FinishedRow) -> WindowSpans:
        """Return the best spans of a window."""
        context = row.encoding.sequences == _CONTEXT
        # The first token stands for "no answer": it gets its part of the probabilities, but begins and ends no span.
        candidates = context.copy()
        candidates[0] = True
        start, end = (
            softmax(np.where(candidates, row.outputs[name], -np.inf)) for name in ("start_logits", "end_logits")
        )
        # Extended to whole words, several spans may become the same, so more of them are needed.
        count = self.top_k * 2 + 10 if self.align_to_words else self.top_k
        spans = best_spans(start * context, end * context, count=count, max_length=self.max_answer_len)
        return WindowSpans(
            spans=[self._span(row.encoding, first, last, score) for first, last, score in spans],
            no_answer=float(start[0] * end[0]),
        )

    def answer(self, finished: FinishedItem[WindowSpans]) -> Answer | list[Answer]:
        """Return the best answers of all windows.

        Answers whose texts differ only in case are one answer, with the sum of their scores.
        """
        by_text: dict[str, Answer] = {}
        for span in (span for window in finished.scores for span in window.spans):
            text = finished.item["context"][span.start : span.end]
            found = by_text.setdefault(text.lower(), Answer(score=0.0, start=span.start, end=span.end, answer=text))
            found["score"] += span.score
        answers = list(by_text.values())
        if self.handle_impossible_answer or not answers:
            no_answer = min(window.no_answer for window in finished.scores)
            answers.append(Answer(score=no_answer, start=0, end=0, answer=""))
        answers.sort(key=lambda answer: answer["score"], reverse=True)
        return answers[0] if self.top_k == 1 else answers[: self.top_k]

    def _span(self, encoding: Encoding, first: int, last: int, score: float) -> Span:
        if self.align_to_words:
            context = encoding.sequences == _CONTEXT
            first = int(np.flatnonzero(context & (encoding.words == encoding.words[first]))[0])
            last = int(np.flatnonzero(context & (encoding.words == encoding.words[last]))[-1])
        return Span(int(encoding.offsets[first, 0]), int(encoding.offsets[last, 1]), score)


def best_spans(start: np.ndarray, end: np.ndarray, *, count: int, max_length: int) -> list[tuple[int, int, float]]:
    """Return the `count` best spans, best first: the first token, the last token, and the score.

    `start` and `end` are the probabilities of tokens to be the first and the last one, (tokens). The score of a span is
    their product. Spans of more than `max_length` tokens and spans of score 0 are left out.
    """
    scores = np.tril(np.triu(np.outer(start, end)), max_length - 1).ravel()
    count = min(count, int(np.count_nonzero(scores)))
    # Of equally likely spans, the first ones are taken, as by transformers and in C++.
    least = np.partition(scores, -count)[-count] if count else np.inf
    best = np.flatnonzero(scores >= least)
    best = best[np.argsort(-scores[best], kind="stable")[:count]]
    firsts, lasts = np.unravel_index(best, (len(start), len(end)))
    return list(zip(firsts.tolist(), lasts.tolist(), scores[best].tolist(), strict=True))
