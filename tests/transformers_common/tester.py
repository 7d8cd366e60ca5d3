"""The small networks and inputs that transformers' common tests run on."""

from typing import Any, Final

import torch
from transformers import EncoderDecoderConfig, RobertaPreLayerNormConfig

DECODERS: Final = ("RobertaPreLayerNormForCausalLM",)
ENCODER_DECODER: Final = "EncoderDecoderModel"


class NetworkTester:
    """What the common tests call a model tester: sizes, a configuration and inputs for an architecture."""

    batch_size = 3
    seq_length = 7
    num_choices = 4
    num_hidden_layers = 2
    num_attention_heads = 4
    hidden_size = 32
    vocab_size = 99
    is_training = True
    encoder_seq_length = decoder_seq_length = key_length = seq_length

    def __init__(self, architecture: str) -> None:
        self.architecture = architecture

    def get_config(self) -> Any:
        """Return a small configuration, of a decoder or an encoder-decoder if the architecture is one."""
        if self.architecture != ENCODER_DECODER:
            return self._network(is_decoder=self.architecture in DECODERS)
        return EncoderDecoderConfig.from_encoder_decoder_configs(
            self._network(),
            self._network(is_decoder=True, add_cross_attention=True),
            decoder_start_token_id=0,
            pad_token_id=1,
        )

    def _network(self, **fields: Any) -> RobertaPreLayerNormConfig:
        return RobertaPreLayerNormConfig(
            vocab_size=self.vocab_size,
            hidden_size=self.hidden_size,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            intermediate_size=37,
            max_position_embeddings=64,
            type_vocab_size=16,
            hidden_dropout_prob=0.1,
            attention_probs_dropout_prob=0.1,
            **fields,
        )

    def prepare_config_and_inputs_for_common(self) -> tuple[Any, dict[str, torch.Tensor]]:
        """Return the configuration, and a batch of random ids without padding, of which a few tokens are masked."""
        inputs = self._tokens()
        if self.architecture == ENCODER_DECODER:
            inputs |= {f"decoder_{name}": tensor for name, tensor in self._tokens().items()}
        else:
            inputs["token_type_ids"] = torch.randint(0, 16, (self.batch_size, self.seq_length))
        return self.get_config(), inputs

    def _tokens(self) -> dict[str, torch.Tensor]:
        shape = (self.batch_size, self.seq_length)
        mask = torch.ones(shape, dtype=torch.long)
        mask[0, -2:] = 0
        return {"input_ids": torch.randint(2, self.vocab_size, shape), "attention_mask": mask}
