"""An exchange: one request and its answer or refusal, whatever its protocol is."""

import asyncio
import json
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, TypeAlias

import numpy as np
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from rpln_runtime.documents import DocumentError, document_from_bytes
from rpln_runtime.errors import InputError
from rpln_runtime.limits import OTHER
from rpln_runtime.serve.front import Front
from rpln_runtime.serve.log import FULL, ID, LOG
from rpln_runtime.serve.openai import error_body
from rpln_runtime.serve.refusals import RETRY_SECONDS, Refusal, outcome_of
from rpln_runtime.serve.settings import ServeSettings

Work: TypeAlias = Callable[[bytes], Awaitable[Response]]
"""A function from the body of a request to its answer."""

GONE: Final = 499
"""The status, in the log and the metrics, of a request whose client has left."""
_CONTROL: Final = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\u2028\\u2029]")
_ID: Final = re.compile(r"[\w.:-]{1,128}", re.ASCII)
_DISCARDED: Final = 16
"""How many times the limit of a body is read and thrown away, so that the client gets to see its refusal."""


def json_response(document: Any) -> Response:
    """Return a response with a document, in which arrays become lists."""
    return Response(json_text(document).encode(), media_type="application/json")


def json_text(document: Any) -> str:
    """Return the JSON of a document, in which arrays become lists.

    Between two rows of an array, other threads may run.
    """
    return json.dumps(document, ensure_ascii=False, default=_list_from_array, separators=(",", ":"))


def _list_from_array(array: np.ndarray) -> list[Any]:
    return list(array) if array.ndim > 1 else array.tolist()


def document_of(body: bytes) -> dict[str, Any]:
    """Return the JSON object in a body. Raises Refusal if there is none."""
    try:
        document = document_from_bytes(body, OTHER)
    except DocumentError as error:
        raise Refusal(400, f"the body is not JSON ({error}): expected an object.") from error
    if not isinstance(document, dict):
        raise Refusal(400, f"the body is a {type(document).__name__}, expected a JSON object.")
    return document


async def answered(request: Request, front: Front, work: Work, *, endpoint: str) -> Response:
    """Return what `work` makes of the body of `request`, or the refusal that it or a limit of the server raises.

    A refusal is a line in the log, with the id of the request. When the client leaves, its work is cancelled.
    """
    start = time.monotonic()
    name = _request_id(request)
    front.requests += 1
    try:
        # Of a server that has enough to do, health and metrics can still be asked.
        if request.method == "POST" and front.requests > front.most_requests:
            sentence = f"the server has {front.most_requests} requests at a time at most: try again later."
            raise Refusal(503, sentence, full="the server")
        body = await _body(request, front.settings)
        response = await _with_client(request, _in_time(work(body), front.settings.timeout))
    except Refusal as refusal:
        response = _refused(request, refusal)
        log_refusal(request, refusal)
    except ClientDisconnect:
        response = Response(status_code=GONE)
        _log(request, GONE, "the client has left")
    except Exception as error:  # noqa: BLE001  # the client gets a status, and the server goes on
        failure = outcome_of(error)
        response = _refused(request, Refusal(500, failure.sentence))
        _log(request, 500, failure.log)
    finally:
        front.requests -= 1
    response.headers["x-request-id"] = name
    front.metrics.request(endpoint, response.status_code, time.monotonic() - start)
    return response


def log_refusal(request: Request, refusal: Refusal) -> None:
    """Write a refusal to the log, with the id of the request."""
    _log(request, refusal.status, f"{refusal}{refusal.log}", full=refusal.full)


def _log(request: Request, status: int, text: str, *, full: str | None = None) -> None:
    path = request.scope["path"]
    name = _request_id(request)
    line = ("%s %s %s: %s", name, _in_a_line(path), status, _in_a_line(text))
    LOG.warning(*line, extra={FULL: full, ID: name})


def _in_a_line(text: str) -> str:
    """Return `text` without line breaks and other control characters, which would look like lines of the log."""
    return _CONTROL.sub(lambda found: repr(found[0])[1:-1], text)


async def _body(request: Request, settings: ServeSettings) -> bytes:
    """Return the body. Raises Refusal if it is too large or too slow, or compressed."""
    coding = request.headers.get("content-encoding", "identity")
    most = settings.body_bytes
    kept, size = bytearray(), 0
    try:
        async with asyncio.timeout(settings.timeout):
            async for chunk in request.stream():
                size += len(chunk)
                if size <= most:
                    kept += chunk
                elif size > _DISCARDED * most:
                    break
    except TimeoutError as error:
        raise Refusal(408, f"the body did not arrive within {settings.timeout} seconds.") from error
    if size > most:
        raise Refusal(413, f"the body has more than {most:,} bytes: send less at a time.")
    if coding != "identity":
        raise Refusal(415, f"the body has the content-encoding {coding!r}: send it as it is.")
    return bytes(kept)


async def _in_time(work: Awaitable[Response], seconds: float) -> Response:
    """Return what `work` returns. Raises Refusal if it takes too long, and for an InputError."""
    try:
        async with asyncio.timeout(seconds):
            return await work
    except InputError as error:
        raise Refusal(400, str(error)) from error
    except TimeoutError as error:
        raise Refusal(
            504, f"there was no answer in time: within {seconds} seconds, or the timeout of the request."
        ) from error


async def _with_client(request: Request, work: Coroutine[Any, Any, Response]) -> Response:
    """Return what `work` returns. If the client leaves, cancel it and raise ClientDisconnect."""
    working, leaving = asyncio.create_task(work), asyncio.create_task(_left(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()


async def _left(request: Request) -> None:
    """Return when the client has left."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _refused(request: Request, refusal: Refusal) -> Response:
    """Return a refusal as the protocol of the path has it: OpenAI's, or the Open Inference Protocol's."""
    of_openai = f"{request.scope['path']}/".startswith("/v1/")
    response = json_response(error_body(refusal) if of_openai else {"error": str(refusal)})
    response.status_code = refusal.status
    if refusal.status in {429, 503}:
        response.headers["retry-after"] = str(RETRY_SECONDS)
    return response


def _request_id(request: Request) -> str:
    """Return the id that the client gave the request, or a new one."""
    if "rpln_id" not in request.scope:
        given = request.headers.get("x-request-id", "")
        request.scope["rpln_id"] = given if _ID.fullmatch(given) else uuid.uuid4().hex
    return str(request.scope["rpln_id"])
