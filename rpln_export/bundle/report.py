"""The report of an export, written as report.json for machines and as report.md for people."""

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import onnx_ir as ir

from rpln_export.bundle.engines import EnginesBuilt
from rpln_export.bundle.layer_nodes import LayerReport, layer_report
from rpln_export.bundle.manifest import tool_versions
from rpln_export.bundle.markdown import markdown_from_template
from rpln_export.bundle.report_file import REPORT_NAME
from rpln_export.checkpoint.planned_graphs import TracedGraph
from rpln_export.forms.choice import Choice
from rpln_export.forms.graph_forms import GraphForms
from rpln_export.plan.export_plan import ExportPlan
from rpln_export.plan.graphs import GraphPlan
from rpln_export.quantization.fidelity import Fidelity, drop_in_words
from rpln_export.quantization.quantize import Quantization, QuantizedForm
from rpln_export.steps import Step
from rpln_export.validation.comparison import TINY, Comparison
from rpln_export.validation.proof import CaseOutcome, GraphDrift, Proof
from rpln_graphs.forms import Form
from rpln_graphs.passes.lower_precision import KEPT_KEY, REACH_KEY
from rpln_graphs.passes.quantize_embeddings import SAVED_KEY
from rpln_graphs.passes.rescale_residual import PEAK_KEY, SHIFT_KEY
from rpln_graphs.passes.rescale_values import RescaleValues
from rpln_graphs.rewriting.base import Refusal, counts_from_model, refusals_from_model
from rpln_graphs.rewriting.ranges import FLOAT16_MAX
from rpln_graphs.save import weights_from_model
from rpln_graphs.tolerances import Tolerance
from rpln_model.weights import GENERATION_CONFIG
from rpln_runtime.described import Described, megabytes
from rpln_runtime.documents import shown
from rpln_runtime.manifest import MANIFEST_NAME, Optimization

