import pytest
import torch
from transformers import RobertaPreLayerNormConfig

from rpln_model import RobertaPreLayerNormForTokenClassification
from training.local_attention import point_first_layer_at_neighbours


@pytest.mark.parametrize(("head", "offset"), [(0, -1), (1, 1), (2, -2), (3, 2)])
def test_a_head_of_the_first_layer_looks_at_one_neighbour(head: int, offset: int) -> None:
    torch.manual_seed(0)
    config = RobertaPreLayerNormConfig(
        vocab_size=50, hidden_size=128, num_hidden_layers=1, num_attention_heads=4, intermediate_size=32,
        max_position_embeddings=202, type_vocab_size=1,
    )  # fmt: skip
    model = RobertaPreLayerNormForTokenClassification(config).eval()
    point_first_layer_at_neighbours(model)
    with torch.inference_mode():
        (attention,) = model(torch.randint(3, 50, (2, 200)), output_attentions=True).attentions
    assert attention[:, head].diagonal(offset, dim1=-2, dim2=-1).mean() > 0.6
