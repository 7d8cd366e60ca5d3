"""The layers that make one vector of a text, with their weights, and a tokenizer that lower-cases texts."""

from typing import Any

import torch
from tokenizers import normalizers
from torch import nn

from rpln_export.plan.sentences import DenseLayer, Layer, SentencePlan
from rpln_model.encoder import RobertaPreLayerNormModel
from rpln_model.errors import CheckpointError
from rpln_model.sentences import Dense, Normalize, SentenceEncoder
from rpln_model.weights import read_files


def sentence_encoder_from_plan(network: RobertaPreLayerNormModel, plan: SentencePlan) -> SentenceEncoder:
    """Return `network` with the poolings and layers of `plan`, in fp32 and eval mode.

    Raises CheckpointError for a layer whose weights are missing, broken, or of other sizes than its file says.
    """
    layers = [_layer(layer) for layer in plan.layers]
    encoder = SentenceEncoder(network, poolings=plan.poolings, layers=layers, embedding_size=plan.embedding_size)
    return encoder.eval()


def _layer(layer: Layer) -> nn.Module:
    if not isinstance(layer, DenseLayer):
        return Normalize()
    with torch.device("meta"):  # its file may ask for any size: memory is taken by the weights that are there
        dense = Dense(
            layer.in_features,
            layer.out_features,
            bias=layer.bias,
            activation=getattr(nn, layer.activation)(),
            residual=layer.residual,
        )
    weights = {name: tensor.float() for name, tensor in read_files(layer.folder).items()}
    try:
        dense.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        raise CheckpointError(
            f"the weights in {layer.folder} do not fit its config.json ({error}). Fetch them or save them again."
        ) from error
    return dense


def lower_texts(tokenizer: Any) -> None:
    """Let `tokenizer`, a fast one, lower-case texts before anything else, as sentence-transformers does."""
    backend = tokenizer.backend_tokenizer
    own = [] if backend.normalizer is None else [backend.normalizer]
    backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *own])
