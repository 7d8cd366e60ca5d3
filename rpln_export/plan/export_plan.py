"""The plan of an export: what to export and how, checked before any work."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import onnx_ir as ir
from transformers import RobertaPreLayerNormConfig

from rpln_export.extras import require_extra
from rpln_export.plan.calibration import check_calibration
from rpln_export.plan.choices import AUTO, NONE, choose
from rpln_export.plan.defaults import calibration_of_checkpoint, default_for_task
from rpln_export.plan.engines import EnginePlan, EngineRequest, check_engines, described_graphs, make_engine_plan
from rpln_export.plan.generation import generation_from_checkpoint
from rpln_export.plan.generation_config import StatedGeneration, read_generation_config, unsupported_fields
from rpln_export.plan.graph_traits import traits_of_graph
from rpln_export.plan.graphs import GraphPlan, compiled_variants, graph_plans
from rpln_export.plan.labels import has_labels, labels_from_config
from rpln_export.plan.limits import axis_limits, limits_from_config, memory_limits_from_composition
from rpln_export.plan.optimization import check_effect, check_optimization, form_from_choice, workload_from_choice
from rpln_export.plan.precision import checked_opset, io_dtype_from_name
from rpln_export.plan.quantization import (
    TENSORRT,
    GatePlan,
    check_blocks,
    check_quantization,
    gate_from_choices,
    recipe_from_choice,
    with_quantized_embeddings,
)
from rpln_export.plan.remote_code import check_remote_code
from rpln_export.plan.sentences import SentencePlan, sentences_from_choice
from rpln_export.plan.source import CheckpointSource, Origin, source_from_checkpoint
from rpln_export.plan.targets import TARGETS, Target
from rpln_export.plan.task import task_from_choice
from rpln_export.plan.text_graph import check_text_graph
from rpln_export.plan.workloads import Workload
from rpln_graphs.forms import Form
from rpln_graphs.recipes import Recipe
from rpln_graphs.rewriting.base import CountingPass
from rpln_graphs.rewriting.traits import GraphTraits
from rpln_graphs.stress import Limits
from rpln_graphs.trace_methods import REPEAT, TRACE_METHODS
from rpln_model.composition import Composition, load_composition
from rpln_runtime.manifest import Axis, Generation
from rpln_runtime.tasks import Task, Tensor

FAIRSEQ_SUFFIX: Final = ".pt"
"""The ending of a checkpoint that is one file of fairseq's. The names of its bundles go without it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportPlan:
    """One export, as far as it can be planned before the checkpoint's weights are read.

    Attributes:
        source: where the parts of the checkpoint are.
        composition: the configurations of the checkpoint's networks.
        task: the row of TASKS.
        recipe: the row of RECIPES, which says how the precision is made.
        destination: the folder that becomes the bundle.
        graphs: the graphs of the bundle.
        generation: the ids, lengths and options of a task that generates; None for other tasks.
        stated_generation: what the checkpoint's files say about generating text.
        sentences: how texts become vectors, if the checkpoint or the user says so; otherwise None.
        opset: the version of ONNX's operators.
        trace: the row of TRACE_METHODS, which says how many layers are traced.
        io_dtype: the type of float inputs and outputs.
        tokenizer: the folder or hub id of the tokenizer.
        calibration: the file of texts to measure ranges on; None for those that are built in.
        gate: what is asked of the accuracy of quantized graphs.
        allow_random_head: whether a head that the checkpoint lacks gets random weights.
        ignore_unexpected: whether weights that the network has no place for are left out.
        tie: whether a language model projects onto its word embeddings, where the user chose.
        optimize: AUTO, NONE, or the name of a form.
        form: the form of that name; with AUTO, the form to take where nothing can be measured.
        target: the kind of machine that the graphs are written for.
        workload: the batches that forms are measured on.
        pack_padding: whether the form must compute nothing on padding.
        allow_partial: whether a form may fuse less than its formula says.
        with_tokenizer: whether the bundle gets a graph that takes texts.
        engines: which engines are built.
        unfolded_because: why the exact folds are left out, where nobody asked for that.
    """

    source: CheckpointSource
    composition: Composition
    task: Task
    recipe: Recipe
    destination: Path
    graphs: tuple[GraphPlan, ...]
    generation: Generation | None
    stated_generation: StatedGeneration
    sentences: SentencePlan | None
    opset: int
    trace: str
    io_dtype: ir.DataType
    tokenizer: str
    calibration: Path | None
    gate: GatePlan
    allow_random_head: bool
    ignore_unexpected: bool
    tie: bool | None
    optimize: str
    form: Form
    target: Target
    workload: Workload
    pack_padding: bool
    allow_partial: bool
    with_tokenizer: bool
    engines: EnginePlan
    unfolded_because: str = ""

    @property
    def unsupported_generation(self) -> Mapping[str, Any]:
        """The stated fields, by name, with which transformers may write other texts than the bundle."""
        return unsupported_fields(self.stated_generation.fields)

    @property
    def config(self) -> RobertaPreLayerNormConfig:
        """The configuration of the network; for an encoder-decoder, of its decoder."""
        return self.composition.decoder

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        """The outputs of all graphs."""
        return tuple(tensor for graph in self.graphs for tensor in graph.outputs)

    @property
    def vocab_size(self) -> int:
        """The number of ids that the tokenizer may make: those that every network it serves knows."""
        return min(config.vocab_size for config in (self.config, self.composition.encoder) if config is not None)

    @property
    def limits(self) -> Limits:
        """What bounds the inputs of the network; for an encoder-decoder, of its decoder."""
        return limits_from_config(self.config)

    @property
    def memory_limits(self) -> Limits | None:
        """What bounds the inputs of the graph that runs once before a decoder's steps; None where there is none."""
        return memory_limits_from_composition(self.composition)

    @property
    def axes(self) -> dict[str, Axis]:
        """The sizes that each dynamic axis may have, by the axis's name."""
        return axis_limits(self.composition, self.graphs)

    def limits_of(self, graph: GraphPlan) -> Limits:
        """Return what bounds the inputs of one of the graphs."""
        return self.memory_limits if graph.variant.standalone and self.memory_limits else self.limits

    def traits_of(self, graph: GraphPlan) -> GraphTraits:
        """Return what the formulas of passes depend on, for one of the graphs."""
        return traits_of_graph(graph, self.composition)

    @property
    def folds(self) -> tuple[type[CountingPass], ...]:
        """The exact folds that every form begins with."""
        return () if self.optimize == NONE else self.recipe.folds

    @property
    def may_leave_out_folds(self) -> bool:
        """Whether nobody asked for the folds, so that the export may do without them."""
        return self.optimize == AUTO and bool(self.folds) and not self.pack_padding and not self.recipe.quantizes

    def with_forms(self, names: Collection[str]) -> "ExportPlan":
        """Return this plan with these forms only, and those that share their accuracy.

        Where this leaves out the form that would be taken unmeasured, another one takes its place.
        """
        forms = {name: form for name, form in self.recipe.forms.items() if (form.accurate_as or name) in names}
        recipe = replace(self.recipe, forms=forms)
        form = (
            self.form
            if self.form.name in forms
            else next(row for row in forms.values() if row.packs == self.form.packs)
        )
        return replace(self, recipe=recipe, form=form)

    def without_folds(self, because: str) -> "ExportPlan":
        """Return this plan without the exact folds."""
        return replace(self, optimize=NONE, unfolded_because=because)

    @property
    def name(self) -> str:
        """The checkpoint's name: the last part of its file, folder or hub id."""
        return self.source.name


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
    trace: str = REPEAT,
    io_dtype: str = "fp32",
    tokenizer: str | None = None,
    calibration: Path | None = None,
    min_agreement: float | None = None,
    evaluation: Path | None = None,
    max_drop: float | None = None,
    quantize_embeddings: bool = False,
    variants: Sequence[str] = (),
    logits: str | None = None,
    pooling: Sequence[str] = (),
    is_decoder: bool = False,
    allow_random_head: bool = False,
    ignore_unexpected: bool = False,
    tie: bool | None = None,
    optimize: str = AUTO,
    target: str | None = None,
    workload: str | None = None,
    workload_file: Path | None = None,
    pack_padding: bool = False,
    allow_partial_fusion: bool = False,
    with_tokenizer: bool = False,
    engines: EngineRequest | None = None,
) -> ExportPlan:
    """Return the plan of an export, with every choice checked and what was left open filled in.

    The checkpoint's configuration is read for that, but no weights.

    Args:
        checkpoint: a folder or hub id; None means the embedded default of the task.
        origin: the checkpoint that `checkpoint` was converted from.
        task: a row of TASKS; None means the one that the config's `architectures` name.
        precision: a row of RECIPES.
        destination: the folder that becomes the bundle; None means one named after checkpoint, task and precision.
        revision: the branch, tag or commit of a hub id.
        inputs: names of the task's optional inputs.
        outputs: names of the task's optional outputs.
        opset: the version of ONNX's operators; None means the default.
        trace: a row of TRACE_METHODS; both give the same graph.
        io_dtype: the type of float inputs and outputs, as in IO_DTYPES.
        tokenizer: a folder or hub id; None means the checkpoint's own.
        calibration: a file of texts to measure ranges on; None means those that an embedded checkpoint brings, and
            otherwise built-in ones.
        min_agreement: the least share of decisions that a quantized graph must make as the fp32 network does; None
            means DEFAULT_AGREEMENT, or AGREEMENT_OF_WORDS for a task that generates.
        evaluation: a file of examples with right answers, on which the task's metric of quantized graphs is measured.
        max_drop: the most points that the metric may be worse by than in fp32.
        quantize_embeddings: whether the table of words of a quantized graph is in 8 bits, too.
        variants: names of a decoder's graphs; none means the default.
        logits: a row of LOGITS; None means the default.
        pooling: rows of POOLINGS whose vectors the graph joins, or NONE; none means as the checkpoint says.
        is_decoder: whether the network is to be read as a decoder.
        allow_random_head: whether a head that the checkpoint lacks gets random weights.
        ignore_unexpected: whether weights that the network has no place for are left out; otherwise the export refuses
            them.
        tie: whether a language model projects onto its word embeddings; None means as the config says.
        optimize: AUTO, NONE or a row of FORMS.
        target: a row of TARGETS; None means the recipe's.
        workload: a row of WORKLOADS; None means the default.
        workload_file: a workload of the user's own.
        pack_padding: whether the form must compute nothing on padding.
        allow_partial_fusion: whether a form may fuse less than its formula says.
        with_tokenizer: whether the bundle gets a graph that takes texts.
        engines: which engines are built; None means those that what is installed can build.

    Raises PlanError, which names the choice and what is possible, MissingExtraError, and rpln_model's CheckpointError
    or ConfigError for a source that cannot be read or does not fit together.
    """
    require_extra("cpu")
    named = checkpoint or str(default_for_task(task).folder)
    source = source_from_checkpoint(named, origin=origin, revision=revision)
    composition = load_composition(source.config, revision=source.revision)
    check_remote_code(composition, source.network)
    if tie is not None:
        composition.decoder.tie_word_embeddings = tie
    trained_for = source.adapter.task if source.adapter else None
    chosen_task = task_from_choice(task or trained_for, composition, source.network, is_decoder=is_decoder)
    sentences = sentences_from_choice(pooling, chosen_task, composition.decoder, source.folder)
    request = engines or EngineRequest()
    recipe = recipe_from_choice(precision, chosen_task, target=target, engines=request)
    if quantize_embeddings:
        recipe = with_quantized_embeddings(recipe)
    chosen_target = choose(TARGETS, target or recipe.target, "target")
    engine_plan = make_engine_plan(request, precision=recipe.name)
    choose(TRACE_METHODS, trace, "--trace")
    stated = read_generation_config(source.network_folder) if chosen_task.generates else StatedGeneration()
    compiled = engine_plan.required or (recipe.quantizes and chosen_target.name == TENSORRT)
    variant_names = variants or (compiled_variants(chosen_task) if compiled else ())
    plan = ExportPlan(
        source=source,
        composition=composition,
        task=chosen_task,
        recipe=recipe,
        destination=destination or Path(),
        graphs=graph_plans(
            chosen_task,
            composition,
            variants=variant_names,
            inputs=inputs,
            outputs=outputs,
            logits=logits,
            pooled=bool(sentences and sentences.poolings),
        ),
        generation=generation_from_checkpoint(source.network, composition, chosen_task, stated)
        if chosen_task.generates
        else None,
        stated_generation=stated,
        sentences=sentences,
        opset=checked_opset(opset, recipe),
        trace=trace,
        io_dtype=io_dtype_from_name(io_dtype, recipe),
        tokenizer=source.tokenizer if tokenizer in {None, named} else tokenizer,
        calibration=calibration or (calibration_of_checkpoint(named) if recipe.quantizes else None),
        gate=gate_from_choices(recipe, chosen_task, min_agreement=min_agreement, data=evaluation, max_drop=max_drop),
        allow_random_head=allow_random_head,
        ignore_unexpected=ignore_unexpected,
        tie=tie,
        optimize=optimize,
        form=form_from_choice(optimize, chosen_target, recipe, pack_padding=pack_padding),
        target=chosen_target,
        workload=workload_from_choice(workload, workload_file),
        pack_padding=pack_padding,
        allow_partial=allow_partial_fusion,
        with_tokenizer=with_tokenizer,
        engines=engine_plan,
    )
    _check(plan, workload_given=bool(workload or workload_file))
    return plan if destination else replace(plan, destination=_default_destination(plan))


def _check(plan: ExportPlan, *, workload_given: bool) -> None:
    """Refuse choices that do not go together, or not with the checkpoint's config. Raises PlanError."""
    if has_labels(plan.task):
        labels_from_config(plan.config, plan.name)
    check_calibration(plan.calibration, plan.recipe)
    check_quantization(plan.recipe, plan.task, plan.target)
    check_blocks(plan.recipe, filter(None, (plan.config, plan.composition.encoder)))
    check_optimization(
        plan.optimize,
        plan.target,
        plan.recipe,
        pack_padding=plan.pack_padding,
        generates=plan.task.generates,
        workload_given=workload_given,
    )
    if plan.pack_padding or plan.optimize not in {AUTO, NONE}:
        check_effect(plan.form, map(plan.traits_of, plan.graphs))
    if plan.with_tokenizer:
        check_text_graph(plan.task, plan.recipe, plan.graphs)
    check_engines(plan.engines, described_graphs(plan.graphs, plan.axes, opset=plan.opset), plan.axes)


def _default_destination(plan: ExportPlan) -> Path:
    return Path(f"{plan.name.removesuffix(FAIRSEQ_SUFFIX)}-{plan.task.name}-{plan.recipe.name}")
