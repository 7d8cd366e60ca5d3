"""Text in, JSON out: requests and answers of a task in the shapes of Hugging Face's pipelines and inference API."""

from collections.abc import Mapping, Sequence
from typing import Any

from rpln_runtime.documents import shown
from rpln_runtime.serve.bundles import ServedBundle
from rpln_runtime.serve.refusals import Outcome, Refusal
from rpln_runtime.triton.request import Asked


def items_of(document: Mapping[str, Any], bundle: ServedBundle) -> tuple[list[Asked], bool]:
    """Return the items of a request, and whether it is a single one. Raises Refusal, and InputError for options."""
    unknown = document.keys() - {"inputs", "parameters"}
    if unknown or "inputs" not in document:
        raise Refusal(400, f"the request has the keys {shown(list(document))}, expected 'inputs' and 'parameters'.")
    inputs, options = document["inputs"], document.get("parameters", {})
    if not isinstance(options, dict):
        raise Refusal(400, f"parameters is {shown(options)}, expected an object with options of {bundle.task.name}.")
    single = isinstance(inputs, str | dict)
    if bundle.postprocess is not None:
        single = bundle.with_options(options).is_item(inputs)
    if not single and not isinstance(inputs, list):
        raise Refusal(400, f"inputs is {shown(inputs)}, expected an item or a list of items.")
    return [Asked(item, options) for item in ([inputs] if single else inputs)], single


def answer_of(outcomes: Sequence[Outcome], options: Mapping[str, Any], bundle: ServedBundle, *, single: bool) -> Any:
    """Return what the pipeline returns for the items."""
    answers = [outcome.answer for outcome in outcomes]
    if bundle.postprocess is None:
        return answers[0] if single else answers
    return bundle.with_options(options).results(answers, single=single)
