"""A peft adapter in the folder of a checkpoint: what it is, and which network it is merged into.

The network lies beside the adapter, or elsewhere, where `base_model_name_or_path` of adapter_config.json says.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rpln_export.errors import PlanError
from rpln_export.extras import require_extra
from rpln_export.plan.defaults import name_of_checkpoint
from rpln_model.checkpoints import read_fields
from rpln_model.errors import CheckpointNotFoundError
from rpln_model.weights import ADAPTER, CONFIG, VOCABULARIES, adapter_file, has_weights, is_file_path, local_folder
from rpln_runtime.documents import shown

MERGEABLE: Final = ("ADALORA", "IA3", "LN_TUNING", "LOHA", "LOKR", "LORA", "OFT", "VERA")
"""The types of adapters that become a part of the network's weights.

BOFT is not among them, because peft compiles code for it.
"""

UNMERGEABLE_FIELDS: Final = {
    "alora_invocation_tokens": "it works on some tokens only",
    "arrow_config": "it chooses among several adapters for each token",
    "ensure_weight_tying": "it ties what is trained of the word embeddings and of the projection onto the vocabulary",
    "layer_replication": "it changes the number of layers",
    "megatron_config": "it is for layers of Megatron, whose module it names",
}
"""Fields of adapter_config.json that stand for more than weights to add, and what they do."""

TASKS_BY_TYPE: Final = {
    "SEQ_CLS": "text-classification",
    "TOKEN_CLS": "token-classification",
    "QUESTION_ANS": "question-answering",
    "CAUSAL_LM": "text-generation",
    "SEQ_2_SEQ_LM": "text2text-generation",
    "FEATURE_EXTRACTION": "feature-extraction",
}
"""The tasks by what peft calls them. It has no names for fill-mask and multiple-choice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """A peft adapter and the network that it is merged into.

    Attributes:
        folder: where its files are.
        fields: what its adapter_config.json says.
        base: the folder or hub id of the network.
        base_revision: the branch, tag or commit, where `base` is a hub id.
    """

    folder: Path
    fields: Mapping[str, Any]
    base: str
    base_revision: str | None

    def __str__(self) -> str:
        return f"{self.kind}, merged into {name_of_checkpoint(self.base)}"

    @property
    def kind(self) -> str:
        """Its type, one of MERGEABLE."""
        return str(self.fields["peft_type"])

    @property
    def task(self) -> str | None:
        """The task that it was trained for; None where it does not say."""
        return TASKS_BY_TYPE.get(str(self.fields.get("task_type")))

    @property
    def config(self) -> str:
        """The folder or hub id whose config.json describes the network: the adapter's folder, if it has one."""
        return str(self.folder) if (self.folder / CONFIG).is_file() else self.base

    @property
    def tokenizer(self) -> str:
        """The folder or hub id of the tokenizer: the adapter's folder, if it has one."""
        return str(self.folder) if any((self.folder / name).is_file() for name in VOCABULARIES) else self.base

    @property
    def files(self) -> tuple[Path, Path]:
        """The files that say what is merged. Raises CheckpointError if there are no weights."""
        return adapter_file(self.folder), self.folder / ADAPTER


def adapter_from_source(source: str, *, revision: str | None) -> Adapter | None:
    """Return the adapter in the folder or hub id `source`, alone or beside its network; None if there is none.

    Raises PlanError for an adapter that cannot be merged, that names no network, or one with an adapter of its own;
    MissingExtraError without peft; and CheckpointError for an adapter_config.json that is broken or names a network
    that is not there.
    """
    folder = local_folder(source, revision=revision)
    if not (folder / ADAPTER).is_file():
        return None
    require_extra("peft")
    fields = read_fields(folder / ADAPTER, cure="copy the adapter again")
    _check_mergeable(source, fields)
    base, base_revision = (source, revision) if has_weights(folder) else _base(folder, fields)
    return Adapter(folder=folder, fields=fields, base=base, base_revision=base_revision)


def _check_mergeable(source: str, fields: dict[str, Any]) -> None:
    kind = fields.get("peft_type")
    if kind not in MERGEABLE:
        raise PlanError(
            f"{source} holds an adapter of peft of type {kind}, which cannot be merged into the weights of the "
            f"network; expected {', '.join(MERGEABLE)}. Train one of these, or fine-tune the network itself."
        )
    for name, does in UNMERGEABLE_FIELDS.items():
        if fields.get(name):
            raise PlanError(
                f"{source} holds an adapter of peft with {name} in {ADAPTER}: {does}, so it cannot be merged into the "
                "network. Train it without, or fine-tune the network itself."
            )


def _base(folder: Path, fields: dict[str, Any]) -> tuple[str, str | None]:
    """Return the network that an adapter without one beside it names, and its revision."""
    named, revision = fields.get("base_model_name_or_path"), fields.get("revision")
    if not isinstance(named, str) or not named or not is_file_path(named):
        raise PlanError(
            f"{folder} holds an adapter of peft, but no network that it belongs to: base_model_name_or_path in "
            f"{ADAPTER} is {shown(named)}. Write the network's folder or hub id there, or copy its weights and "
            f"{CONFIG} beside the adapter."
        )
    here = folder / named  # an absolute path stays as it is
    base = str(here) if here.is_dir() else named
    base_revision = revision if isinstance(revision, str) else None
    try:
        base_folder = local_folder(base, revision=base_revision)
    except CheckpointNotFoundError as error:
        raise CheckpointNotFoundError(
            f"the network of the adapter in {folder} is not there: {error} It is named by base_model_name_or_path in "
            f"{ADAPTER}; correct it there, or copy the network's weights and {CONFIG} beside the adapter."
        ) from error
    if (base_folder / ADAPTER).is_file():
        raise PlanError(
            f"{folder} holds an adapter of peft for {base}, which holds an adapter itself. Merge that one first, with "
            "merge_and_unload() of peft, and save the result in its place."
        )
    return base, base_revision
