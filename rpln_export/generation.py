"""What a bundle's manifest says of generation: the checkpoint's token ids and where its positions begin."""

import json
from typing import Any

from rpln_export.errors import PlanError
from rpln_export.plan import ExportPlan
from rpln_model.config import padding_row
from rpln_model.weights import GENERATION_CONFIG, local_folder
from rpln_runtime.manifest import Generation


def generation_from_plan(plan: ExportPlan) -> Generation:
    """The ids that sequences begin with, end with and are filled with. Raises PlanError for a file that is not JSON."""
    chosen, composition = _generation_config(plan), plan.composition

    def token_id(name: str) -> Any:
        return _first_known(chosen.get(name), getattr(composition.config, name, None), getattr(plan.config, name, None))

    ends = token_id("eos_token_id")
    return Generation(
        pad_token_id=_first_known(token_id("pad_token_id"), padding_row(plan.config)),
        bos_token_id=token_id("bos_token_id"),
        eos_token_ids=tuple(ends if isinstance(ends, list) else [] if ends is None else [ends]),
        # As transformers does: without a token to start with, the one that begins every text.
        start_token_id=_first_known(
            chosen.get("decoder_start_token_id"), composition.start_token_id, token_id("bos_token_id")
        )
        if plan.task.encoders
        else None,
        first_position=padding_row(plan.config) + 1,
        pad_position=padding_row(plan.config),
    )


def _generation_config(plan: ExportPlan) -> dict[str, Any]:
    """What transformers' `generate` goes by, before the network's own config."""
    path = local_folder(plan.source, revision=plan.revision) / GENERATION_CONFIG
    if not path.is_file():
        return {}
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise PlanError(f"{path} is not valid JSON ({error}): mend it, or remove it to use config.json.") from error
    return {name: value for name, value in document.items() if value is not None}


def _first_known(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)
