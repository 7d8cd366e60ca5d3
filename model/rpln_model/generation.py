"""transformers' `generate`, with positions counted as the networks were trained."""

from typing import Any

from torch import Tensor
from transformers import GenerationMixin

from rpln_model.config import padding_row


class RobertaGenerationMixin(GenerationMixin):
    """A model that generates; transformers knows it by the end of this name.

    RoBERTa's positions count from the row after padding's. transformers' `generate` lets no model count by itself, but
    hands it positions from 0 (4.57.6 and 5.23): rows that mean padding, or that were never trained. Here they are moved
    to where they belong, so that `generate` gives the tokens of calling the model step by step.
    """

    config: Any

    def prepare_inputs_for_generation(self, input_ids: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """Return the arguments of a step's forward pass; transformers 4.57 makes positions here if it is given none."""
        inputs = super().prepare_inputs_for_generation(input_ids, **kwargs)  # type: ignore[misc]  # typed for a protocol
        inputs.pop("cache_position", None)  # 4.57 hands it to every model; the cache says it too
        name = "decoder_position_ids" if self.config.is_encoder_decoder else "position_ids"
        if kwargs.get(name) is None and inputs.get(name) is not None:
            inputs[name] = inputs[name] + self._first_position
        return inputs

    def _prepare_position_ids_for_generation(self, inputs_tensor: Tensor, model_kwargs: dict[str, Any]) -> Tensor:
        """Return the positions of a prompt; transformers 5 makes them here, once."""
        positions: Tensor = super()._prepare_position_ids_for_generation(inputs_tensor, model_kwargs)  # type: ignore[no-untyped-call]
        return positions + self._first_position

    @property
    def _first_position(self) -> int:
        return padding_row(getattr(self.config, "decoder", self.config)) + 1
