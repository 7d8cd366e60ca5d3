"""Refuses a checkpoint with an adapter of peft, which an export would leave out."""

from rpln_export.errors import PlanError
from rpln_model.errors import CheckpointError
from rpln_model.json_files import read_json
from rpln_model.weights import ADAPTER, local_folder


def check_no_adapter(source: str, *, revision: str | None) -> None:
    """Raise PlanError if the folder or hub id `source` holds an adapter, alone or beside the network it belongs to."""
    path = local_folder(source, revision=revision) / ADAPTER
    if not path.is_file():
        return
    try:
        base = read_json(path, cure="")["base_model_name_or_path"]
    except (CheckpointError, TypeError, LookupError):
        base = None  # the message does without the name
    raise PlanError(
        f"{source} holds an adapter of peft ({ADAPTER}){f' for {base}' if base else ''}, which is not exported, and "
        "without which the network would be the one before the training. Merge it with merge_and_unload() of peft, "
        "save the result and the tokenizer in another folder, and export that. To export the network without it, "
        f"remove {ADAPTER}."
    )
