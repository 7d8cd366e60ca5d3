"""A real server in a process of its own, and clients that speak HTTP without its code."""

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

START_SECONDS = 180


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The response to a request."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def document(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A running server: its address, its log, and its process."""

    address: str
    opening: str
    log: Path
    process: subprocess.Popen[bytes]

    def ask(self, path: str, body: Any = None, *, method: str = "", headers: Mapping[str, str] | None = None) -> Answer:
        """Send a request, with JSON, or bytes as they are, in its body."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection = http.client.HTTPConnection(self.address, timeout=60)
        with contextlib.closing(connection):
            connection.request(method or ("GET" if data is None else "POST"), path, data, dict(headers or {}))
            response = connection.getresponse()
            return Answer(
                status=response.status,
                headers={name.lower(): value for name, value in response.getheaders()},
                body=response.read(),
            )

    def processes(self, name: str) -> list[int]:
        """Return the ids of the processes that have the bundle called `name` open."""
        return [
            number for number, title in descendants(self.process.pid) if title.startswith(f"ray::ServeReplica:{name}:")
        ]

    def text_of_log(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")


@contextlib.contextmanager
def running_server(arguments: Sequence[str], work: Path) -> Iterator[Server]:
    """Start a server with `arguments` on a free port, and stop it at the end."""
    log, out = work / "log", work / "out"
    command = [sys.executable, "-m", "rpln_runtime.serve", "--port", "0", "--provider", "cpu", "--threads", "1"]
    with log.open("wb") as errors, out.open("wb") as output:
        process = subprocess.Popen([*command, *arguments], stdout=output, stderr=errors, env={**os.environ})
    try:
        end = time.monotonic() + START_SECONDS
        while not (found := re.search(r"http://(\S+)[^$]*curl [^\n]*\n", out.read_text(encoding="utf-8"))):
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"the server did not come up:\n{log.read_text(encoding='utf-8')[-4000:]}")
            time.sleep(0.05)
        yield Server(address=found[1], opening=out.read_text(encoding="utf-8"), log=log, process=process)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until(true: Callable[[], bool]) -> None:
    """Return as soon as `true` is. Raises TimeoutError if it stays false for longer than a start may take."""
    end = time.monotonic() + START_SECONDS
    while not true():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.02)


def descendants(pid: int) -> Iterator[tuple[int, str]]:
    """Yield the ids and titles of the processes below `pid`."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                title = (entry / "cmdline").read_bytes().split(b"\0")[0].decode(errors="replace")
                parent = int((entry / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
                parents[int(entry.name)] = (parent, title)
    for number, (parent, title) in parents.items():
        above = parent
        while above in parents and above != pid:
            above = parents[above][0]
        if above == pid:
            yield number, title
