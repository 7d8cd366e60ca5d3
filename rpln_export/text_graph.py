"""--with-tokenizer: a graph from texts to outputs in the bundle, and the proof that its tokens are the tokenizer's."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from rpln_export.calibration import DEFAULT_TEXTS
from rpln_export.errors import PlanError, ValidationError
from rpln_export.extras import EXTRAS, require_extra
from rpln_export.optimizing import Choice
from rpln_export.plan import ExportPlan
from rpln_graphs.text import DOMAIN, TEXT, TOKENS, BytePairs, text_graph
from rpln_runtime.manifest import read_manifest
from rpln_runtime.session import DEFAULT_PROVIDER, load
from rpln_runtime.tokenization import Tokenizer, truncate

EXTRA: Final = "tokenizer-op"
TEXT_GRAPH: Final = "model.text.onnx"
DESCRIPTION: Final = "model.text.json"

DIFFERENCE: Final = 1e-5
"""Of the reach of an output: the same graph, on the same ids in the same batches."""

_TASKS: Final = ("feature-extraction", "fill-mask", "text-classification", "token-classification")
_INPUTS: Final = {*TOKENS, "token_type_ids"}
_SPECIAL: Final = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")

# What the operator has built in: parts of a tokenizer.json, and the values that mean no more than that.
_BUILT_IN: Final[Mapping[tuple[str, str], tuple[object, ...]]] = {
    ("pre_tokenizer", "type"): ("ByteLevel",),
    ("pre_tokenizer", "use_regex"): (True, None),
    ("post_processor", "type"): ("RobertaProcessing",),
    ("model", "type"): ("BPE",),
    ("model", "dropout"): (None, 0.0),
    ("model", "continuing_subword_prefix"): (None, ""),
    ("model", "end_of_word_suffix"): (None, ""),
    ("model", "byte_fallback"): (None, False),
    ("model", "ignore_merges"): (None, False),
}


def byte_pairs_for(plan: ExportPlan, tokenizer: Any) -> BytePairs | None:
    """What the graph from texts has of a fast tokenizer of transformers'; None where the plan asks for no such graph.

    Raises PlanError for a task, inputs, a precision or a tokenizer that such a graph cannot have; MissingExtraError.
    """
    if not plan.with_tokenizer:
        return None
    require_extra(EXTRA)
    inputs = {tensor.name for graph in plan.graphs for tensor in graph.inputs}
    if plan.task.name not in _TASKS:
        raise PlanError(
            f"--with-tokenizer makes a graph of single texts, {plan.task.name} takes more than that. It goes with "
            f"{', '.join(_TASKS)}."
        )
    if more := inputs - _INPUTS:
        raise PlanError(
            f"--with-tokenizer makes all inputs of the text: {', '.join(sorted(more))} cannot be among them."
        )
    if plan.recipe.dtype == ir.DataType.BFLOAT16:
        raise PlanError("--with-tokenizer does not go with --bf16: what runs its operators has no bf16, so no proof.")
    return _byte_pairs(json.loads(tokenizer.backend_tokenizer.to_str()), plan)


def text_graphs(
    plan: ExportPlan, tokenizer: BytePairs | None, models: Mapping[str, ir.Model], choice: Choice
) -> dict[str, ir.Model]:
    """The graph from texts by its file: that one of `models` which ONNX Runtime runs on the CPU, behind a tokenizer."""
    if tokenizer is None:
        return {}
    (graph,) = plan.graphs
    rewritten = choice.rewritten[graph.variant.name]
    path = next((row.path for row in rewritten if DEFAULT_PROVIDER in row.providers), graph.path)
    return {TEXT_GRAPH: text_graph(models[path], tokenizer, usable_length=plan.limits.usable_length)}


def describe_text_graph(folder: Path, models: Mapping[str, ir.Model]) -> None:
    """Write what runs the graph from texts beside it, where there is one."""
    if TEXT_GRAPH not in models:
        return
    library = EXTRAS[EXTRA].distribution
    graph = models[TEXT_GRAPH].graph
    document = {
        "graph": TEXT_GRAPH,
        "operators": {"domain": DOMAIN, "library": library, "version": version(library)},
        "inputs": [value.name for value in graph.inputs],
        "outputs": [value.name for value in graph.outputs],
    }
    (folder / DESCRIPTION).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def prove_text_graph(folder: Path) -> None:
    """Compare the bundle's graph from texts, if it has one, with its tokenizer and session.

    Raises ValidationError where ids or outputs differ, and MissingExtraError without the operator's library.
    """
    if not (folder / TEXT_GRAPH).is_file():
        return
    manifest = read_manifest(folder, verify=False)
    session, run = load(folder, provider=DEFAULT_PROVIDER, verify=False), _opened(folder / TEXT_GRAPH)
    tokenizer = Tokenizer.from_bundle(folder, manifest)
    mask = None if manifest.mask_token_id is None else tokenizer.token(manifest.mask_token_id)
    for texts in _batches(manifest.usable_length, mask):
        found = run(texts)
        encodings = [truncate(tokenizer.encode(text), manifest.usable_length).ids for text in texts]
        ids = _padded(encodings, manifest.pad_token_id)
        real = _padded([np.ones_like(row) for row in encodings], 0)
        if not (np.array_equal(found["input_ids"], ids) and np.array_equal(found["attention_mask"], real)):
            raise ValidationError(
                f"{TEXT_GRAPH} makes other tokens than tokenizer.json, of these texts: {_shown(texts)}."
            )
        feeds = {"input_ids": ids, "attention_mask": real, "token_type_ids": np.zeros_like(ids)}
        expected = session.run({spec.name: feeds[spec.name] for spec in session.graph.inputs})
        for name, values in expected.items():
            if not np.allclose(
                found[name], values, rtol=0, atol=DIFFERENCE * max(1.0, np.abs(values).max(initial=0.0))
            ):
                raise ValidationError(f"{TEXT_GRAPH} gives another {name} than the session, of: {_shown(texts)}.")


def _byte_pairs(document: dict[str, Any], plan: ExportPlan) -> BytePairs:
    added = {token["content"]: token for token in document["added_tokens"]}
    mask = added.get("<mask>")
    for reason in _reasons(document, added):
        raise PlanError(
            f"--with-tokenizer needs RoBERTa's byte-level BPE, as {EXTRAS[EXTRA].distribution} has it; that of "
            f"{plan.name} has {reason}. Export without it, or name another with --tokenizer."
        )
    merges = (pair if isinstance(pair, str) else " ".join(pair) for pair in document["model"]["merges"])
    return BytePairs(
        vocabulary=document["model"]["vocab"] | {token: entry["id"] for token, entry in added.items()},
        merges=tuple(merges),
        mask="<mask>" if mask else None,
        prefix_space=bool(document["pre_tokenizer"]["add_prefix_space"]),
    )


def _reasons(document: dict[str, Any], added: Mapping[str, dict[str, Any]]) -> Iterator[str]:
    """What a tokenizer.json asks for that the operator does not do."""
    if document["normalizer"] is not None:
        yield f"a normalizer ({document['normalizer'].get('type')})"
    for (part, name), accepted in _BUILT_IN.items():
        value = (document[part] or {}).get(name)
        if value not in accepted:
            yield f"{part}.{name}={value!r}, expected {' or '.join(map(repr, accepted))}"
    if strangers := [token for token in added if token not in _SPECIAL]:
        yield f"tokens added to its vocabulary ({', '.join(strangers[:3])})"
    if "<mask>" in added and not added["<mask>"]["lstrip"]:
        yield "a mask that leaves the space before it"
    if [document["post_processor"].get(name, [None])[0] for name in ("cls", "sep")] != ["<s>", "</s>"]:
        yield "other tokens around a text than <s> and </s>"


def _batches(usable_length: int, mask: str | None) -> Iterator[list[str]]:
    """Prose and code in one batch, texts alone, a text that is too long beside one that is not, and masks."""
    texts = DEFAULT_TEXTS.read_text(encoding="utf-8").splitlines()
    short = [text[: 2 * usable_length] for text in texts]
    yield short
    yield from ([text] for text in ("", " a", "a <b", "naïve café 東京 😀"))
    yield [" ".join([*texts] * usable_length)[: 20 * usable_length], "a"]
    if mask is not None:
        yield [f"a {mask} of {mask}{mask}b", f"{mask} c <", f"d{mask}"]


def _opened(path: Path) -> Callable[[Sequence[str]], dict[str, NDArray[Any]]]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.register_custom_ops_library(require_extra(EXTRA).get_library_path())
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda texts: dict(zip(names, session.run(names, {TEXT: np.array(texts, dtype=object)}), strict=True))


def _padded(rows: Sequence[NDArray[np.int64]], value: int) -> NDArray[np.int64]:
    width = max(map(len, rows))
    return np.stack([np.pad(row, (0, width - len(row)), constant_values=value) for row in rows])


def _shown(texts: Sequence[str]) -> str:
    return ", ".join(repr(text[:40]) for text in texts[:3])
