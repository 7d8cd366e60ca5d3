"""OpenAI's endpoints: vectors of texts, and new text after prompts.

Source: https://platform.openai.com/docs/api-reference/embeddings and .../completions
"""

import base64
import json
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Final

import numpy as np

from rpln_runtime.documents import shown
from rpln_runtime.serve.bundles import ServedBundle
from rpln_runtime.serve.front import Front
from rpln_runtime.serve.refusals import Outcome, Refusal
from rpln_runtime.triton.request import Asked

FEATURES: Final = "feature-extraction"
_FLOAT: Final = "float"
_TOKENS: Final = 16
"""The most new tokens where a request does not say how many."""
_EMBEDDING_KEYS: Final = {"model", "input", "encoding_format", "dimensions", "user"}
_NEUTRAL: Final[Mapping[str, tuple[Any, ...]]] = {
    "best_of": (1,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "logprobs": (0, False),
    "presence_penalty": (0,),
    "suffix": ("",),
    "stream_options": ({},),
}
"""The fields of a completion that nothing here does, and the values at which they ask for nothing."""
_COMPLETION_KEYS: Final = {
    *("model", "prompt", "max_tokens", "temperature", "top_p", "n", "seed", "stop", "echo", "stream", "user"),
    *_NEUTRAL,
}


def error_body(refusal: Refusal) -> Any:
    """Return a refusal as OpenAI's clients expect it."""
    kind = "invalid_request_error" if refusal.status < 500 else "server_error"
    return {"error": {"message": str(refusal), "type": kind, "param": None, "code": None}}


def models(front: Front) -> dict[str, Any]:
    """Return the list of models."""
    rows = [{"id": name, "object": "model", "created": 0, "owned_by": "rpln"} for name in front.bundles]
    return {"object": "list", "data": rows}


def bundle_of(document: Mapping[str, Any], front: Front, takes: Callable[[ServedBundle], bool]) -> ServedBundle:
    """Return the bundle that a request names, or the only one that `takes` such requests. Raises Refusal."""
    fitting = [bundle for bundle in front.bundles.values() if takes(bundle)]
    names = ", ".join(bundle.name for bundle in fitting) or "none, since no bundle here has such a task"
    name = document.get("model")
    if name is None and len(fitting) == 1:
        return fitting[0]
    if not isinstance(name, str):
        raise Refusal(400, f"model is {shown(name)}, expected one of {names}.")
    if (bundle := front.bundle(name)) not in fitting:
        raise Refusal(400, f"{name} is for {bundle.task.name}: expected one of {names}.")
    return bundle


def makes_vectors(bundle: ServedBundle) -> bool:
    """Return whether a bundle makes vectors of texts."""
    return bundle.task.name == FEATURES


def generates(bundle: ServedBundle) -> bool:
    """Return whether a bundle generates text."""
    return bundle.task.generates


def texts_to_embed(document: Mapping[str, Any], bundle: ServedBundle) -> list[Asked]:
    """Return the texts of a request. If the graph does not pool, the vector is the mean over the tokens."""
    _check_keys(document, _EMBEDDING_KEYS)
    if document.get("encoding_format") not in (None, *_ENCODINGS):
        raise Refusal(400, f"encoding_format is {shown(document['encoding_format'])}, expected 'float' or 'base64'.")
    pools = bundle.manifest.sentences is not None and bundle.manifest.sentences.poolings
    return [Asked(text, {} if pools else {"pooling": "mean"}) for text in _texts(document, "input")]


def embeddings(document: Mapping[str, Any], outcomes: Sequence[Outcome], bundle: ServedBundle) -> dict[str, Any]:
    """Return the vectors of texts, as numbers or in base64. Raises Refusal for another number of dimensions."""
    encoding = _ENCODINGS[document.get("encoding_format") or _FLOAT]
    width = outcomes[0].answer.shape[-1]
    if document.get("dimensions") not in (None, width):
        raise Refusal(
            400, f"dimensions is {shown(document['dimensions'])}, but the vectors of this model have {width}."
        )
    read = sum(outcome.read for outcome in outcomes)
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": encoding(outcome.answer)}
            for index, outcome in enumerate(outcomes)
        ],
        "model": bundle.name,
        "usage": {"prompt_tokens": read, "total_tokens": read},
    }


def _in_base64(vector: np.ndarray) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()


