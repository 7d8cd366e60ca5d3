"""Text of a language model after a prompt, for the model card."""

from dataclasses import dataclass
from typing import Final

import torch
from tokenizers import Tokenizer

from rpln_model import RobertaPreLayerNormForCausalLM
from training.tokenizer import END_ID


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """The way to draw a token: among the `top_k` likeliest ones, with their logits divided by `temperature`."""

    temperature: float
    top_k: int


GREEDY: Final = Sampling(temperature=1.0, top_k=1)


@torch.inference_mode()
def continuation(
    model: RobertaPreLayerNormForCausalLM, tokenizer: Tokenizer, prompt: str, *, max_new_tokens: int, sampling: Sampling
) -> str:
    """Return the text after the prompt, up to </s>, drawn with torch's generator. Puts the model into eval mode."""
    model.eval()
    prompt_ids = tokenizer.encode(prompt).ids
    ids = list(prompt_ids)
    while len(ids) < len(prompt_ids) + max_new_tokens and ids[-1] != END_ID:
        logits_V = model(torch.tensor([ids]), use_cache=False).logits[0, -1]
        best = logits_V.topk(sampling.top_k)
        drawn = torch.multinomial((best.values / sampling.temperature).softmax(-1), 1)
        ids.append(int(best.indices[drawn]))
    return tokenizer.decode(ids[len(prompt_ids) :]).strip()
