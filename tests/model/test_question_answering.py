"""A span has a start and an end, so the head has two outputs."""

import pytest
from transformers import RobertaPreLayerNormConfig

from rpln_model import ConfigError, RobertaPreLayerNormForQuestionAnswering


def test_another_number_of_labels_is_refused_before_the_first_forward() -> None:
    config = RobertaPreLayerNormConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
    config.num_labels = 5

    with pytest.raises(ConfigError, match=r"num_labels is 5.* num_labels=2"):
        RobertaPreLayerNormForQuestionAnswering(config)
