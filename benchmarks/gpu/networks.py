"""NETWORKS: the base-size networks that are measured. Their weights are made anew wherever they are needed.

Every matrix holds one random vector again and again, each row one place further on (a Hankel matrix). So a graph with
hundreds of megabytes of weights is compressed to a few, however its passes transpose it, while the products cost what
they always cost. All numbers come from numpy, whose generators give the same ones on every machine.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

VOCABULARY: Final = 50265
HEAD_SIZE: Final = 64
SPREAD: Final = 0.02
"""The standard deviation of weights, as transformers initializes them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """The sizes of a network, and its task."""

    task: str
    layers: int = 12
    hidden: int = 768
    vocabulary: int = VOCABULARY

    def small(self) -> "Network":
        """Return a network for a rehearsal: the same task in two layers of 64."""
        return Network(task=self.task, layers=2, hidden=64, vocabulary=7500)

    def model(self) -> Any:
        """Return transformers' own model of this network, in fp32 and in evaluation mode."""
        import torch
        import transformers

        from rpln_runtime.tasks import TASKS

        config = transformers.RobertaPreLayerNormConfig(
            vocab_size=self.vocabulary,
            hidden_size=self.hidden,
            num_hidden_layers=self.layers,
            num_attention_heads=self.hidden // HEAD_SIZE,
            intermediate_size=4 * self.hidden,
            max_position_embeddings=514,
            type_vocab_size=1,
            is_decoder=self.task == "text-generation",
        )
        with torch.device("meta"):
            model = getattr(transformers, TASKS[self.task].architecture)(config)
        model = model.to_empty(device="cpu").eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(torch.from_numpy(weight(name, tuple(parameter.shape))))
            for name, buffer in model.named_buffers():
                if name.endswith("position_ids"):
                    buffer.copy_(torch.arange(buffer.shape[-1]).expand_as(buffer))
                else:
                    buffer.zero_()
        model.tie_weights()
        return model

    def write(self, folder: Path) -> Path:
        """Write the network as a checkpoint of transformers, with the tokenizer of an embedded one, and return it."""
        import transformers

        from rpln_export.plan.defaults import DEFAULT_CHECKPOINT

        self.model().save_pretrained(folder)
        transformers.AutoTokenizer.from_pretrained(DEFAULT_CHECKPOINT).save_pretrained(folder)
        return folder


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return the parameter called `name` in fp32: a Hankel matrix, or a random vector; LayerNorms scale by about 1."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    values = np.random.default_rng(seed).standard_normal(sum(shape), dtype=np.float32) * np.float32(SPREAD)
    if len(shape) == 1:
        is_scale = "norm" in name.lower() and name.endswith("weight")
        return values + np.float32(1.0) if is_scale else values
    rows, columns = shape
    return np.array(np.lib.stride_tricks.sliding_window_view(values, columns)[:rows])


NETWORKS: Final = {
    "tagger": Network(task="token-classification"),
    "writer": Network(task="text-generation"),
}
