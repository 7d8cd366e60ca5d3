"""Makes transformers' `generate` count positions as RoBERTa does."""

from typing import Any

from torch import Tensor
from transformers import GenerationMixin

from rpln_model.config import padding_row


class RobertaGenerationMixin(GenerationMixin):
    """A base class for models that generate text. transformers recognises it by the end of its name.

    RoBERTa counts positions from `pad_token_id + 1`. `generate` of transformers 4.57.6 and 5.23 passes positions that
    count from 0, whatever the model; the first of them belong to padding or were never trained. The methods below add
    the difference, so that `generate` gives the same tokens as calling the model step by step.
    """

    config: Any

    def prepare_inputs_for_generation(self, input_ids: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """Return the arguments of the next forward pass.

        transformers 4.57 computes positions here, unless the caller gave some.
        """
        inputs = super().prepare_inputs_for_generation(input_ids, **kwargs)  # type: ignore[misc]  # typed for a protocol
        inputs.pop("cache_position", None)  # transformers 4.57 passes it to every model; the cache holds the same
        name = "decoder_position_ids" if self.config.is_encoder_decoder else "position_ids"
        if kwargs.get(name) is None and inputs.get(name) is not None:
            inputs[name] = inputs[name] + self._first_position
        return inputs

    def _prepare_position_ids_for_generation(self, inputs_tensor: Tensor, model_kwargs: dict[str, Any]) -> Tensor:
        """Return the positions of the prompt. transformers 5 calls this once."""
        positions: Tensor = super()._prepare_position_ids_for_generation(inputs_tensor, model_kwargs)  # type: ignore[no-untyped-call]
        return positions + self._first_position

    @property
    def _first_position(self) -> int:
        return padding_row(getattr(self.config, "decoder", self.config)) + 1
