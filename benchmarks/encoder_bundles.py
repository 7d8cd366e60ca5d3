"""Makes the checkpoints, with random weights, and the bundles that the encoder benchmark runs."""

import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.encoder_cases import HEAD_SIZE, Case, Network
from benchmarks.encoder_contenders import Setup

OPTIMIZED: Final = ("--optimize", "auto")
PLAIN: Final = ("--optimize", "none")


@dataclass(frozen=True, slots=True, kw_only=True)
class Workshop:
    """Makes checkpoints and bundles in `folder`, each once."""

    folder: Path
    threads: int
    plain: dict[Network, Path] = field(default_factory=dict)

    def setup(self, case: Case) -> Setup:
        """Return what the contenders of a case are made from."""
        checkpoint = self.checkpoint(case.network)
        chosen = self.bundle(checkpoint, case, case.workload, *OPTIMIZED, "--workload", case.workload, *case.options)
        if case.network not in self.plain:
            # The graph of torch's exporter after cleaning up, without the folds that every bundle begins with.
            self.plain[case.network] = self.bundle(checkpoint, case, "plain", *PLAIN)
        return Setup(
            network=case.network,
            checkpoint=checkpoint,
            plain=self.plain[case.network],
            chosen=chosen,
            folder=self.folder,
            threads=self.threads,
        )

    def checkpoint(self, network: Network) -> Path:
        """Return a checkpoint of transformers' own class with random weights, and a small tokenizer."""
        folder = self.folder / network.name
        if folder.exists():
            return folder
        import torch

        torch.manual_seed(0)
        return write_checkpoint(model_of(network), folder)

    def bundle(self, checkpoint: Path, case: Case, name: str, *options: str) -> Path:
        """Return the bundle that the command line exports from the checkpoint."""
        folder = self.folder / f"{case.network.name}-{name}"
        if not folder.exists():
            print(f"rpln-export {case.network.name} {' '.join(options)}", flush=True)
            export = "from rpln_export.cli import export_command; export_command()"
            command = [sys.executable, "-c", export, str(checkpoint), "--task", case.network.task, "-o", str(folder)]
            subprocess.run([*command, *options], check=True, stdout=subprocess.DEVNULL)  # noqa: S603 # this project
        return folder


def model_of(network: Network) -> Any:
    """Return transformers' own model of a network with random weights, or on the device "meta" with none."""
    import transformers

    from rpln_runtime.tasks import TASKS

    config = transformers.RobertaPreLayerNormConfig(
        vocab_size=network.vocabulary,
        hidden_size=network.hidden,
        num_hidden_layers=network.layers,
        num_attention_heads=network.hidden // HEAD_SIZE,
        intermediate_size=4 * network.hidden,
        max_position_embeddings=514,
        type_vocab_size=1,
        is_decoder=network.task == "text-generation",
    )
    return getattr(transformers, TASKS[network.task].architecture)(config)


def write_checkpoint(model: Any, folder: Path) -> Path:
    """Write a model as a checkpoint of transformers, with the tokenizer of an embedded one, and return its folder."""
    import transformers

    from rpln_export.plan.defaults import DEFAULT_CHECKPOINT

    model.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(DEFAULT_CHECKPOINT).save_pretrained(folder)
    return folder
