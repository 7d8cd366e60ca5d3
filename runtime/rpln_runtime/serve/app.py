"""The endpoints of a server. Bodies are read and written in threads, so that a large one does not stop the others."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any, Final, TypeAlias

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse

from rpln_runtime._version import __version__
from rpln_runtime.serve import open_inference, openai, predict
from rpln_runtime.serve.exchange import answered, document_of, json_response, log_refusal
from rpln_runtime.serve.front import Front
from rpln_runtime.serve.page import page
from rpln_runtime.serve.refusals import Outcome, Refusal

Piece: TypeAlias = str | Outcome
"""A piece of new text, or the outcome at the end."""
_VERSIONS: Final = ("", f"/versions/{open_inference.VERSION}")


def make_app(front: Front) -> FastAPI:
    """Return the ASGI application of a server."""
    app = FastAPI(title="rpln serve", version=__version__, docs_url=None, redoc_url=None)
    _add_open_inference(app, front)
    _add_openai(app, front)
    _add_predict(app, front)
    _add_pages(app, front)

    @app.exception_handler(HTTPException)
    async def refuse(request: Request, error: HTTPException) -> Response:
        async def work(_: bytes) -> Response:
            raise Refusal(error.status_code, f"{request.method} {request.url.path}: {error.detail}. See /docs.")

        response = await answered(request, front, work, endpoint="none")
        response.headers.update(error.headers or {})
        return response

    return app


def _add_open_inference(app: FastAPI, front: Front) -> None:
    """Add the Open Inference Protocol."""

    @app.get("/v2", summary="The server's name, version and extensions")
    async def server(request: Request) -> Response:
        document = {"name": "rpln serve", "version": __version__, "extensions": ["binary_tensor_data"]}
        return await _said(request, front, document)

    @app.get("/v2/health/live", summary="Whether the server runs")
    async def live(request: Request) -> Response:
        return await _said(request, front, {"live": True})

    @app.get("/v2/health/ready", summary="Whether every model answers an example")
    async def ready(request: Request) -> Response:
        return await _ready(request, front, list(front.bundles))

    for version in _VERSIONS:

        @app.get(f"/v2/models/{{name}}{version}", summary="The tensors of a model")
        async def model(request: Request, name: str) -> Response:
            async def work(_: bytes) -> Response:
                return json_response(open_inference.metadata(front.bundle(name)))

            return await answered(request, front, work, endpoint="metadata")

        @app.get(f"/v2/models/{{name}}{version}/ready", summary="Whether a model answers an example")
        async def model_ready(request: Request, name: str) -> Response:
            return await _ready(request, front, [name])

        @app.post(
            f"/v2/models/{{name}}{version}/infer",
            summary="Ask a model with tensors, in JSON or binary",
            openapi_extra=_example(
                {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1, 1], "data": ["A text."]}]}
            ),
        )
        async def infer(request: Request, name: str) -> Response:
            async def work(body: bytes) -> Response:
                bundle, header = front.bundle(name), request.headers.get(open_inference.HEADER)
                document, asked, seconds = await asyncio.to_thread(open_inference.read_request, body, header, bundle)
                async with asyncio.timeout(seconds):
                    outcomes = await front.outcomes(bundle, asked)
                return await asyncio.to_thread(open_inference.response_of, document, outcomes, bundle)

            return await answered(request, front, work, endpoint="infer")


def _add_openai(app: FastAPI, front: Front) -> None:
    """Add OpenAI's endpoints."""

    @app.get("/v1/models", summary="The names of the models")
    async def models(request: Request) -> Response:
        return await _said(request, front, openai.models(front))

    @app.post(
        "/v1/embeddings", summary="Vectors of texts", openapi_extra=_example({"model": "NAME", "input": ["A text."]})
    )
    async def embeddings(request: Request) -> Response:
        async def work(body: bytes) -> Response:
            document = await asyncio.to_thread(document_of, body)
            bundle = openai.bundle_of(document, front, openai.makes_vectors)
            outcomes = await front.outcomes(bundle, openai.texts_to_embed(document, bundle))
            return await asyncio.to_thread(lambda: json_response(openai.embeddings(document, outcomes, bundle)))

        return await answered(request, front, work, endpoint="embeddings")

    @app.post(
        "/v1/completions",
        summary="New text after prompts, as a whole or as a stream of events",
        openapi_extra=_example({"model": "NAME", "prompt": "The old man", "max_tokens": 20, "stream": False}),
    )
    async def completions(request: Request) -> Response:
        async def work(body: bytes) -> Response:
            document = await asyncio.to_thread(document_of, body)
            bundle = openai.bundle_of(document, front, openai.generates)
            prompts = openai.prompts_of(document, bundle)
            if openai.streams(document, prompts):
                pieces = await _begun(front.pieces(bundle, prompts[0]), front.settings.timeout)
                events = openai.completion_events(pieces, bundle, lambda refusal: log_refusal(request, refusal))
                return StreamingResponse(events, media_type="text/event-stream", headers={"cache-control": "no-cache"})
            return json_response(openai.completions(await front.outcomes(bundle, prompts), bundle))

        return await answered(request, front, work, endpoint="completions")


