"""What to export and how: a frozen plan, checked once, before any work."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import onnx_ir as ir
from transformers import PretrainedConfig, RobertaPreLayerNormConfig

from rpln_export.errors import PlanError
from rpln_export.plan.choices import choose
from rpln_export.plan.defaults import DEFAULTS, default_for_task
from rpln_export.plan.engines import VARIANTS_OF_DECODERS, EnginePlan, EngineRequest, make_engine_plan
from rpln_export.plan.graphs import GraphPlan, graph_plans
from rpln_export.plan.targets import TARGETS, Target
from rpln_export.plan.text_graph import check_text_graph
from rpln_export.plan.workloads import DEFAULT_WORKLOAD, WORKLOADS, Workload, workload_from_file
from rpln_graphs.forms import FOLDS, FOLDS_OF_LOWER, FORMS
from rpln_graphs.recipes import RECIPES, Recipe
from rpln_graphs.rewriting.base import CountingPass
from rpln_graphs.stress import Limits
from rpln_graphs.trace import DEFAULT_OPSET, NEWEST_OPSET, OLDEST_OPSET
from rpln_model.composition import PLAIN, Composition, load_composition
from rpln_model.config import padding_row, usable_length
from rpln_runtime.tasks import TASKS, Task, Tensor

AUTO: Final = "auto"
"""Measure, and keep the fastest form."""
NONE: Final = "none"
"""The graph as it was traced, without the exact folds."""

FAIRSEQ_SUFFIX: Final = ".pt"
"""Of a checkpoint that is one file; its bundle is called without."""

IO_DTYPES: Final = {"fp32": ir.DataType.FLOAT, "fp16": ir.DataType.FLOAT16}


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What a checkpoint was converted from: its name, and the files that its weights are in."""

    name: str
    files: tuple[Path, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportPlan:
    """One export. `source` is a folder or a hub id, and `composition` says which networks it holds.

    `origin` is what the user named, where `source` was converted from that. `unfolded_because` is why the exact folds
    are left out, where nobody asked for that.
    """

    source: str
    origin: Origin | None
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
    optimize: str
    target: Target
    workload: Workload
    pack_padding: bool
    allow_partial: bool
    with_tokenizer: bool
    engines: EnginePlan
    unfolded_because: str = ""

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

    def limits_of(self, graph: GraphPlan) -> Limits:
        """What bounds the inputs of a graph."""
        return self.memory_limits if graph.variant.standalone and self.memory_limits else self.limits

    @property
    def folds(self) -> tuple[type[CountingPass], ...]:
        """The exact folds that every form begins with."""
        if self.optimize == NONE:
            return ()
        return FOLDS_OF_LOWER if self.recipe.lowers else FOLDS

    @property
    def name(self) -> str:
        """The checkpoint's name: the last part of its file, folder or hub id."""
        if self.origin:
            return self.origin.name
        embedded = {str(default.folder): default.name for default in DEFAULTS.values()}
        return embedded.get(self.source) or Path(os.path.normpath(Path(self.source).absolute())).name


def make_plan(
    checkpoint: str | None,
    *,
    origin: Origin | None = None,
    task: str | None = None,
    precision: str = "fp32",
    destination: Path | None = None,
    revision: str | None = None,
    inputs: Sequence[str] = (),
    outputs: Sequence[str] = (),
    opset: int | None = None,
    io_dtype: str = "fp32",
    tokenizer: str | None = None,
    calibration: Path | None = None,
    variants: Sequence[str] = (),
    logits: str | None = None,
    is_decoder: bool = False,
    allow_random_head: bool = False,
    optimize: str = AUTO,
    target: str | None = None,
    workload: str | None = None,
    workload_file: Path | None = None,
    pack_padding: bool = False,
    allow_partial_fusion: bool = False,
    with_tokenizer: bool = False,
    engines: EngineRequest | None = None,
) -> ExportPlan:
    """Read the checkpoint's configuration, check every choice and fill in what was left open.

    `checkpoint` None means the embedded default of the task; `origin` is what `checkpoint` was converted from; `task`
    None means the one its `architectures` name; `inputs` and `outputs` name the task's optional tensors, `variants` its
    graphs, `logits` a row of LOGITS; `optimize` is AUTO, NONE or a row of FORMS, `target` one of TARGETS (None: the
    recipe's), `workload` one of WORKLOADS; `engines` None means what is installed. Raises PlanError naming the choice
    and what is possible, and rpln_model's CheckpointError or ConfigError for a source that cannot be read or does not
    fit together.
    """
    source = checkpoint or str(default_for_task(task).folder)
    composition = load_composition(source, revision=revision)
    row = choose(TASKS, task, "task") if task else _task_from_config(composition.config, source)
    if is_decoder:
        _make_decoder(composition, row)
    _check_decoder(composition, row, source)
    recipe = choose(RECIPES, precision, "precision")
    _check_calibration(calibration, recipe)
    compiled = make_engine_plan(engines or EngineRequest(), precision=recipe.name)
    named = variants or (VARIANTS_OF_DECODERS if compiled.required and row.postprocess is None else ())
    plan = ExportPlan(
        source=source,
        origin=origin,
        revision=revision,
        composition=composition,
        task=row,
        recipe=recipe,
        destination=Path(),
        graphs=graph_plans(row, composition, variants=named, inputs=inputs, outputs=outputs, logits=logits),
        opset=_opset(opset),
        io_dtype=_io_dtype(recipe, io_dtype),
        tokenizer=tokenizer or source,
        calibration=calibration,
        allow_random_head=allow_random_head,
        optimize=optimize,
        target=choose(TARGETS, target or recipe.target, "target"),
        workload=_workload(workload, workload_file),
        pack_padding=pack_padding,
        allow_partial=allow_partial_fusion,
        with_tokenizer=with_tokenizer,
        engines=compiled,
    )
    if with_tokenizer:
        check_text_graph(plan.task, plan.recipe, plan.graphs)
    check_optimization(plan, workload_given=bool(workload or workload_file))
    return replace(plan, destination=destination or _default_destination(plan))


def _default_destination(plan: ExportPlan) -> Path:
    return Path(f"{plan.name.removesuffix(FAIRSEQ_SUFFIX)}-{plan.task.name}-{plan.recipe.name}")


def _opset(opset: int | None) -> int:
    chosen = DEFAULT_OPSET if opset is None else opset
    if not OLDEST_OPSET <= chosen <= NEWEST_OPSET:
        raise PlanError(f"opset {chosen} is not supported: choose one of {OLDEST_OPSET} to {NEWEST_OPSET}.")
    return chosen


def _workload(name: str | None, path: Path | None) -> Workload:
    if name and path:
        raise PlanError("--workload and --workload-file exclude each other: measure on one of them.")
    return workload_from_file(path) if path else choose(WORKLOADS, name or DEFAULT_WORKLOAD, "workload")


def check_optimization(plan: ExportPlan, *, workload_given: bool) -> None:
    """Refuse what contradicts itself in the choice of a form. Raises PlanError."""
    form = choose({AUTO: None, NONE: None, **FORMS}, plan.optimize, "--optimize")
    target = plan.target.name
    if plan.target.compiled and (plan.pack_padding or (form is not None and (form.packs or not form.standard))):
        raise PlanError(
            f"--target {target} compiles model.onnx, which must hold standard operators of fixed shapes: choose "
            f"another form than {'a packed one' if form is None else form.name}, or --target cpu or cuda."
        )
    if plan.pack_padding and form is not None and not form.packs:
        raise PlanError(f"--pack-padding asks for a packed form, --optimize {form.name} for another. Drop one of them.")
    if plan.pack_padding and plan.decodes:
        raise PlanError("--pack-padding goes with encoders: in a decoder's steps there is no padding.")
    if plan.pack_padding and plan.optimize == NONE:
        raise PlanError("--pack-padding and --optimize none exclude each other.")
    if workload_given and plan.optimize != AUTO:
        raise PlanError(f"a workload is what --optimize auto measures on; --optimize {plan.optimize} measures nothing.")
    if target == "cpu" and plan.recipe.dtype == ir.DataType.BFLOAT16:
        raise PlanError("--target cpu does not go with --bf16: ONNX Runtime has no bf16 kernels for CPUs.")


def _check_calibration(path: Path | None, recipe: Recipe) -> None:
    if path is None:
        return
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


def _task_from_config(config: PretrainedConfig, source: str) -> Task:
    architectures = config.architectures or []
    found = [row for row in TASKS.values() if row.architecture in architectures]
    if not found:
        raise PlanError(
            f"the config of {source} names no task (architectures: {architectures or 'none'}). "
            f"Say which with --task: {', '.join(TASKS)}."
        )
    return found[0]


def _make_decoder(composition: Composition, task: Task) -> None:
    if task.postprocess is not None:
        raise PlanError(
            f"--is-decoder makes a decoder, which continues texts: it goes with --task text-generation, not with "
            f"{task.name}."
        )
    composition.decoder.is_decoder = True


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


def _io_dtype(recipe: Recipe, name: str) -> ir.DataType:
    dtype = choose(IO_DTYPES, name, "I/O type")
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
