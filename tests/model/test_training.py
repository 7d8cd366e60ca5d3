"""Fine-tuning as with transformers: dropout, losses by problem type, gradients, initial values."""

from typing import Any

import pytest
import torch
from torch import Tensor

from rpln_model import ConfigError, RobertaPreLayerNormForSequenceClassification
from tests.model.references import (
    HIDDEN,
    LENGTH,
    OUTPUT_TOLERANCE,
    PAD,
    SINGLE_HEADS,
    VOCABULARY,
    assert_equal_outputs,
    difference,
    labels_for,
    own_model,
    pair,
    random_ids,
    random_values,
    tiny_config,
    token_shape,
)

CLASSIFIER = "RobertaPreLayerNormForSequenceClassification"


@pytest.mark.parametrize("architecture", SINGLE_HEADS)
def test_dropout_falls_where_it_does_in_transformers(architecture: str) -> None:
    """Both sides draw from the same stream of random numbers, so that any difference in dropouts would show."""
    reference, ours = pair(
        architecture, hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.2, classifier_dropout=0.4
    )
    outputs = []
    for model in (reference.train(), ours.train()):
        torch.manual_seed(5)
        outputs.append(model(random_ids(*token_shape(architecture)), output_attentions=True))
    assert_equal_outputs(outputs[1], outputs[0], final_norm=ours.base_model.LayerNorm)
    assert (outputs[1].attentions[0] == 0).any()


REGRESSION, SINGLE, MULTI = "regression", "single_label_classification", "multi_label_classification"


@pytest.mark.parametrize(
    ("given", "labels", "num_labels", "found"),
    [
        (None, random_values(3), 1, REGRESSION),
        (None, random_values(3, 1), 1, REGRESSION),
        (None, torch.tensor([2, 0, 1]), 3, SINGLE),
        (None, random_values(3, 3).gt(0).float(), 3, MULTI),
        (REGRESSION, random_values(3, 3), 3, REGRESSION),
        (SINGLE, torch.tensor([2, -100, 1]), 3, SINGLE),
        (MULTI, random_values(3, 3).gt(0).float(), 3, MULTI),
    ],
)
def test_sequence_losses_by_problem_type(given: str | None, labels: Tensor, num_labels: int, found: str) -> None:
    reference, ours = pair(CLASSIFIER, num_labels=num_labels, problem_type=given)
    ids = random_ids(3, LENGTH)
    theirs, mine = reference(ids, labels=labels), ours(ids, labels=labels)
    assert difference(mine.loss, theirs.loss) <= OUTPUT_TOLERANCE
    assert ours.config.problem_type == reference.config.problem_type == found


def test_int32_labels_are_classes_that_cross_entropy_refuses() -> None:
    for model in pair(CLASSIFIER, num_labels=3):
        with pytest.raises(RuntimeError, match="expected"):
            model(random_ids(3, LENGTH), labels=torch.tensor([2, 0, 1], dtype=torch.int32))
        assert model.config.problem_type == SINGLE


def test_an_unknown_problem_type_is_refused() -> None:
    config = tiny_config()
    vars(config)["problem_type"] = "ranking"
    with pytest.raises(ConfigError, match=r"problem_type is 'ranking'.* regression"):
        RobertaPreLayerNormForSequenceClassification(config)


@pytest.mark.parametrize("architecture", [name for name in SINGLE_HEADS if name != "RobertaPreLayerNormModel"])
def test_fine_tuning_goes_step_by_step_with_transformers(architecture: str) -> None:
    pair_of_models = pair(architecture, is_decoder=architecture.endswith("CausalLM"), hidden_dropout_prob=0.02)
    inputs: dict[str, Any] = {"input_ids": random_ids(*token_shape(architecture)), **labels_for(architecture)}
    histories = []
    for model in pair_of_models:
        torch.manual_seed(5)
        optimizer = torch.optim.AdamW(model.train().parameters(), lr=3e-3)
        losses = []
        for _ in range(5):
            optimizer.zero_grad()
            loss = model(**inputs).loss
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        histories.append(losses)
    assert histories[1] == pytest.approx(histories[0], abs=1e-3)
    assert histories[1][-1] < 0.9 * histories[1][0]


def test_padding_rows_get_no_gradient() -> None:
    model = own_model("RobertaPreLayerNormModel")
    ids = random_ids(2, LENGTH)
    ids[0, :3] = PAD
    model(ids).last_hidden_state.sum().backward()
    embeddings = model.base_model.embeddings
    assert embeddings.word_embeddings.weight.grad[PAD].abs().max() == 0
    assert embeddings.position_embeddings.weight.grad[PAD].abs().max() == 0
    assert embeddings.token_type_embeddings.weight.grad[0].abs().max() > 0


def test_initial_values_follow_initializer_range() -> None:
    model = SINGLE_HEADS["RobertaPreLayerNormForMaskedLM"](
        tiny_config(
            initializer_range=0.5,
            tie_word_embeddings=False,
            position_embedding_type="relative_key",
            hidden_size=96,
            intermediate_size=300,
        )
    )
    for name, parameter in model.named_parameters():
        values = parameter.detach()
        if name.endswith("bias"):
            assert values.abs().max() == 0, name
        elif values.dim() == 1:
            assert (values == 1).all(), name
        else:
            assert 0.4 < values.std() < 0.6, name
            assert abs(values.mean()) < 0.1, name
    for table in (model.base_model.embeddings.word_embeddings, model.base_model.embeddings.position_embeddings):
        assert table.weight[PAD].abs().max() == 0


def test_embeddings_are_tied_and_biases_are_one() -> None:
    tied = own_model("RobertaPreLayerNormForMaskedLM")
    untied = own_model("RobertaPreLayerNormForMaskedLM", tie_word_embeddings=False)
    for model, together in ((tied, True), (untied, False)):
        output = model.get_output_embeddings()
        assert output is not None
        assert (output.weight is model.get_input_embeddings().weight) is together
        assert output.bias is model.get_parameter("lm_head.bias")
    assert untied.num_parameters() - tied.num_parameters() == VOCABULARY * HIDDEN


def test_num_parameters_equals_transformers() -> None:
    for architecture in SINGLE_HEADS:
        reference, ours = pair(architecture)
        for model in (reference, ours):
            model.base_model.embeddings.requires_grad_(requires_grad=False)
        assert ours.num_parameters() == reference.num_parameters()
        assert ours.num_parameters(only_trainable=True) == reference.num_parameters(only_trainable=True)
