"""Clients of a server that speaks the Open Inference Protocol: over HTTP, written by hand, and over gRPC.

Both run in an event loop, so that thousands of requests can be open at a time.
"""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
import tritonclient.grpc.aio

ANSWER: Final = ("label", "start", "end")
"""The outputs that are compared. Scores are not, because their last digits depend on the batch."""

OK: Final = "OK"


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back: OK with the answer, or the protocol's name of an error, such as 503 or UNAVAILABLE."""

    status: str
    answer: Any
    message: str = ""


class Client(Protocol):
    """Asks one model."""

    async def ask(self, text: str, *, timeout_us: int = 0) -> Reply:
        """Ask for the labels of a text. A `timeout_us` of 0 leaves the timeout to the server."""

    async def close(self) -> None:
        """Close the connections."""


class HttpClient:
    """Keeps as many connections open as there are requests at a time."""

    def __init__(self, address: str, model: str) -> None:
        self._host, _, self._port = address.rpartition(":")
        self._path = f"/v2/models/{model}/infer"
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(self, text: str, *, timeout_us: int = 0) -> Reply:
        """See Client."""
        document: dict[str, Any] = {
            "inputs": [{"name": "text", "datatype": "BYTES", "shape": [1, 1], "data": [text]}],
            "outputs": [{"name": name} for name in ANSWER],
        }
        if timeout_us:
            document["parameters"] = {"timeout": timeout_us}
        status, content = await self.post(json.dumps(document).encode())
        if status != 200:
            return Reply(str(status), None, _message(content))
        outputs = {output["name"]: output["data"] for output in json.loads(content)["outputs"]}
        return Reply(OK, tuple(tuple(outputs[name]) for name in ANSWER))

    async def post(self, body: bytes, path: str | None = None, headers: Sequence[str] = ()) -> tuple[int, bytes]:
        """Post `body` and return the status and the body of the answer. Raises OSError where the connection ends."""
        head = [f"POST {path or self._path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *headers]
        reader, writer = await self._connection()
        try:
            writer.write("\r\n".join([*head, "", ""]).encode() + body)
            status, content, stays = await _answer(reader)
        except (asyncio.IncompleteReadError, ValueError, IndexError) as error:
            writer.close()
            raise ConnectionError("the server closed the connection without an answer") from error
        except BaseException:
            writer.close()
            raise
        if stays:
            self._idle.append((reader, writer))
        else:
            writer.close()
        return status, content

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Return an idle connection that the server has not closed, or a new one."""
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof():
                return reader, writer
            writer.close()
        return await asyncio.open_connection(self._host, int(self._port))

    async def close(self) -> None:
        """See Client."""
        for _, writer in self._idle:
            writer.close()
        self._idle.clear()


def _message(content: bytes) -> str:
    """Return the sentence of an error, or the whole body where it is no object with one."""
    try:
        return str(json.loads(content)["error"])
    except (ValueError, KeyError, TypeError):
        return content.decode(errors="replace")


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bytes, bool]:
    """Read a response: its status, its body, and whether the connection stays open."""
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower().split("\r\n")
    headers = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    content = b""
    if headers.get("transfer-encoding") == "chunked":
        while size := int(await reader.readline(), 16):
            content += (await reader.readexactly(size + 2))[:-2]
        await reader.readline()
    else:
        content = await reader.readexactly(int(headers.get("content-length", 0)))
    return int(lines[0].split()[1]), content, headers.get("connection") != "close"


class GrpcClient:
    """Has one channel for all requests."""

    def __init__(self, address: str, model: str) -> None:
        self._client = tritonclient.grpc.aio.InferenceServerClient(address)
        self._model = model
        self._outputs = [tritonclient.grpc.InferRequestedOutput(name) for name in ANSWER]

    async def ask(self, text: str, *, timeout_us: int = 0) -> Reply:
        """See Client."""
        tensor = tritonclient.grpc.InferInput("text", [1, 1], "BYTES")
        tensor.set_data_from_numpy(np.array([[text.encode()]], np.object_))
        try:
            result = await self._client.infer(self._model, [tensor], outputs=self._outputs, timeout=timeout_us or None)
        except tritonclient.grpc.InferenceServerException as error:
            return Reply(error.status().removeprefix("StatusCode."), None, error.message())
        labels, *ends = (result.as_numpy(name)[0].tolist() for name in ANSWER)
        return Reply(OK, (tuple(label.decode() for label in labels), *map(tuple, ends)))

    async def close(self) -> None:
        """See Client."""
        await self._client.close()


CLIENTS: Final[dict[str, type[HttpClient] | type[GrpcClient]]] = {"http": HttpClient, "grpc": GrpcClient}
"""The clients, by the name of their protocol."""