_ENCODINGS: Final[Mapping[Any, Callable[[np.ndarray], Any]]] = {
    _FLOAT: lambda vector: vector.tolist(),
    "base64": _in_base64,
}
"""How vectors are written, by the name that OpenAI has for it."""


def prompts_of(document: Mapping[str, Any], bundle: ServedBundle) -> list[Asked]:
    """Return the prompts of a request, with its options by the names that the runtime has for them. Raises Refusal."""
    _check_keys(document, _COMPLETION_KEYS)
    for name, neutral in _NEUTRAL.items():
        if document.get(name) is not None and document[name] not in neutral:
            raise Refusal(400, f"{name} is not supported: leave it out.")
    given = {name: value for name, value in document.items() if value is not None}
    options: dict[str, Any] = {"max_new_tokens": given.get("max_tokens", _TOKENS)}
    temperature = given.get("temperature", 1)
    if isinstance(temperature, bool) or temperature != 0:
        options |= {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": given.get("top_p", 1)}
        options |= {"num_return_sequences": given.get("n", 1), "seed": given.get("seed")}
    elif given.get("n", 1) != 1:
        raise Refusal(400, "n is more than 1 and temperature is 0, which finds one text: raise the temperature.")
    if "stop" in given:
        options["stop_strings"] = given["stop"]
    if bundle.task.name == "text-generation":
        options["return_full_text"] = given.get("echo", False)
    elif given.get("echo"):
        raise Refusal(400, "echo is for models that continue a prompt, but this one answers a text: leave it out.")
    return [Asked(text, options) for text in _texts(document, "prompt")]


def streams(document: Mapping[str, Any], prompts: Sequence[Asked]) -> bool:
    """Return whether a request asks for a stream. Raises Refusal for a stream of several texts."""
    stream = document.get("stream") or False
    if not isinstance(stream, bool):
        raise Refusal(400, f"stream is {shown(stream)}, expected true or false.")
    if stream and (len(prompts) > 1 or prompts[0].options.get("num_return_sequences", 1) != 1):
        raise Refusal(400, "a stream gives one text: expected one prompt, and n=1.")
    return stream


def completions(outcomes: Sequence[Outcome], bundle: ServedBundle) -> dict[str, Any]:
    """Return new texts."""
    choices = [
        (text["generated_text"], _reason(ended=ended))
        for outcome in outcomes
        for text, ended in zip(outcome.answer, outcome.ended, strict=True)
    ]
    read, written = sum(outcome.read for outcome in outcomes), sum(sum(outcome.written) for outcome in outcomes)
    return {
        **_head(bundle),
        "choices": [
            {"text": text, "index": index, "logprobs": None, "finish_reason": reason}
            for index, (text, reason) in enumerate(choices)
        ],
        "usage": {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written},
    }


async def completion_events(
    pieces: AsyncGenerator[str | Outcome, None], bundle: ServedBundle, on_refusal: Callable[[Refusal], None]
) -> AsyncIterator[bytes]:
    """Yield the events of a stream: new text, why it ended, and [DONE]."""
    head = _head(bundle)
    try:
        async with aclosing(pieces):
            async for piece in pieces:
                text, reason = (piece, None) if isinstance(piece, str) else ("", _reason(ended=piece.ended[0]))
                choice = {"text": text, "index": 0, "logprobs": None, "finish_reason": reason}
                yield _event({**head, "choices": [choice]})
    except Refusal as refusal:
        on_refusal(refusal)
        yield _event(error_body(refusal))
    yield b"data: [DONE]\n\n"


def _reason(*, ended: bool) -> str:
    return "stop" if ended else "length"


def _event(document: Any) -> bytes:
    return b"data: " + json.dumps(document, ensure_ascii=False).encode() + b"\n\n"


def _head(bundle: ServedBundle) -> dict[str, Any]:
    name = f"cmpl-{uuid.uuid4().hex}"
    return {"id": name, "object": "text_completion", "created": int(time.time()), "model": bundle.name}


def _check_keys(document: Mapping[str, Any], known: set[str]) -> None:
    if unknown := sorted(document.keys() - known):
        raise Refusal(400, f"unknown field {shown(unknown[0])}: expected {', '.join(sorted(known))}.")


def _texts(document: Mapping[str, Any], name: str) -> list[Any]:
    given = document.get(name)
    texts = given if isinstance(given, list) else [given]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise Refusal(400, f"{name} is no text and no list of texts. Lists of token ids are not taken.")
    return texts
