"""transformers' Auto classes make our classes after `register()`, and not before."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import transformers
from transformers import RobertaPreLayerNormConfig

from rpln_model import HEADS, register
from rpln_model.auto import AUTO_CLASSES
from tests.model.references import SINGLE_HEADS, own_model, tiny_config


@pytest.fixture
def _unregistered() -> Iterator[None]:
    yield
    for auto_class in AUTO_CLASSES:
        auto: Any = getattr(transformers, auto_class)
        auto._model_mapping._extra_content.pop(RobertaPreLayerNormConfig, None)


def test_every_head_has_an_auto_class() -> None:
    assert [*AUTO_CLASSES.values()] == [*SINGLE_HEADS]


@pytest.mark.usefixtures("_unregistered")
@pytest.mark.parametrize("auto_class", AUTO_CLASSES)
def test_registered_classes_are_ours(auto_class: str, tmp_path: Path) -> None:
    architecture = AUTO_CLASSES[auto_class]
    own_model(architecture).save_pretrained(tmp_path)
    auto: Any = getattr(transformers, auto_class)
    for model in (auto.from_pretrained(tmp_path), auto.from_config(tiny_config())):
        assert type(model) is getattr(transformers, architecture)
    register()
    register()
    for model in (auto.from_pretrained(tmp_path), auto.from_config(tiny_config())):
        assert type(model) is HEADS[architecture]