FEW_DECISIONS: Final = 100
"""The fewest decisions that tell 99% of equal ones from a little less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LargestValue:
    """The largest value that a layer computes in fp16 over all calibration data: its name, and its magnitude."""

    name: str
    reach: float

    @property
    def headroom(self) -> float:
        """The factor by which the value could grow before fp16 overflows."""
        return FLOAT16_MAX / max(self.reach, TINY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rescaling:
    """How a graph in a lower type is kept from overflowing.

    Attributes:
        shift: the residual stream is scaled by 2 to the power of minus this.
        residual_peak: the largest magnitude in the residual stream, before scaling, over all calibration data.
        headroom: the factor by which the residual stream could grow before fp16 overflows.
        rescaled_values: the number of attentions whose values are rescaled.
        kept_float: the MatMuls that stay in fp32, each with the largest magnitude that it reaches.
        layers: the largest value of each layer, and of the embeddings, after scaling.
    """

    shift: int
    residual_peak: float
    headroom: float
    rescaled_values: int
    kept_float: Mapping[str, float]
    layers: Mapping[str, LargestValue]


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphReport:
    """One graph of the bundle.

    Attributes:
        variant: the name of its variant.
        path: its file.
        inputs: the names of its inputs.
        outputs: the names of its outputs.
        weights: the bytes of its weights, by type.
        operators: the number of its nodes, by operator.
        passes: the number of places that each pass changed.
        rescaling: how it is kept from overflowing; None where nothing has to be.
        saved: by how many bytes quantized embeddings made its weights smaller; 0 where they are not quantized.
    """

    variant: str
    path: str
    inputs: Sequence[str]
    outputs: Sequence[str]
    weights: Mapping[str, int]
    operators: Mapping[str, int]
    passes: Mapping[str, int]
    rescaling: Rescaling | None
    saved: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FormReport:
    """A graph of the bundle in another form.

    Attributes:
        path: its file.
        form: the name of the form.
        operators: the number of its nodes, by operator.
        passes: the number of places that each of the form's passes changed.
        refusals: the nodes that each pass left as they were, with the reasons.
    """

    path: str
    form: str
    operators: Mapping[str, int]
    passes: Mapping[str, int]
    refusals: Mapping[str, Sequence[Refusal]]


@dataclass(frozen=True, slots=True, kw_only=True)
class TriedGraph:
    """A quantized graph that was tried on texts.

    Attributes:
        way: the row of RANGE_METHODS that its ranges come from, and how weights were prepared, as in "min-max,
            equalized"; or the row of ROUNDINGS that its weights are rounded by; empty if there was nothing to choose.
        kept: the blocks of layers that stay in fp32.
        rms: the root of the mean square of its differences from eager torch, relative to the output's range.
        largest: the largest difference.
        agreement: the share of decisions that are equal; None for a task that decides nothing.
        decisions: how many decisions were compared.
        drop: by how many points the metric is worse than in fp32; None where it was not measured.
    """

    way: str
    kept: Sequence[str]
    rms: float
    largest: float
    agreement: float | None
    decisions: int
    drop: float | None

    @property
    def metric(self) -> str:
        """How the metric differs from that in fp32, in words; empty where it was not measured."""
        return "" if self.drop is None else drop_in_words(self.drop)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizedFormReport:
    """How a form was quantized.

    Attributes:
        form: the name of the form.
        tried: the graphs with all blocks quantized, one for each way that was tried.
        curve: the graphs with more and more blocks in fp32; the last one is the form's.
        costs: the rms with one block alone quantized, by the block; empty if nothing had to stay in fp32.
        holds: whether the form passes the gate.
    """

    form: str
    tried: Sequence[TriedGraph]
    curve: Sequence[TriedGraph]
    costs: Mapping[str, float]
    holds: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizationReport:
    """How the graphs were quantized.

    Attributes:
        measured: how many texts activations were measured on.
        held_back: how many texts the graphs were tried on.
        gate: what was asked of them.
        metric: the metric and its value in fp32; empty if it was not measured.
        forms: the forms, packed ones left out, which are as accurate as the forms that they pack.
    """

    measured: int
    held_back: int
    gate: str
    metric: str
    forms: Sequence[QuantizedFormReport]

    @property
    def caution(self) -> str:
        """A sentence without a stop about decisions that are too few to judge by; empty where they are enough."""
        decisions = max((form.curve[-1].decisions for form in self.forms if form.curve), default=0)
        if not 0 < decisions < FEW_DECISIONS:
            return ""
        more = "" if self.metric else ", or examples with --eval"
        return f"{decisions} decisions tell little: give more texts with --calibration{more}"


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationReport:
    """What the bundle makes of the checkpoint's generation_config.json, or of such fields in its config.json.

    Attributes:
        defaults: the options that it sets, which count where the user gives no others.
        unsupported: the fields with which transformers may write other texts than the bundle.
        file: the name of the file.
    """

    defaults: Mapping[str, Any]
    unsupported: Mapping[str, Any]
    file: str = GENERATION_CONFIG

    @property
    def sentences(self) -> Sequence[str]:
        """What there is to say of it, a sentence for each kind of field."""
        found = []
        if self.defaults:
            found.append(f"{self.file} sets these options, which texts get by default: {_in_words(self.defaults)}.")
        if self.unsupported:
            found.append(
                f"Warning: {self.file} sets what rpln-runtime does not support: "
                f"{_in_words(self.unsupported)}. The graphs are right, but transformers' generate may write other "
                "texts than the bundle."
            )
        return found


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Report(Described):
    """What was exported, how it was proven, and what the export took.

    Attributes:
        name: the name of the checkpoint.
        task: the name of the task.
        recipe: the name of the precision.
        opset: the version of ONNX's operators.
        destination: the folder of the bundle.
        parameters: the number of the model's parameters.
        left_out: the names of weights of the checkpoint that the network has no place for.
        adapter: the adapter that was merged, as the manifest's `source` names it; None if there was none.
        generation: what the bundle makes of generation_config.json; None for a task that generates no text.
        tokenizer_notes: sentences about what the tokenizer does otherwise than a version of transformers, or than its
            file.
        sizes: the bytes of each file, without the manifest and the report itself.
        graphs: the graphs.
        tolerance: what the recipe accepts.
        comparisons: every comparison with eager torch.
        cases: every case that was compared, with its worst comparison.
        drifts: how far the graphs drift away from eager torch, block by block.
        layer: the nodes of one layer, as it was traced and in every form; None where the graph names no layers.
        notes: sentences about how the comparisons were made.
        quantization: how the graphs were quantized; None for other precisions.
        steps: the seconds and the peak memory of each step.
        forms: the graphs in other forms.
        optimization: how the forms were chosen.
        engines: the engines, or why there are none.
        versions: the installed versions of TOOLS.
    """

    name: str
    task: str
    recipe: str
    opset: int
    destination: str
    parameters: int
    left_out: Sequence[str]
    adapter: str | None
    generation: GenerationReport | None
    tokenizer_notes: Sequence[str]
    sizes: Mapping[str, int]
    graphs: Sequence[GraphReport]
    tolerance: Tolerance
    comparisons: Sequence[Comparison]
    cases: Sequence[CaseOutcome]
    drifts: Sequence[GraphDrift]
    layer: LayerReport | None
    notes: Sequence[str]
    quantization: QuantizationReport | None
    steps: Sequence[Step]
    forms: Sequence[FormReport]
    optimization: Optimization
    engines: EnginesBuilt
    versions: Mapping[str, str]

    @property
    def operators_by_file(self) -> Sequence[tuple[str, Mapping[str, int]]]:
        """The number of nodes by operator in each ONNX file of the bundle, with its path."""
        return [(graph.path, graph.operators) for graph in self.graphs] + [
            (form.path, form.operators) for form in self.forms
        ]

    def described(self) -> dict[str, str]:
        """Return what a person wants to know of the export first."""
        from rpln_export.bundle.verdict import verdict_from_report  # which reads reports

        verdict = verdict_from_report(self)
        return {
            "task": self.task,
            "checkpoint": f"{self.name}, {self.parameters:,} parameters",
            "precision": self.recipe,
            "folder": self.destination,
            "files": f"{len(self.sizes)} files, {megabytes(sum(self.sizes.values()))}, and {MANIFEST_NAME} and the "
            "report",
            "verdict": f"{'accepted' if verdict.accepted else 'not accepted'}. {' '.join(verdict.sentences)}",
            "form": self.optimization.note,
            "engines": self.engines.note,
            "took": f"{sum(step.seconds for step in self.steps):.1f} s",
        }

    def to_json(self) -> dict[str, Any]:
        """Return all fields, for machines."""
        document = dataclasses.asdict(self)
        document["comparisons"] = [comparison.to_json() for comparison in self.comparisons]
        return document

    def to_markdown(self) -> str:
        """Return the report as Markdown, for people."""
        return markdown_from_template("report.md.jinja", report=self)

    def write(self, folder: Path) -> None:
        """Write report.json and report.md into `folder`."""
        (folder / REPORT_NAME).write_text(json.dumps(self.to_json(), indent=2) + "\n", encoding="utf-8")
        (folder / "report.md").write_text(self.to_markdown(), encoding="utf-8")


def report_from_export(
    plan: ExportPlan,
    traced: Sequence[TracedGraph],
    graphs: Sequence[GraphForms],
    folder: Path,
    *,
    parameters: int,
    left_out: Sequence[str],
    tokenizer_notes: Sequence[str],
    proof: Proof,
    quantization: Quantization | None,
    steps: Sequence[Step],
    choice: Choice,
    engines: EnginesBuilt,
) -> Report:
    """Return the report of an export of `traced` graphs, whose bundle is in `folder`."""
    return Report(
        name=plan.name,
        task=plan.task.name,
        recipe=plan.recipe.name,
        opset=graphs[0].model.opset_imports[""],
        destination=str(plan.destination),
        parameters=parameters,
        left_out=left_out,
        adapter=str(plan.source.adapter) if plan.source.adapter else None,
        generation=_generation_report(plan),
        tokenizer_notes=tokenizer_notes,
        sizes=_sizes(folder),
        graphs=[_graph_report(graph.planned.plan, graph.model) for graph in graphs],
        tolerance=plan.recipe.tolerance,
        comparisons=proof.comparisons,
        cases=proof.cases,
        drifts=proof.drifts,
        layer=_layer_report(traced[0].model, graphs[0], choice),
        notes=proof.notes,
        quantization=None if quantization is None else _quantization_report(quantization),
        steps=steps,
        forms=[_form_report(path, graph, choice, plan.recipe.forms) for path, graph in choice.models.items()],
        optimization=choice.record,
        engines=engines,
        versions=tool_versions(),
    )


def _generation_report(plan: ExportPlan) -> GenerationReport | None:
    if plan.generation is None:
        return None
    return GenerationReport(
        defaults=plan.generation.defaults,
        unsupported=plan.unsupported_generation,
        file=plan.stated_generation.file,
    )


def _quantization_report(quantization: Quantization) -> QuantizationReport:
    return QuantizationReport(
        measured=quantization.measured,
        held_back=quantization.held_back,
        gate=quantization.gate,
        metric=quantization.metric,
        forms=[_quantized_form(row) for row in quantization.forms.values()],
    )


def _quantized_form(row: QuantizedForm) -> QuantizedFormReport:
    return QuantizedFormReport(
        form=row.form,
        tried=[_tried(fidelity, way=name) for name, fidelity in row.tried.items()],
        curve=[_tried(point.fidelity, way=row.way, kept=point.kept) for point in row.passage.curve],
        costs=row.passage.costs,
        holds=row.passage.holds,
    )


def _tried(fidelity: Fidelity, *, way: str, kept: Sequence[str] = ()) -> TriedGraph:
    return TriedGraph(
        way=way,
        kept=kept,
        rms=fidelity.rms,
        largest=fidelity.largest,
        agreement=fidelity.agreement,
        decisions=fidelity.decisions,
        drop=fidelity.drop,
    )


def _layer_report(traced: ir.Model, graph: GraphForms, choice: Choice) -> LayerReport | None:
    """Return one layer of the first graph, as it was traced and in every form that the bundle has."""
    path = graph.planned.plan.path
    forms = {("traced", ""): traced, (choice.form, path): graph.model}
    others = {(row.form, row.path): choice.models[row.path] for row in choice.rewritten[graph.planned.name]}
    return layer_report(forms | others)


def _in_words(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {shown(value)}" for name, value in options.items())


def _sizes(folder: Path) -> dict[str, int]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST_NAME)
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


def _form_report(path: str, graph: ir.Model, choice: Choice, forms: Mapping[str, Form]) -> FormReport:
    form = next(row.form for rows in choice.rewritten.values() for row in rows if row.path == path)
    passes = [kind.__name__ for kind in forms[form].passes]
    refusals = refusals_from_model(graph)
    return FormReport(
        path=path,
        form=form,
        operators=_operators(graph),
        passes={name: counts_from_model(graph)[name] for name in passes},
        refusals={name: refusals[name] for name in passes if refusals.get(name)},
    )


def _operators(graph: ir.Model) -> dict[str, int]:
    return dict(Counter(node.op_type for node in graph.graph).most_common())


def _graph_report(plan: GraphPlan, graph: ir.Model) -> GraphReport:
    return GraphReport(
        variant=plan.variant.name,
        path=plan.path,
        inputs=[value.name or "" for value in graph.graph.inputs],
        outputs=[value.name or "" for value in graph.graph.outputs],
        weights=weights_from_model(graph),
        operators=_operators(graph),
        passes=counts_from_model(graph),
        rescaling=_rescaling_from_model(graph),
        saved=int(graph.metadata_props.get(SAVED_KEY, "0")),
    )


def summary_from_report(report: Report) -> dict[str, Any]:
    """Return what the manifest says of the validation."""
    rows = ("output", "method", "difference", "agreement", "ties", "cases")
    return {
        "tolerance": dataclasses.asdict(report.tolerance),
        "comparisons": [{name: row.to_json()[name] for name in rows} for row in report.comparisons],
        "notes": list(report.notes),
    }


def _rescaling_from_model(graph: ir.Model) -> Rescaling | None:
    notes = graph.metadata_props
    if not float(notes.get(PEAK_KEY, "0")):
        return None  # the recipe does not rescale, or the graph has no residual stream
    shift, peak = int(notes[SHIFT_KEY]), float(notes[PEAK_KEY])
    return Rescaling(
        shift=shift,
        residual_peak=peak,
        headroom=FLOAT16_MAX / max(peak * 2.0**-shift, TINY),
        rescaled_values=counts_from_model(graph)[RescaleValues.__name__],
        kept_float=json.loads(notes[KEPT_KEY]),
        layers={
            layer: LargestValue(name=name, reach=reach) for layer, (name, reach) in json.loads(notes[REACH_KEY]).items()
        },
    )
