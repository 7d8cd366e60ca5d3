"""Finds the parts of a checkpoint: its network, its tokenizer, and an adapter that is merged into the network."""

from dataclasses import dataclass
from pathlib import Path

from rpln_export.plan.adapter import Adapter, adapter_from_source
from rpln_export.plan.defaults import name_of_checkpoint
from rpln_export.plan.sentences import network_folder
from rpln_model.weights import local_folder, weight_files


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The checkpoint that the user named, if it was converted before: its name, and the files that hold its weights."""

    name: str
    files: tuple[Path, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointSource:
    """A checkpoint that the user named, with the places of its parts.

    Attributes:
        named: the folder or hub id that the export was given.
        folder: the folder of `named`, fetched if it is a hub id.
        origin: the checkpoint that `named` was converted from, if it was.
        adapter: the peft adapter that is merged into the network; None where there is none.
        network: the folder or hub id of the network: `named`, or what its modules.json or its adapter says.
        revision: the branch, tag or commit, where `network` is a hub id.
    """

    named: str
    folder: Path
    origin: Origin | None
    adapter: Adapter | None
    network: str
    revision: str | None

    @property
    def name(self) -> str:
        """The checkpoint's name: the last part of its file, folder or hub id."""
        return self.origin.name if self.origin else name_of_checkpoint(self.named)

    @property
    def config(self) -> str:
        """The folder or hub id whose config.json describes the network."""
        return self.adapter.config if self.adapter else self.network

    @property
    def tokenizer(self) -> str:
        """The folder or hub id of the checkpoint's own tokenizer."""
        return self.adapter.tokenizer if self.adapter else self.network

    @property
    def network_folder(self) -> Path:
        """The folder of the network, fetched if it is on the hub."""
        return local_folder(self.network, revision=self.revision)

    @property
    def network_files(self) -> tuple[Path, ...]:
        """The files that hold the network's weights, before any conversion."""
        return self.origin.files if self.origin else tuple(weight_files(self.network_folder))


def source_from_checkpoint(checkpoint: str, *, origin: Origin | None, revision: str | None) -> CheckpointSource:
    """Return where the parts of the folder or hub id `checkpoint` are, which was converted from `origin` if at all.

    Raises what `network_folder` of sentence-transformers and `adapter_from_source` raise, and CheckpointNotFoundError
    if there is no such checkpoint.
    """
    folder = local_folder(checkpoint, revision=revision)
    inner = network_folder(folder)
    network = checkpoint if inner == folder else str(inner)
    adapter = adapter_from_source(network, revision=revision)
    return CheckpointSource(
        named=checkpoint,
        folder=folder,
        origin=origin,
        adapter=adapter,
        network=adapter.base if adapter else network,
        revision=adapter.base_revision if adapter else revision,
    )