def _add_predict(app: FastAPI, front: Front) -> None:
    """Add the endpoint with the shapes of Hugging Face."""
    example = next(iter(front.bundles.values())).example

    @app.post(
        "/predict/{name}",
        summary="Ask a model as Hugging Face's pipelines are asked",
        openapi_extra=_example({"inputs": example, "parameters": {}}),
    )
    async def answer(request: Request, name: str) -> Response:
        async def work(body: bytes) -> Response:
            bundle = front.bundle(name)
            asked, single = await asyncio.to_thread(lambda: predict.items_of(document_of(body), bundle))
            outcomes = await front.outcomes(bundle, asked)
            return await asyncio.to_thread(
                lambda: json_response(predict.answer_of(outcomes, asked[0].options, bundle, single=single))
            )

        return await answered(request, front, work, endpoint="predict")


def _add_pages(app: FastAPI, front: Front) -> None:
    """Add the metrics and the page of the endpoints."""

    @app.get("/metrics", summary="Metrics for Prometheus")
    async def metrics() -> Response:
        return Response(front.metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(page(app.openapi()))


def _example(body: Any) -> dict[str, Any]:
    """Return the part of an OpenAPI document that says what a body looks like."""
    return {"requestBody": {"required": True, "content": {"application/json": {"example": body}}}}


async def _said(request: Request, front: Front, document: Any) -> Response:
    """Return a document that depends on no body."""

    async def work(_: bytes) -> Response:
        return json_response(document)

    return await answered(request, front, work, endpoint="metadata")


async def _ready(request: Request, front: Front, names: Sequence[str]) -> Response:
    """Return whether all models called `names` are ready."""

    async def work(_: bytes) -> Response:
        bundles = [front.bundle(name) for name in names]
        found = await asyncio.gather(*(front.ready(bundle.name) for bundle in bundles))
        if late := [bundle.name for bundle, ready in zip(bundles, found, strict=True) if not ready]:
            raise Refusal(503, f"{', '.join(late)} did not answer the example.")
        return json_response({"ready": True})

    return await answered(request, front, work, endpoint="ready")


async def _begun(pieces: AsyncGenerator[Piece, None], seconds: float) -> AsyncGenerator[Piece, None]:
    """Return `pieces` after the first one is there, so that a refusal can still become the status of the response.

    The rest must come within `seconds`. Raises what the first piece raises.
    """
    try:
        first = await anext(pieces)
    except BaseException:
        await pieces.aclose()
        raise

    async def all_of_them() -> AsyncGenerator[Piece, None]:
        async with aclosing(pieces):
            try:
                async with asyncio.timeout(seconds):
                    yield first
                    async for piece in pieces:
                        yield piece
            except TimeoutError as error:
                raise Refusal(504, f"the text was not finished within {seconds} seconds.") from error

    return all_of_them()
