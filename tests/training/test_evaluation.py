from types import SimpleNamespace

import pytest
from torch import Tensor, nn

from training.evaluation import tagger_scores
from training.examples import TaggedExample
from training.tags import TAGS

_NOUN, _VERB, _DET = (TAGS.index(tag) for tag in ("NOUN", "VERB", "DET"))


class _SaysItsInput(nn.Module):
    """A model that answers token id 10 + i with tag i."""

    def forward(self, *, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=nn.functional.one_hot((input_ids - 10).clamp(min=0), len(TAGS)).float())


def _example(*tokens: tuple[int, int, bool]) -> TaggedExample:
    said, meant, is_first = zip(*tokens, strict=True)
    return TaggedExample(token_ids=[10 + tag for tag in said], labels=list(meant), is_first=list(is_first))


def test_scores_count_first_tokens_only() -> None:
    scores = tagger_scores(
        _SaysItsInput(),
        [
            _example((_NOUN, _NOUN, True), (_VERB, _NOUN, True), (_VERB, _NOUN, False)),
            _example((_VERB, _VERB, True)),
            _example((_NOUN, _NOUN, True), (_NOUN, _NOUN, False), (_DET, _DET, True)),
        ],
    )
    assert (scores.words, scores.accuracy) == pytest.approx((5, 4 / 5))
    noun, verb = scores.tags["NOUN"], scores.tags["VERB"]
    assert (noun.precision, noun.recall, noun.f1, noun.words) == pytest.approx((1, 2 / 3, 4 / 5, 3))
    assert (verb.precision, verb.recall, verb.f1, verb.words) == pytest.approx((1 / 2, 1, 2 / 3, 1))
    assert scores.tags["X"].f1 == 0
    assert scores.macro_f1 == pytest.approx((4 / 5 + 2 / 3 + 1) / 12)
