"""Networks as they are initialised, and as training leaves them: a few channels that are far larger than the others.

The outliers are those that large language models grow: some channels of the residual stream, which LayerNorm's scale
and the output projections raise. Attention is sharp, and logits reach some tens.
"""

from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from transformers import RobertaPreLayerNormConfig

from rpln_export.validation.comparison import (
    Comparison,
    Reference,
    compare,
    eager_outputs,
    graph_outputs,
    reference_outputs,
    sample_from_cases,
)
from rpln_export.validation.structure import called_modules, folded_scales, structural_faults
from rpln_graphs.calls import GraphCall
from rpln_graphs.recipes import FOLDS, RECIPES
from rpln_graphs.stress import Case, Limits, stress_cases
from rpln_graphs.trace import trace_model
from rpln_model import HEADS
from rpln_runtime.tasks import TASKS, Tensor
from tests.graphs.fusions import applied
from tests.graphs.text_graphs import runner

USABLE_LENGTH = 62
HEAD_SIZE = 32
OUTLIERS = 4
"""The number of channels that are raised."""


@dataclass(kw_only=True)
class NoisyNetwork:
    """A network whose outputs and hidden states are compared, with what eager torch says of the stress set.

    `outliers` is how many times some channels are larger; 0 stands for a network as it was initialised.
    """

    task: str
    layers: int
    width: int
    outliers: int
    seed: int
    folder: Path

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        row = TASKS[self.task]
        return (*row.outputs, *(tensor for tensor in row.optional_outputs if tensor.name == "hidden_states"))

    @cached_property
    def call(self) -> GraphCall:
        torch.manual_seed(self.seed)
        config = RobertaPreLayerNormConfig(
            vocab_size=300,
            hidden_size=self.width,
            num_hidden_layers=self.layers,
            num_attention_heads=self.width // HEAD_SIZE,
            intermediate_size=4 * self.width,
            max_position_embeddings=USABLE_LENGTH + 2,
            type_vocab_size=2,
        )
        config.num_labels = 2 if self.task == "question-answering" else 5
        model = HEADS[TASKS[self.task].architecture](config).eval()
        if self.outliers:
            train(model, outliers=self.outliers, seed=self.seed)
        return GraphCall(model, TASKS[self.task].inputs, self.outputs).eval()

    @cached_property
    def traced(self) -> ir.Model:
        return trace_model(self.call.model, self.call.inputs, self.call.outputs)

    @cached_property
    def folded(self) -> ir.Model:
        return applied(self.traced, *FOLDS)

    @cached_property
    def cases(self) -> list[Case]:
        config = self.call.model.config
        sizes = {name: getattr(config, name) for name in ("num_hidden_layers", "num_attention_heads", "hidden_size")}
        limits = Limits(
            usable_length=USABLE_LENGTH,
            vocab_size=config.vocab_size,
            type_vocab_size=config.type_vocab_size,
            pad_token_id=config.pad_token_id,
            sizes=sizes,
        )
        return list(stress_cases(self.call.inputs, limits))

    @cached_property
    def references(self) -> list[Reference]:
        self.folder.mkdir(parents=True, exist_ok=True)
        return reference_outputs(
            partial(self._eager), self.cases, self.folder, sample=sample_from_cases(self.cases), advance=lambda: None
        )

    def _eager(self, case: Case, *, exact: bool = False) -> dict[str, Any]:
        return eager_outputs(self.call.model, self.call.inputs, self.call.outputs, case.feeds, exact=exact)

    def comparisons(self, graph: ir.Model) -> list[Comparison]:
        """Return the comparisons of a graph of this network, output by output."""
        run = runner(graph)
        return compare(
            self.references,
            {"graph": lambda: lambda case: run(case.feeds)},
            graph_outputs(self.outputs, self.layers),
            self.cases,
            RECIPES["fp32"].tolerance,
            advance=lambda: None,
        )

    def faults(self, graph: ir.Model) -> list[str]:
        """Return what the structure of a graph in standard operators has otherwise than this network."""
        called = called_modules(self.call, self.cases[0].feeds)
        folded = folded_scales(graph, called)
        return structural_faults(graph, called, folded=folded)


def train(model: Any, *, outliers: int, seed: int) -> None:
    """Change the weights of a new network in place to such as training leaves."""
    generator = torch.Generator().manual_seed(seed)

    def noise(weight: torch.Tensor) -> torch.Tensor:
        return torch.randn(weight.shape, generator=generator)

    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("LayerNorm.weight"):
                weight.copy_(1 + 0.3 * noise(weight))
            elif name.endswith("bias"):
                weight.copy_(0.1 * noise(weight))
            else:
                weight.mul_(4.0 if "query" in name or "key" in name else 1.5)
        channels = torch.randperm(model.config.hidden_size, generator=generator)[:OUTLIERS]
        model.base_model.embeddings.LayerNorm.weight[channels] *= outliers
        for layer in model.base_model.encoder.layer:
            layer.attention.output.dense.weight[channels] *= outliers**0.5
            layer.output.dense.weight[channels] *= outliers**0.5
