from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from rpln_runtime import InputError, pipeline
from tests.runtime.bundles import CORPUS, Bundle
from tests.runtime.comparison import LONG_TEXT, TEXTS, TOLERANCE, reference

TASK = "feature-extraction"


@pytest.fixture(scope="module")
def bundle(bundle_of: Callable[..., Bundle]) -> Bundle:
    return bundle_of(TASK)


def test_equals_transformers(bundle: Bundle) -> None:
    ours, theirs = pipeline(bundle.folder)(list(TEXTS)), reference(bundle, TASK)(list(TEXTS), return_tensors=True)
    for our, their in zip(ours, theirs, strict=True):
        assert our.dtype == np.float32
        assert our.shape == their.shape
        assert np.abs(our - their.numpy()).max() <= TOLERANCE


@pytest.mark.parametrize("normalize", [False, True], ids=["", "normalized"])
@pytest.mark.parametrize("pooling", ["first", "mean", "max"])
def test_pooling_equals_torch_on_a_padded_batch(bundle: Bundle, pooling: str, normalize: bool) -> None:
    batch = bundle.tokenizer(list(CORPUS), return_tensors="pt", padding=True)
    with torch.no_grad():
        hidden_BSH = bundle.model(**batch).last_hidden_state
    mask_BS1 = batch["attention_mask"].unsqueeze(-1)
    pooled_BH = {
        "first": hidden_BSH[:, 0],
        "mean": (hidden_BSH * mask_BS1).sum(1) / mask_BS1.sum(1),
        "max": hidden_BSH.masked_fill(mask_BS1 == 0, -torch.inf).amax(1),
    }[pooling]
    expected = F.normalize(pooled_BH, dim=-1) if normalize else pooled_BH
    ours = np.stack(pipeline(bundle.folder, pooling=pooling, normalize=normalize)(list(CORPUS)))
    assert np.abs(ours - expected.numpy()).max() <= TOLERANCE


def test_answers_do_not_hold_on_to_the_batch(bundle: Bundle) -> None:
    for pooling in ("none", "first"):
        for features in pipeline(bundle.folder, pooling=pooling)(list(CORPUS)):
            assert features.base is None


def test_truncation_equals_transformers(bundle: Bundle) -> None:
    theirs = reference(bundle, TASK)(LONG_TEXT, return_tensors=True, truncation=True)
    assert np.abs(pipeline(bundle.folder, truncation=True)(LONG_TEXT) - theirs.numpy()).max() <= TOLERANCE


def test_an_unknown_pooling_is_refused(bundle: Bundle) -> None:
    with pytest.raises(InputError, match=r"pooling is 'cls'.* 'none', 'first', 'mean', 'max'"):
        pipeline(bundle.folder, pooling="cls")
