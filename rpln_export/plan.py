"""What to export and how: a frozen plan, checked once, before any work."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeVar

import onnx_ir as ir
from transformers import RobertaPreLayerNormConfig

from rpln_export.errors import PlanError
from rpln_graphs.recipes import RECIPES, Recipe
from rpln_graphs.trace import DEFAULT_OPSET, NEWEST_OPSET, OLDEST_OPSET
from rpln_graphs.variants import VARIANTS, Variant
from rpln_model.checkpoints import load_config
from rpln_runtime.tasks import TASKS, Task, Tensor

DEFAULT_CHECKPOINT: Final = Path(__file__).parent / "default_checkpoint"
DEFAULT_NAME: Final = "pos-tagger-brown"

IO_DTYPES: Final = {"fp32": ir.DataType.FLOAT, "fp16": ir.DataType.FLOAT16}

_Row = TypeVar("_Row")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportPlan:
    """One export. `source` is a folder or a hub id; `inputs` and `outputs` are the graph's, in order."""

    source: str
    revision: str | None
    config: RobertaPreLayerNormConfig
    task: Task
    recipe: Recipe
    destination: Path
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    opset: int
    io_dtype: ir.DataType
    tokenizer: str
    calibration: Path | None
    allow_random_head: bool

    @property
    def variant(self) -> Variant:
        """Which graph of the task is made."""
        return VARIANTS[self.task.variants[0]]

    @property
    def name(self) -> str:
        """The checkpoint's name: the last part of its folder or hub id."""
        return (
            DEFAULT_NAME
            if self.source == str(DEFAULT_CHECKPOINT)
            else Path(os.path.normpath(Path(self.source).absolute())).name
        )


def make_plan(
    checkpoint: str | None,
    *,
    task: str | None = None,
    precision: str = "fp32",
    destination: Path | None = None,
    revision: str | None = None,
    inputs: Sequence[str] = (),
    outputs: Sequence[str] = (),
    opset: int = DEFAULT_OPSET,
    io_dtype: str = "fp32",
    tokenizer: str | None = None,
    calibration: Path | None = None,
    is_decoder: bool = False,
    allow_random_head: bool = False,
) -> ExportPlan:
    """Read the checkpoint's configuration, check every choice and fill in what was left open.

    `checkpoint` None means the embedded default; `task` None means the one its `architectures` name; `inputs` and
    `outputs` name the task's optional tensors. Raises PlanError naming the choice and what is possible, and
    rpln_model's CheckpointError for a source that cannot be read.
    """
    source = checkpoint or str(DEFAULT_CHECKPOINT)
    config = load_config(source, revision=revision)
    row = _choose(TASKS, task, "task") if task else _task_from_config(config, source)
    if is_decoder:
        config.is_decoder = True
    if config.add_cross_attention:
        raise PlanError(
            f"{source} has cross-attention (add_cross_attention), which no graph of this version feeds. Encoders can "
            "be exported, and decoders without it."
        )
    recipe = _choose(RECIPES, precision, "precision")
    if not OLDEST_OPSET <= opset <= NEWEST_OPSET:
        raise PlanError(f"opset {opset} is not supported: choose one of {OLDEST_OPSET} to {NEWEST_OPSET}.")
    if calibration is not None:
        _check_calibration(calibration, recipe)
    plan = ExportPlan(
        source=source,
        revision=revision,
        config=config,
        task=row,
        recipe=recipe,
        destination=Path(),
        inputs=_graph_inputs(row, inputs, config),
        outputs=(*row.outputs, *_choose_all(row.optional_outputs, outputs, f"output of {row.name}")),
        opset=opset,
        io_dtype=_io_dtype(recipe, io_dtype),
        tokenizer=tokenizer or source,
        calibration=calibration,
        allow_random_head=allow_random_head,
    )
    return replace(plan, destination=destination or Path(f"{plan.name}-{row.name}-{recipe.name}"))


def _check_calibration(path: Path, recipe: Recipe) -> None:
    if not recipe.lowers:
        raise PlanError("--calibration goes with --fp16 or --bf16: an fp32 export measures no ranges.")
    try:
        texts = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(
            f"{path} cannot be read ({error}): --calibration takes a text file in UTF-8, one example a line."
        ) from error
    if not texts.strip():
        raise PlanError(f"{path} is empty: --calibration takes a text file in UTF-8, one example a line.")


def _choose(table: Mapping[str, _Row], name: str, kind: str) -> _Row:
    if name not in table:
        raise PlanError(f"unknown {kind} {name!r}: choose one of {', '.join(table)}.")
    return table[name]


def _choose_all(tensors: Sequence[Tensor], names: Sequence[str], kind: str) -> tuple[Tensor, ...]:
    table = {tensor.name: tensor for tensor in tensors}
    return tuple(_choose(table, name, kind) for name in dict.fromkeys(names))


def _task_from_config(config: RobertaPreLayerNormConfig, source: str) -> Task:
    architectures = config.architectures or []
    found = [row for row in TASKS.values() if row.architecture in architectures]
    if not found:
        raise PlanError(
            f"the config of {source} names no task (architectures: {architectures or 'none'}). "
            f"Say which with --task: {', '.join(TASKS)}."
        )
    return found[0]


def _graph_inputs(task: Task, names: Sequence[str], config: RobertaPreLayerNormConfig) -> tuple[Tensor, ...]:
    """The task's inputs, the optional ones asked for, and token_type_ids where the network tells types apart."""
    chosen = list(_choose_all(task.optional_inputs, names, f"input of {task.name}"))
    asked = {tensor.name for tensor in chosen}
    if config.type_vocab_size > 1 and "token_type_ids" not in asked:
        chosen[:0] = _choose_all(task.optional_inputs, ["token_type_ids"], "input")
    dropped = "input_ids" if "inputs_embeds" in asked else None
    return tuple(tensor for tensor in (*task.inputs, *chosen) if tensor.name != dropped)


def _io_dtype(recipe: Recipe, name: str) -> ir.DataType:
    dtype = _choose(IO_DTYPES, name, "I/O type")
    if dtype not in {ir.DataType.FLOAT, recipe.dtype}:
        raise PlanError(f"--io-dtype {name} goes with --{name}: this export computes in {recipe.name}.")
    return dtype
