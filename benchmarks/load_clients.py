"""Clients of a server that speaks the Open Inference Protocol: over HTTP, written by hand, and over gRPC.

Both run in an event loop, so that thousands of requests can be open at a time. The HTTP client asks any such server;
gRPC needs the extra `triton`.
"""

import asyncio
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

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
            return Reply(str(status), None, content.decode(errors="replace").strip('{}"'))
        outputs = {output["name"]: output["data"] for output in json.loads(content)["outputs"]}
        return Reply(OK, tuple(tuple(outputs[name]) for name in ANSWER))

    async def post(self, body: bytes, path: str | None = None, headers: Sequence[str] = ()) -> tuple[int, bytes]:
        """Post `body` and return the status and the body of the answer. Raises OSError where the connection ends."""
        head = [f"POST {path or self._path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *headers]
        reader, writer = self._idle.pop() if self._idle else await asyncio.open_connection(self._host, int(self._port))
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

    async def close(self) -> None:
        """See Client."""
        for _, writer in self._idle:
            writer.close()
        self._idle.clear()


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
        import grpc.aio
        from tritonclient.grpc import service_pb2, service_pb2_grpc

        self._error = grpc.aio.AioRpcError
        self._channel = grpc.aio.insecure_channel(address)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._model, self._make = model, service_pb2.ModelInferRequest

    async def ask(self, text: str, *, timeout_us: int = 0) -> Reply:
        """See Client."""
        content = text.encode()
        request = self._make(
            model_name=self._model,
            inputs=[{"name": "text", "datatype": "BYTES", "shape": [1, 1]}],
            outputs=[{"name": name} for name in ANSWER],
            raw_input_contents=[struct.pack("<I", len(content)) + content],
        )
        if timeout_us:
            request.parameters["timeout"].int64_param = timeout_us
        try:
            response = await self._stub.ModelInfer(request)
        except self._error as error:
            return Reply(error.code().name, None, error.details() or "")
        raw = dict(zip((output.name for output in response.outputs), response.raw_output_contents, strict=True))
        ends = (struct.unpack(f"<{len(raw[name]) // 8}q", raw[name]) for name in ANSWER[1:])
        return Reply(OK, (_texts(raw[ANSWER[0]]), *ends))

    async def close(self) -> None:
        """See Client."""
        await self._channel.close()


def _texts(raw: bytes) -> tuple[str, ...]:
    texts, place = [], 0
    while place < len(raw):
        (size,) = struct.unpack_from("<I", raw, place)
        texts.append(raw[place + 4 : place + 4 + size].decode())
        place += 4 + size
    return tuple(texts)


CLIENTS: Final[dict[str, type[HttpClient] | type[GrpcClient]]] = {"http": HttpClient, "grpc": GrpcClient}
"""The clients, by the name of their protocol."""
