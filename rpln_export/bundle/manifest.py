"""What a bundle holds beside its graphs: the configuration, the tokenizer's files, and the manifest of it all."""

import dataclasses
import importlib.metadata
import json
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from rpln_export.checkpoint.loading import Checkpoint
from rpln_export.checkpoint.manifest import manifest_from_checkpoint
from rpln_export.checkpoint.tokenizer import save_tokenizer
from rpln_export.forms.choice import Choice
from rpln_export.forms.graph_forms import GraphForms
from rpln_export.plan.export_plan import ExportPlan
from rpln_export.plan.generation_config import TOKEN_IDS
from rpln_export.plan.limits import value_limits
from rpln_graphs.rewriting.base import counts_from_model
from rpln_graphs.save import graph_from_model, precision_from_model
from rpln_model.composition import PLAIN
from rpln_model.weights import GENERATION_CONFIG
from rpln_runtime.manifest import Manifest
from rpln_runtime.tasks import TASKS

TOOLS: Final = ("rpln-export", "torch", "transformers", "onnx", "onnx-ir", "onnxscript", "onnxruntime", "tokenizers")
"""The distributions whose versions the manifest and the report state."""


def write_bundle_files(folder: Path, plan: ExportPlan, tokenizer: Any) -> None:
    """Write config.json and generation_config.json, which transformers and Optimum read, and the tokenizer's files.

    There is a generation_config.json only for a task that generates text, if the checkpoint has one, or if its
    config.json has such fields: transformers 5 would drop them from the config.json that is written here.
    """
    own = plan.composition.config
    config = type(own).from_dict(own.to_dict())
    config.architectures = [_architecture(plan)]
    stated = plan.stated_generation
    if stated.file != GENERATION_CONFIG:
        # They get a file of their own. transformers 4.57 keeps them, and warns of them when it saves a config.
        for one in (config, getattr(config, "decoder", config)):
            for name in stated.fields.keys() - TOKEN_IDS:
                vars(one).pop(name, None)
    config.save_pretrained(folder)
    if stated.file != GENERATION_CONFIG and stated.fields:
        (folder / GENERATION_CONFIG).write_text(json.dumps(stated.fields, indent=2) + "\n", encoding="utf-8")
    elif plan.task.generates and (own_file := plan.source.network_folder / GENERATION_CONFIG).is_file():
        shutil.copyfile(own_file, folder / GENERATION_CONFIG)
    save_tokenizer(tokenizer, folder)


def _architecture(plan: ExportPlan) -> str:
    """Return the name of the class that loads config.json.

    A decoder without its encoder is loaded as a causal language model.
    """
    lone = plan.task.encoders and plan.composition.kind == PLAIN
    return TASKS["text-generation"].architecture if lone else plan.task.architecture


def manifest_from_export(
    plan: ExportPlan, checkpoint: Checkpoint, graphs: Sequence[GraphForms], choice: Choice
) -> Manifest:
    """Return the manifest of a bundle with `graphs` and the forms of `choice`, without its files and validation."""
    described = tuple(
        dataclasses.replace(
            graph_from_model(
                graph.model,
                variant=graph.planned.name,
                path=graph.planned.plan.path,
                values=value_limits(plan.limits_of(graph.planned.plan)),
            ),
            form=choice.form,
            rewritten=choice.rewritten[graph.planned.name],
        )
        for graph in graphs
    )
    return manifest_from_checkpoint(
        plan,
        checkpoint,
        described,
        precision=_precision(graphs),
        passes=_passes(graphs, choice),
        versions=tool_versions(),
        optimization=choice.record,
    )


def _precision(graphs: Sequence[GraphForms]) -> str:
    """Return the float type that holds most bytes of the weights, read from the graphs themselves."""
    weights: Counter[str] = Counter()
    for graph in graphs:
        weights.update(precision_from_model(graph.model))
    return weights.most_common(1)[0][0]


def _passes(graphs: Sequence[GraphForms], choice: Choice) -> dict[str, int]:
    """Return in how many places each pass changed the graphs and their other forms."""
    passes: Counter[str] = Counter()
    for graph in graphs:
        passes.update(counts_from_model(graph.model))
    for model in choice.models.values():
        passes |= {name: count for name, count in counts_from_model(model).items() if name not in passes}
    return dict(passes)


def tool_versions() -> dict[str, str]:
    """Return the installed versions of TOOLS."""
    return {tool: version for tool in TOOLS if (version := _version(tool))}


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
