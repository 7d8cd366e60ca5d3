# ruff: noqa: FBT001, PLR0917 - the documented interface fixes these arguments' order and types
"""The models with a head, and HEADS, a table of all classes by name. To add a head, write a class and add a row.

`rpln_model.layers` explains the suffixes of tensor names, `rpln_model.encoder.RobertaPreLayerNormModel` the inputs that
all models share, and the outputs besides the loss and the logits.
"""

from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import RobertaPreLayerNormConfig
from transformers.loss.loss_utils import ForQuestionAnsweringLoss, ForSequenceClassificationLoss
from transformers.modeling_outputs import (
    MultipleChoiceModelOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)

from rpln_model.base import RobertaPreLayerNormPreTrainedModel
from rpln_model.config import label_count, returns_dict
from rpln_model.encoder import RobertaPreLayerNormModel, internals
from rpln_model.encoder_decoder import EncoderDecoderModel
from rpln_model.errors import ConfigError
from rpln_model.language_models import RobertaPreLayerNormForCausalLM, RobertaPreLayerNormForMaskedLM
from rpln_model.losses import token_loss, with_loss
from rpln_model.network import Network

START_AND_END: Final = 2


class RobertaPreLayerNormForSequenceClassification(RobertaPreLayerNormPreTrainedModel):
    """A model that gives a sequence logits over the labels, or regression values."""

    def __init__(self, config: RobertaPreLayerNormConfig) -> None:
        super().__init__(config)
        self.roberta_prelayernorm = RobertaPreLayerNormModel(config, add_pooling_layer=False)
        self.classifier = ClassificationHead(config)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> tuple[Any, ...] | SequenceClassifierOutput:
        """Return `logits` (batch, labels) and, if `labels` are given, the `loss` for the config's `problem_type`.

        Labels are int64 (batch,) for single_label_classification, float (batch, labels) for multi_label_classification,
        and float (batch,) or (batch, labels) for regression.
        """
        outputs = self.roberta_prelayernorm(
            input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            head_mask=head_mask,
            inputs_embeds=inputs_embeds,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        logits = self.classifier(outputs.last_hidden_state)
        loss = None if labels is None else ForSequenceClassificationLoss(labels, logits, self.config)
        if not returns_dict(self.config, asked=return_dict):
            return with_loss(loss, logits, *internals(outputs))
        return SequenceClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


class RobertaPreLayerNormForTokenClassification(RobertaPreLayerNormPreTrainedModel):
    """A model that gives every token logits over the labels."""

    def __init__(self, config: RobertaPreLayerNormConfig) -> None:
        super().__init__(config)
        self.roberta_prelayernorm = RobertaPreLayerNormModel(config, add_pooling_layer=False)
        self.dropout = nn.Dropout(_classifier_dropout(config))
        self.classifier = nn.Linear(config.hidden_size, label_count(config))
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> tuple[Any, ...] | TokenClassifierOutput:
        """Return `logits` (batch, sequence, labels) and, if `labels` are given, the `loss`.

        Labels are int64 (batch, sequence); -100 is ignored.
        """
        outputs = self.roberta_prelayernorm(
            input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            head_mask=head_mask,
            inputs_embeds=inputs_embeds,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        logits = self.classifier(self.dropout(outputs.last_hidden_state))
        loss = None if labels is None else token_loss(logits, labels)
        if not returns_dict(self.config, asked=return_dict):
            return with_loss(loss, logits, *internals(outputs))
        return TokenClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


class RobertaPreLayerNormForQuestionAnswering(RobertaPreLayerNormPreTrainedModel):
    """A model that gives every token two logits: whether the answer starts there, and whether it ends there."""

    def __init__(self, config: RobertaPreLayerNormConfig) -> None:
        super().__init__(config)
        self.roberta_prelayernorm = RobertaPreLayerNormModel(config, add_pooling_layer=False)
        if label_count(config) != START_AND_END:
            raise ConfigError(
                f"num_labels is {label_count(config)}; question answering has {START_AND_END} outputs a token: how "
                "well an answer starts and how well it ends there. Pass num_labels=2, or choose another head."
            )
        self.qa_outputs = nn.Linear(config.hidden_size, START_AND_END)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> tuple[Any, ...] | QuestionAnsweringModelOutput:
        """Return `start_logits` and `end_logits`, both (batch, sequence), and the `loss` if both positions are given.

        `start_positions` and `end_positions` are int64 (batch,).
        """
        outputs = self.roberta_prelayernorm(
            input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            head_mask=head_mask,
            inputs_embeds=inputs_embeds,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        start_BT, end_BT = self.qa_outputs(outputs.last_hidden_state).unbind(dim=-1)
        loss = ForQuestionAnsweringLoss(start_BT, end_BT, start_positions, end_positions)
        if not returns_dict(self.config, asked=return_dict):
            return with_loss(loss, start_BT, end_BT, *internals(outputs))
        return QuestionAnsweringModelOutput(
            loss=loss,
            start_logits=start_BT,
            end_logits=end_BT,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


class RobertaPreLayerNormForMultipleChoice(RobertaPreLayerNormPreTrainedModel):
    """A model that gives each choice for a prompt a logit."""

    def __init__(self, config: RobertaPreLayerNormConfig) -> None:
        super().__init__(config)
        self.roberta_prelayernorm = RobertaPreLayerNormModel(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.classifier = nn.Linear(config.hidden_size, 1)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        position_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> tuple[Any, ...] | MultipleChoiceModelOutput:
        """Return `logits` (batch, choices) and, if int64 `labels` (batch,) are given, the `loss`.

        Inputs have the shape (batch, choices, sequence), `inputs_embeds` (batch, choices, sequence, hidden). Hidden
        states and attentions are returned with batch and choices as one axis.
        """
        outputs = self.roberta_prelayernorm(
            _merged(input_ids),
            attention_mask=_merged(attention_mask),
            token_type_ids=_merged(token_type_ids),
            position_ids=_merged(position_ids),
            head_mask=head_mask,
            inputs_embeds=_merged(inputs_embeds),
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        given = input_ids if input_ids is not None else inputs_embeds
        assert given is not None  # the model raises an error if both are missing
        scores = self.classifier(self.dropout(outputs.pooler_output))
        logits = scores.view(-1, given.shape[1])
        loss = None if labels is None else F.cross_entropy(logits, labels)
        if not returns_dict(self.config, asked=return_dict):
            return with_loss(loss, logits, *internals(outputs))
        return MultipleChoiceModelOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


HEADS: Final[dict[str, type[Network]]] = {
    head.__name__: head
    for head in (
        RobertaPreLayerNormModel,
        RobertaPreLayerNormForMaskedLM,
        RobertaPreLayerNormForCausalLM,
        RobertaPreLayerNormForSequenceClassification,
        RobertaPreLayerNormForTokenClassification,
        RobertaPreLayerNormForQuestionAnswering,
        RobertaPreLayerNormForMultipleChoice,
        EncoderDecoderModel,
    )
}


class ClassificationHead(nn.Module):
    """A linear layer with tanh and an output layer, over the first token, whatever it is."""

    def __init__(self, config: RobertaPreLayerNormConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(_classifier_dropout(config))
        self.out_proj = nn.Linear(config.hidden_size, label_count(config))

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Return the logits, (batch, labels), of hidden states (batch, sequence, hidden)."""
        x_BD = torch.tanh(self.dense(self.dropout(x_BTD[:, 0])))
        logits: Tensor = self.out_proj(self.dropout(x_BD))
        return logits


def _classifier_dropout(config: RobertaPreLayerNormConfig) -> float:
    given = config.classifier_dropout
    return float(config.hidden_dropout_prob if given is None else given)


def _merged(x: Tensor | None) -> Tensor | None:
    """Return a tensor (batch, choices, ...) as (batch * choices, ...), or None for None."""
    return None if x is None else x.reshape(-1, *x.shape[2:])
