"""What to export and how: a frozen plan, checked once, before any work."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeVar

import onnx_ir as ir
from transformers import PretrainedConfig, RobertaPreLayerNormConfig

from rpln_export.defaults import DEFAULTS, default_for_task
from rpln_export.errors import PlanError
from rpln_graphs.recipes import RECIPES, Recipe
from rpln_graphs.stress import Limits
from rpln_graphs.trace import DEFAULT_OPSET, NEWEST_OPSET, OLDEST_OPSET
from rpln_graphs.variants import VARIANTS, Variant
from rpln_model.composition import PLAIN, Composition, load_composition
from rpln_model.config import padding_row, usable_length
from rpln_runtime.tasks import ALL_LOGITS, LAST_LOGITS, TASKS, Task, Tensor

GRAPH_NAME: Final = "model.onnx"
"""The file of a bundle's only graph."""

LOGITS: Final = {"last": LAST_LOGITS, "all": ALL_LOGITS}

IO_DTYPES: Final = {"fp32": ir.DataType.FLOAT, "fp16": ir.DataType.FLOAT16}

_Row = TypeVar("_Row")


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphPlan:
    """One graph of an export: what it is for, its file in the bundle, and all its inputs and outputs, in order."""

    variant: Variant
    path: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportPlan:
    """One export. `source` is a folder or a hub id, and `composition` says which networks it holds."""

    source: str
    revision: str | None
    composition: Composition
    task: Task
    recipe: Recipe
    destination: Path
    graphs: tuple[GraphPlan, ...]
    opset: int
    io_dtype: ir.DataType
    tokenizer: str
    calibration: Path | None
    allow_random_head: bool

    @property
    def config(self) -> RobertaPreLayerNormConfig:
        """Of the network, of the decoder where there are two."""
        return self.composition.decoder

    @property
    def decodes(self) -> bool:
        """Whether the task goes step by step."""
        return self.task.postprocess is None

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        """What any of the graphs gives."""
        return tuple(tensor for graph in self.graphs for tensor in graph.outputs)

    @property
    def vocab_size(self) -> int:
        """How many ids every network knows that the tokenizer serves."""
        return min(config.vocab_size for config in (self.config, self.composition.encoder) if config is not None)

    @property
    def limits(self) -> Limits:
        """What bounds the inputs of the network, of the decoder where there are two."""
        return limits_from_config(self.config)

    @property
    def memory_limits(self) -> Limits | None:
        """What bounds the inputs of the graph that runs before a decoder's steps, where there is one."""
        encoder, width = self.composition.encoder, self.composition.encoder_hidden_size
        if width is None:
            return None
        return limits_from_config(encoder or self.config, encoder_hidden_size=width)

    @property
    def name(self) -> str:
        """The checkpoint's name: the last part of its folder or hub id."""
        embedded = {str(default.folder): default.name for default in DEFAULTS.values()}
        return embedded.get(self.source) or Path(os.path.normpath(Path(self.source).absolute())).name


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
    variants: Sequence[str] = (),
    logits: str | None = None,
    is_decoder: bool = False,
    allow_random_head: bool = False,
) -> ExportPlan:
    """Read the checkpoint's configuration, check every choice and fill in what was left open.

    `checkpoint` None means the embedded default of the task; `task` None means the one its `architectures` name;
    `inputs` and `outputs` name the task's optional tensors, `variants` its graphs, `logits` a row of LOGITS. Raises
    PlanError naming the choice and what is possible, and rpln_model's CheckpointError or ConfigError for a source that
    cannot be read or does not fit together.
    """
    source = checkpoint or str(default_for_task(task).folder)
    composition = load_composition(source, revision=revision)
    row = _choose(TASKS, task, "task") if task else _task_from_config(composition.config, source)
    if is_decoder:
        if row.postprocess is not None:
            raise PlanError(
                f"--is-decoder makes a decoder, which continues texts: it goes with --task text-generation, not with "
                f"{row.name}."
            )
        composition.decoder.is_decoder = True
    _check_decoder(composition, row, source)
    recipe = _choose(RECIPES, precision, "precision")
    if not OLDEST_OPSET <= opset <= NEWEST_OPSET:
        raise PlanError(f"opset {opset} is not supported: choose one of {OLDEST_OPSET} to {NEWEST_OPSET}.")
    if calibration is not None:
        _check_calibration(calibration, recipe)
    plan = ExportPlan(
        source=source,
        revision=revision,
        composition=composition,
        task=row,
        recipe=recipe,
        destination=Path(),
        graphs=_graphs(row, composition, variants=variants, inputs=inputs, outputs=outputs, logits=logits),
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


def _task_from_config(config: PretrainedConfig, source: str) -> Task:
    architectures = config.architectures or []
    found = [row for row in TASKS.values() if row.architecture in architectures]
    if not found:
        raise PlanError(
            f"the config of {source} names no task (architectures: {architectures or 'none'}). "
            f"Say which with --task: {', '.join(TASKS)}."
        )
    return found[0]


def _check_decoder(composition: Composition, task: Task, source: str) -> None:
    config = composition.decoder
    if composition.kind != PLAIN and not task.encoders:
        raise PlanError(
            f"{source} is an encoder and a decoder, {task.name} has room for one network. Choose --task "
            "text2text-generation."
        )
    if task.postprocess is None and not config.is_decoder:
        raise PlanError(
            f"{source} is no decoder (is_decoder is not set in its config): its tokens see what comes after them. If "
            f"it is to continue texts, say so with --is-decoder; else choose another --task than {task.name}."
        )
    if config.add_cross_attention and not task.encoders:
        raise PlanError(
            f"{source} has cross-attention (add_cross_attention), which {task.name} does not feed. Choose --task "
            "text2text-generation."
        )
    if task.encoders and not config.add_cross_attention:
        raise PlanError(
            f"{source} is a decoder without cross-attention, so that it takes nothing from an encoder. Choose --task "
            "text-generation, or a checkpoint with add_cross_attention."
        )


def _graphs(
    task: Task,
    composition: Composition,
    *,
    variants: Sequence[str],
    inputs: Sequence[str],
    outputs: Sequence[str],
    logits: str | None,
) -> tuple[GraphPlan, ...]:
    """The graphs asked for, or the task's default one, and the encoder's."""
    steps = _chosen_variants(task, variants)
    before = [] if not task.encoders else [VARIANTS["cross" if composition.encoder is None else "encoder"]]
    optional = _choose_all(task.optional_outputs, outputs, f"output of {task.name}")
    given = (*_logits(task, logits), *optional)
    graphs = []
    for variant in (*steps, *before):
        own = (
            variant.inputs
            if variant.standalone
            else (*_graph_inputs(task, inputs, composition.decoder, variant), *variant.inputs)
        )
        made = () if variant.standalone else given
        graphs.append(
            GraphPlan(
                variant=variant,
                path=GRAPH_NAME if steps == [variant] else variant.path,
                inputs=variant.shaped(own),
                outputs=(*variant.shaped(made), *variant.outputs),
            )
        )
    return tuple(graphs)


def _chosen_variants(task: Task, names: Sequence[str]) -> list[Variant]:
    offered = {name: VARIANTS[name] for name in task.variants}
    chosen = [_choose(offered, name, f"variant of {task.name}") for name in dict.fromkeys(names or task.variants[:1])]
    for one, other in (("prefill", "decode"), ("decode", "prefill")):
        if offered.get(one) in chosen and offered[other] not in chosen:
            raise PlanError(f"the variant {one} is of no use without {other}: ask for both, --variants prefill,decode.")
    return chosen


def _logits(task: Task, which: str | None) -> tuple[Tensor, ...]:
    """The task's outputs; a decoder's logits are those of the last position unless all are asked for."""
    if which is None:
        return task.outputs
    if LAST_LOGITS not in task.outputs:
        raise PlanError(f"--logits is a choice of decoders: {task.name} needs every logit that it gives.")
    chosen = _choose(LOGITS, which, "choice of logits")
    return tuple(chosen if tensor.name == chosen.name else tensor for tensor in task.outputs)


def _graph_inputs(
    task: Task, names: Sequence[str], config: RobertaPreLayerNormConfig, variant: Variant
) -> tuple[Tensor, ...]:
    """The task's inputs, the optional ones asked for, and token_type_ids where the network tells types apart."""
    chosen = list(_choose_all(task.optional_inputs, names, f"input of {task.name}"))
    asked = {tensor.name for tensor in chosen}
    if config.type_vocab_size > 1 and "token_type_ids" not in asked:
        chosen[:0] = _choose_all(task.optional_inputs, ["token_type_ids"], "input")
    left_out = {tensor.name for tensor in variant.inputs} | ({"input_ids"} if "inputs_embeds" in asked else set())
    return tuple(tensor for tensor in (*task.inputs, *chosen) if tensor.name not in left_out)


def _io_dtype(recipe: Recipe, name: str) -> ir.DataType:
    dtype = _choose(IO_DTYPES, name, "I/O type")
    if dtype not in {ir.DataType.FLOAT, recipe.dtype}:
        raise PlanError(f"--io-dtype {name} goes with --{name}: this export computes in {recipe.name}.")
    return dtype


def limits_from_config(config: RobertaPreLayerNormConfig, **sizes: int) -> Limits:
    """What bounds the inputs of a network; `sizes` are those that its config does not hold."""
    return Limits(
        usable_length=usable_length(config),
        vocab_size=config.vocab_size,
        type_vocab_size=config.type_vocab_size,
        pad_token_id=padding_row(config),
        sizes={name: getattr(config, name) for name in ("hidden_size", "num_hidden_layers", "num_attention_heads")}
        | sizes,
    )
