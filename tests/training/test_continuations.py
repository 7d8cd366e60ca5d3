import pytest
import torch
from tokenizers import Tokenizer
from transformers import RobertaPreLayerNormConfig

from rpln_model import RobertaPreLayerNormForCausalLM
from training.continuations import GREEDY, Sampling, continuation
from training.tokenizer import open_ended, train_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return open_ended(train_tokenizer(["one two three four"] * 3, vocabulary_size=280))


@pytest.fixture
def model(tokenizer: Tokenizer) -> RobertaPreLayerNormForCausalLM:
    """Return a model whose predictions ignore the text: two, or then four, or then the end."""
    config = RobertaPreLayerNormConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=8, num_hidden_layers=1, num_attention_heads=1,
        intermediate_size=8, max_position_embeddings=40, type_vocab_size=1, is_decoder=True,
    )  # fmt: skip
    model = RobertaPreLayerNormForCausalLM(config)
    with torch.no_grad():
        model.lm_head.decoder.weight.zero_()
        bias = model.lm_head.decoder.bias.fill_(-100.0)
        for value, token in enumerate(["</s>", "Ġfour", "Ġtwo"]):
            bias[tokenizer.token_to_id(token)] = value
    return model


def test_greedy_takes_the_likeliest(model: RobertaPreLayerNormForCausalLM, tokenizer: Tokenizer) -> None:
    assert continuation(model, tokenizer, "one", max_new_tokens=3, sampling=GREEDY) == "two two two"


def test_sampling_draws_among_the_best(model: RobertaPreLayerNormForCausalLM, tokenizer: Tokenizer) -> None:
    torch.manual_seed(0)

    def draw(**settings: float) -> str:
        sampling = Sampling(temperature=settings["temperature"], top_k=int(settings["top_k"]))
        return continuation(model, tokenizer, "one", max_new_tokens=20, sampling=sampling)

    assert set(draw(temperature=1, top_k=2).split()) == {"two", "four"}
    assert set(draw(temperature=0.01, top_k=2).split()) == {"two"}


def test_nothing_comes_after_the_end(model: RobertaPreLayerNormForCausalLM, tokenizer: Tokenizer) -> None:
    with torch.no_grad():
        model.lm_head.decoder.bias[tokenizer.token_to_id("</s>")] = 10
    steps: list[None] = []
    model.register_forward_hook(lambda *_: steps.append(None))
    assert continuation(model, tokenizer, "one", max_new_tokens=5, sampling=GREEDY) == ""
    assert len(steps) == 1
