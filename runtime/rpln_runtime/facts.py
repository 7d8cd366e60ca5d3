"""FACTS: the tensors that the graphs of a task take and give. runtime/cpp/include/rpln/facts.hpp has the same table.

What a manifest says is compared with these rows when it is read. A graph is compared with its manifest when it is
opened (`rpln_runtime.session`), and its outputs whenever it runs (`rpln_runtime.outputs`). So neither a damaged
manifest nor a graph that was exchanged gives wrong answers.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from rpln_runtime.tasks import (
    BATCH,
    BATCH_CHOICES,
    CHOICE_TOKENS,
    CHOICES,
    ENCODER_SEQUENCE,
    INT64,
    MASK_AXIS,
    MASKED_TOKENS,
    PAST,
    SEQUENCE,
    TASKS,
    TOKENS,
    TOTAL,
)

if TYPE_CHECKING:
    from rpln_runtime.manifest import Graph, Manifest, TensorSpec

Shape: TypeAlias = tuple[str | int, ...]

FLOATS: Final = ("float32", "float16", "bfloat16")
"""The floating-point dtypes of inputs and outputs."""
NUM_LABELS: Final = "num_labels"
VOCAB_SIZE: Final = "vocab_size"
FIXED_SIZES: Final = (
    NUM_LABELS,
    VOCAB_SIZE,
    "hidden_size",
    "embedding_size",
    "encoder_hidden_size",
    "head_size",
    "num_attention_heads",
    "num_hidden_layers",
)
"""The names of sizes that a bundle fixes. In a manifest an integer stands for each."""
RIGHT: Final = "right"
LEFT: Final = "left"
TRUNCATION_SIDES: Final = (RIGHT, LEFT)
"""The sides from which a text that is too long may be cut."""
PROBLEM_TYPES: Final = ("regression", "single_label_classification", "multi_label_classification")
"""What `problem_type` may say of the labels of a text. It decides how scores are made of logits."""
ENCODER_DECODER: Final = "text2text-generation"
"""The task whose manifest describes the vocabulary of the encoder, which need not be that of the logits."""
STANDALONE: Final = ("encoder", "cross")
"""The variants that run before a decoder, and do not give the outputs of the task."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """What holds for a tensor in every bundle.

    Attributes:
        name: the name of the tensor; in a series with a tensor for each layer, what stands before the layer's number.
        shapes: the shapes that it may have: names of dynamic axes, sizes, and names in FIXED_SIZES.
        integers: whether its dtype is int64; otherwise it is one of FLOATS.
        tasks: the tasks whose graphs give this output, all but those in STANDALONE, or one of the task's
            `outputs_instead`. Empty for a tensor that a graph need not have, in any task.
    """

    name: str
    shapes: tuple[Shape, ...]
    integers: bool = False
    tasks: tuple[str, ...] = ()


_HEADS: Final = "num_attention_heads"
_OWN_IDS: Final = (TOKENS, CHOICE_TOKENS)
_IDS: Final = (*_OWN_IDS, (BATCH, ENCODER_SEQUENCE))
_STATES: Final = ((*TOKENS, "hidden_size"), (BATCH, ENCODER_SEQUENCE, "encoder_hidden_size"))

FACTS: Final = (
    Fact(name="input_ids", shapes=_IDS, integers=True),
    Fact(name="attention_mask", shapes=(*_IDS, (BATCH, TOTAL)), integers=True),
    Fact(name="token_type_ids", shapes=_OWN_IDS, integers=True),
    Fact(name="position_ids", shapes=_OWN_IDS, integers=True),
    Fact(name="masked_positions", shapes=((BATCH, MASK_AXIS),), integers=True),
    Fact(name="encoder_attention_mask", shapes=((BATCH, ENCODER_SEQUENCE),), integers=True),
    Fact(name="inputs_embeds", shapes=((*TOKENS, "hidden_size"), (*CHOICE_TOKENS, "hidden_size"))),
    Fact(name="encoder_hidden_states", shapes=((BATCH, ENCODER_SEQUENCE, "encoder_hidden_size"),)),
    Fact(name="head_mask", shapes=(("num_hidden_layers", _HEADS),)),
    Fact(name="past_key_values", shapes=((BATCH, _HEADS, PAST, "head_size"),)),
    Fact(name="present", shapes=((BATCH, _HEADS, TOTAL, "head_size"), (BATCH, _HEADS, SEQUENCE, "head_size"))),
    Fact(name="cross_key_values", shapes=((BATCH, _HEADS, ENCODER_SEQUENCE, "head_size"),)),
    Fact(name="pooler_output", shapes=((BATCH, "hidden_size"),)),
    Fact(name="hidden_states", shapes=((*TOKENS, "hidden_size"), (BATCH_CHOICES, SEQUENCE, "hidden_size"))),
    Fact(
        name="attentions",
        shapes=(
            (BATCH, _HEADS, SEQUENCE, SEQUENCE),
            (BATCH_CHOICES, _HEADS, SEQUENCE, SEQUENCE),
            (BATCH, _HEADS, SEQUENCE, TOTAL),
        ),
    ),
    Fact(name="cross_attentions", shapes=((BATCH, _HEADS, SEQUENCE, ENCODER_SEQUENCE),)),
    Fact(name="last_hidden_state", shapes=_STATES, tasks=("feature-extraction",)),
    Fact(name="sentence_embedding", shapes=((BATCH, "embedding_size"),)),
    Fact(
        name="logits",
        shapes=((*TOKENS, VOCAB_SIZE), (MASKED_TOKENS, VOCAB_SIZE), (BATCH, MASK_AXIS, VOCAB_SIZE)),
        tasks=("fill-mask",),
    ),
    Fact(name="logits", shapes=((BATCH, NUM_LABELS),), tasks=("text-classification",)),
    Fact(name="logits", shapes=((*TOKENS, NUM_LABELS),), tasks=("token-classification",)),
    Fact(name="start_logits", shapes=(TOKENS,), tasks=("question-answering",)),
    Fact(name="end_logits", shapes=(TOKENS,), tasks=("question-answering",)),
    Fact(name="logits", shapes=((BATCH, CHOICES),), tasks=("multiple-choice",)),
    Fact(
        name="logits",
        shapes=((BATCH, 1, VOCAB_SIZE), (*TOKENS, VOCAB_SIZE)),
        tasks=("text-generation", ENCODER_DECODER),
    ),
)


def contradiction(manifest: "Manifest") -> str | None:
    """Return the first field of `manifest` that does not fit the others or FACTS, and what was expected there.

    Returns None if everything fits.
    """
    return next(_contradictions(manifest), None)


def _contradictions(manifest: "Manifest") -> Iterator[str]:
    if manifest.truncation_side not in TRUNCATION_SIDES:
        yield f"the manifest.truncation_side is {manifest.truncation_side!r}, expected {' or '.join(TRUNCATION_SIDES)}"
    if manifest.problem_type not in (None, *PROBLEM_TYPES):
        expected = " or ".join(("null", *PROBLEM_TYPES))
        yield f"the manifest.problem_type is {manifest.problem_type!r}, expected {expected}"
    for name, axis in manifest.axes.items():
        if axis.maximum is not None and axis.minimum > axis.maximum:
            yield (
                f"the manifest.axes.{name}.minimum is {axis.minimum}, expected no more than the maximum, {axis.maximum}"
            )
    yield from _repeated("the manifest.files", "path", [file.path for file in manifest.files])
    yield from _repeated("the manifest.graphs", "variant", [graph.variant for graph in manifest.graphs])
    for index, graph in enumerate(manifest.graphs):
        where = f"the manifest.graphs[{index}]"
        for side, specs in (("inputs", graph.inputs), ("outputs", graph.outputs)):
            yield from _repeated(f"{where}.{side}", "name", [spec.name for spec in specs])
            for place, spec in enumerate(specs):
                yield from _contradictions_of_tensor(f"{where}.{side}[{place}]", spec, graph, manifest)
        yield from _missing_outputs(where, graph, manifest)
    yield from _contradictions_of_sentences(manifest)


def _repeated(where: str, field: str, names: Iterable[str]) -> Iterator[str]:
    """Yield the rows of a list whose `field`, which tells them apart, is that of an earlier row."""
    first: dict[str, int] = {}
    for place, name in enumerate(names):
        if first.setdefault(name, place) != place:
            yield f"{where}[{place}].{field} is {name!r}, expected another one than in {where}[{first[name]}]"


def _contradictions_of_sentences(manifest: "Manifest") -> Iterator[str]:
    sentences = manifest.sentences
    poolings = sentences.poolings if sentences else ()
    vectors = any(spec.name == "sentence_embedding" for graph in manifest.graphs for spec in graph.outputs)
    if vectors != bool(poolings):
        yield (
            f"the manifest.sentences.poolings holds {len(poolings)} names, expected some if a graph gives "
            "'sentence_embedding', and none otherwise"
        )
    if sentences and sentences.default_prompt not in (None, *sentences.prompts):
        yield (
            f"the manifest.sentences.default_prompt is {sentences.default_prompt!r}, expected one of prompts or null"
        )


def _missing_outputs(where: str, graph: "Graph", manifest: "Manifest") -> Iterator[str]:
    given = {spec.name for spec in graph.outputs}
    if graph.variant in STANDALONE or manifest.task not in TASKS:
        return
    instead = {tensor.name for tensor in TASKS[manifest.task].outputs_instead}
    for fact in FACTS:
        if manifest.task in fact.tasks and given.isdisjoint({fact.name, *instead}):
            yield (
                f"{where}.outputs has no tensor of the name {fact.name!r}, expected one in each graph for the task "
                f"{manifest.task}"
            )


def _contradictions_of_tensor(where: str, spec: "TensorSpec", graph: "Graph", manifest: "Manifest") -> Iterator[str]:
    fact = fact_from_name(spec.name, manifest.task)
    dtypes = (INT64, *FLOATS) if fact is None else (INT64,) if fact.integers else FLOATS
    if spec.dtype not in dtypes:
        yield f"{where}.dtype is {spec.dtype!r}, expected {' or '.join(dtypes)}: {spec.name!r}"
    sizes = _known_sizes(graph, manifest)
    if fact is not None and not any(_fits(spec.shape, shape, sizes) for shape in fact.shapes):
        expected = " or ".join(_shown(tuple(sizes.get(axis, axis) for axis in shape)) for shape in fact.shapes)
        yield (
            f"{where}.shape is {_shown(spec.shape)}, expected {expected}: {spec.name!r}, where labels holds "
            f"{len(manifest.labels)} names and vocab_size is {manifest.vocab_size}"
        )
    if spec.name == "input_ids" and VOCAB_SIZE in sizes and spec.values not in (None, manifest.vocab_size):
        yield f"{where}.values is {spec.values}, expected vocab_size, {manifest.vocab_size}"


def fact_from_name(name: str, task: str) -> Fact | None:
    """Return the row about the tensor `name` of a bundle for `task`, or None if no row is about it.

    A row of the task comes before rows of other tasks: a decoder's encoder gives a `last_hidden_state`, too.
    """
    rows = [fact for fact in FACTS if name == fact.name or name.startswith(f"{fact.name}.")]
    return next((fact for fact in rows if task in fact.tasks), rows[0] if len(rows) == 1 else None)


def _known_sizes(graph: "Graph", manifest: "Manifest") -> dict[str | int, int]:
    """Return the sizes in FIXED_SIZES that the manifest has another field for."""
    sizes: dict[str | int, int] = {NUM_LABELS: len(manifest.labels)}
    if manifest.task != ENCODER_DECODER or graph.variant in STANDALONE:
        sizes[VOCAB_SIZE] = manifest.vocab_size
    return sizes


def _fits(found: Shape, expected: Shape, sizes: dict[str | int, int]) -> bool:
    """Return whether the shape `found` in a manifest is `expected`, a shape of a row."""
    return len(found) == len(expected) and all(
        isinstance(size, int) and size == sizes.get(axis, size) if axis in FIXED_SIZES else size == axis
        for size, axis in zip(found, expected, strict=True)
    )


def _shown(shape: Shape) -> str:
    return f"[{', '.join(map(str, shape))}]"
