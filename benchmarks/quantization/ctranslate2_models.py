"""CTranslate2's models of this architecture, made from its specification of transformers with the network's weights.

Its converter knows neither RoBERTa-PreLayerNorm nor transformers 5, but its specification has all that the layers need:
pre-LayerNorm, and a LayerNorm behind the embeddings. Token types are all 0, so their row is part of the positions.
- Encoders end with the last LayerNorm. The head stays in torch.
- Of the head of a decoder it has the two products, and no GELU and LayerNorm between them: the speed is that of a
  decoder of the same size, and the logits are others.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.quantization.runtimes import Feeds

FLOAT32 = "float32"
INT8 = "int8"


def open_encoder(model: Any, folder: Path, *, quantization: str, threads: int) -> Callable[[Feeds], NDArray[Any]]:
    """Write transformers' `model` to `folder`, and return a function that runs it; texts are padded on the right."""
    import ctranslate2
    import torch
    from ctranslate2.specs import TransformerEncoderModelSpec, TransformerEncoderSpec

    config = model.config
    encoder = TransformerEncoderSpec(
        config.num_hidden_layers,
        config.num_attention_heads,
        pre_norm=True,
        activation=_gelu(),
        layernorm_embedding=True,
    )
    _set_network(encoder, encoder.embeddings[0], model.base_model)
    _save(TransformerEncoderModelSpec(encoder), config, folder, quantization)
    opened = ctranslate2.Encoder(str(folder), device="cpu", intra_threads=threads)

    def run(feeds: Feeds) -> NDArray[Any]:
        ids = feeds["input_ids"].astype(np.int32)
        lengths = feeds["attention_mask"].sum(1, dtype=np.int32)
        view = ctranslate2.StorageView.from_array
        hidden = np.array(opened.forward_batch(view(ids), view(lengths)).last_hidden_state)
        with torch.inference_mode():
            logits: NDArray[Any] = model.classifier(torch.from_numpy(hidden)).numpy()
        return logits

    return run


def open_decoder(
    model: Any, folder: Path, *, quantization: str, threads: int, new_tokens: int
) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """Write a decoder like transformers' `model` to `folder`, and return a function that writes `new_tokens`."""
    import ctranslate2
    from ctranslate2.specs import TransformerDecoderModelSpec, TransformerDecoderSpec

    config = model.config
    decoder = TransformerDecoderSpec(
        config.num_hidden_layers,
        config.num_attention_heads,
        pre_norm=True,
        activation=_gelu(),
        layernorm_embedding=True,
        with_encoder_attention=False,
        project_in_out=True,
    )
    del decoder.project_in
    _set_network(decoder, decoder.embeddings, model.base_model)
    _set_linear(decoder.project_out, model.lm_head.dense)
    _set_linear(decoder.projection, model.lm_head.decoder)
    _save(TransformerDecoderModelSpec(decoder), config, folder, quantization)
    opened = ctranslate2.Generator(str(folder), device="cpu", intra_threads=threads)

    def write(prompts: NDArray[Any]) -> NDArray[Any]:
        found = opened.generate_batch(
            [[str(token) for token in prompt] for prompt in prompts],
            beam_size=1,
            max_length=new_tokens,
            min_length=new_tokens,
            include_prompt_in_result=False,
        )
        return np.array([one.sequences_ids[0] for one in found])

    return write


def _gelu() -> Any:
    from ctranslate2.specs import Activation

    return Activation.GELU


def _set_network(spec: Any, words: Any, network: Any) -> None:
    """Give the specification the weights of the network below its head."""
    from ctranslate2.converters.utils import fuse_linear
    from ctranslate2.specs.common_spec import LinearSpec

    embeddings = network.embeddings
    spec.scale_embeddings = False
    words.weight = _array(embeddings.word_embeddings.weight)
    positions = embeddings.position_embeddings.weight[embeddings.padding_idx + 1 :]
    spec.position_encodings.encodings = _array(positions + embeddings.token_type_embeddings.weight[0])
    _set_norm(spec.layernorm_embedding, embeddings.LayerNorm)
    _set_norm(spec.layer_norm, network.LayerNorm)
    for one, layer in zip(spec.layer, network.encoder.layer, strict=True):
        attention = layer.attention
        projections = []
        for linear in (attention.self.query, attention.self.key, attention.self.value):
            projections.append(LinearSpec())
            _set_linear(projections[-1], linear)
        fuse_linear(one.self_attention.linear[0], projections)
        _set_linear(one.self_attention.linear[1], attention.output.dense)
        _set_norm(one.self_attention.layer_norm, attention.LayerNorm)
        _set_linear(one.ffn.linear_0, layer.intermediate.dense)
        _set_linear(one.ffn.linear_1, layer.output.dense)
        _set_norm(one.ffn.layer_norm, layer.intermediate.LayerNorm)


def _set_linear(spec: Any, linear: Any) -> None:
    spec.weight, spec.bias = _array(linear.weight), _array(linear.bias)


def _set_norm(spec: Any, norm: Any) -> None:
    spec.gamma, spec.beta = _array(norm.weight), _array(norm.bias)


def _array(tensor: Any) -> NDArray[np.float32]:
    array: NDArray[np.float32] = tensor.detach().numpy()
    return array


def _save(spec: Any, config: Any, folder: Path, quantization: str) -> None:
    """Write the model; each token of its vocabulary is called by its id."""
    spec.config.layer_norm_epsilon = config.layer_norm_eps
    spec.config.bos_token = spec.config.unk_token = str(config.bos_token_id)
    spec.config.eos_token = str(config.eos_token_id)
    spec.register_vocabulary([str(token) for token in range(config.vocab_size)])
    spec.validate()
    spec.optimize(quantization=quantization)
    folder.mkdir(parents=True)
    spec.save(str(folder))
