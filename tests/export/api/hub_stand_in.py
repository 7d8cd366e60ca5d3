"""A small server that answers as the Hugging Face hub does when a model is uploaded, and keeps what it is given."""

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

TOKEN = "hf_of-the-test"


@dataclass
class Hub:
    """What the server was given: repositories with their settings, branches, and the files and message of a commit."""

    repositories: dict[str, dict[str, Any]] = field(default_factory=dict)
    branches: list[str] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    header: dict[str, Any] = field(default_factory=dict)
    committed_to: str = ""
    endpoint: str = ""

    def answer(self, path: str, body: bytes) -> dict[str, Any]:
        """Return the answer to a POST of `body` to `path`."""
        parts = path.removeprefix("/api/").split("/")
        if parts == ["repos", "create"]:
            wanted = json.loads(body)
            name = f"{wanted['organization']}/{wanted['name']}"
            self.repositories[name] = wanted
            return {"url": f"{self.endpoint}/{name}", "id": name}
        if parts == ["validate-yaml"]:
            return {"errors": [], "warnings": []}
        kind, revision = parts[3:]
        if kind == "branch":
            self.branches.append(revision)
            return {}
        if kind == "preupload":
            asked = json.loads(body)["files"]
            return {"files": [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in asked]}
        assert kind == "commit", path
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "header":
                self.header = line["value"]
            else:
                self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        self.committed_to = revision
        return {"commitUrl": f"{self.endpoint}/{parts[1]}/{parts[2]}/commit/{'a' * 40}", "commitOid": "a" * 40}


@contextmanager
def running_hub() -> Iterator[Hub]:
    """Yield a hub whose server runs within the block."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(200)
            self.end_headers()

        def do_POST(self) -> None:
            body = self._body()
            allowed = self.headers["Authorization"] == f"Bearer {TOKEN}"
            answer = hub.answer(self.path, body) if allowed else {"error": "Invalid username or password."}
            self.send_response(200 if allowed else 401)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def _body(self) -> bytes:
            """Return what was sent, at once or in chunks."""
            if "Content-Length" in self.headers:
                return self.rfile.read(int(self.headers["Content-Length"]))
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield hub
        server.shutdown()
        thread.join()
