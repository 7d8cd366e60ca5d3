"""The server that is put under load: one that runs somewhere, or one that is started here with several repositories."""

import contextlib
import json
import re
import urllib.request
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.load_clients import CLIENTS, Client
from rpln_runtime.triton import write_repository
from tests.triton.server import Server, free_port, triton_server

ENVIRONMENT: Final = Path(__file__).parents[1] / ".venv-triton"
WRITTEN, SINGLE, UNLIMITED = "as written", "with a single instance of each model", "without limits to the queues"
REPOSITORIES: Final = {WRITTEN: "tagger", SINGLE: "tagger_single", UNLIMITED: "tagger_unlimited"}
"""What the server that is started here serves, and the name of the model in each repository."""


@dataclass(kw_only=True)
class Target:
    """A server, and the models that are asked.

    Attributes:
        addresses: host and port, by protocol: "http", and "grpc" where the server has it.
        models: the models, by what the results call them. The first one is as `rpln triton` writes it.
        server: the server, if it was started here.
        metrics: the port of the metrics of the server that was started here.
    """

    addresses: Mapping[str, str]
    models: Mapping[str, str]
    server: Server | None = None
    metrics: int = 0

    @property
    def model(self) -> str:
        """The model that most parts ask."""
        return next(iter(self.models.values()))

    @property
    def protocol(self) -> str:
        """The protocol of parts that need one."""
        return "grpc" if "grpc" in self.addresses else "http"

    @contextlib.asynccontextmanager
    async def client(self, protocol: str, model: str) -> AsyncIterator[Client]:
        """Open a client, and close it at the end."""
        client = CLIENTS[protocol](self.addresses[protocol], model)
        try:
            yield client
        finally:
            await client.close()

    def named(self) -> str:
        """Return what the server calls itself, with its version."""
        with urllib.request.urlopen(f"http://{self.addresses['http']}/v2") as response:
            document = json.loads(response.read())
        return f"{document['name']} {document['version']}"

    def batches(self, model: str) -> tuple[int, int]:
        """Return how many rows the network of a model has computed in how many runs, or zeros for another server."""
        if self.server is None:
            return 0, 0
        counts = self.server.statistics(f"{model}_model")
        return int(counts["inference_count"]), int(counts["execution_count"])

    def pending(self, model: str) -> float:
        """Return how many requests wait in the longest queue of a model's steps, or nan for another server."""
        if self.server is None:
            return float("nan")
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics}/metrics") as response:
            text = response.read().decode()
        pattern = rf'^nv_inference_pending_request_count{{model="{model}_(?:tokenizer|model|answers)".*}} (\S+)$'
        return max(map(float, re.findall(pattern, text, re.MULTILINE)), default=0)

    def memory(self) -> float:
        """Return the MiB of memory of the server and its steps, or nan for another server. Shared pages count once."""
        if self.server is None:
            return float("nan")
        pid = self.server.process.pid
        return sum(map(_kilobytes, [pid, *_children(pid)])) / 1024


@contextlib.contextmanager
def started(bundle: Path, work: Path) -> Iterator[Target]:
    """Serve `bundle` with each of REPOSITORIES, and stop the server at the end."""
    repositories = work / "repositories"
    for name in REPOSITORIES.values():
        write_repository(bundle, repositories / name, name=name)
    for config in (repositories / REPOSITORIES[SINGLE]).rglob("*.pbtxt"):
        _replace(config, r"count: 2", "count: 1")
    for config in (repositories / REPOSITORIES[UNLIMITED]).rglob("*.pbtxt"):
        _replace(config, r"  default_queue_policy \{[^}]*\}\n", "")
        _replace(config, r"count: 2", "count: 1")
    port = free_port()
    flags = ["--allow-metrics=true", f"--metrics-port={port}", "--strict-readiness=true"]
    with triton_server(ENVIRONMENT, sorted(repositories.iterdir()), work, flags) as server:
        addresses = {"grpc": server.grpc, "http": server.http}
        yield Target(addresses=addresses, models=REPOSITORIES, server=server, metrics=port)


def _replace(file: Path, pattern: str, new: str) -> None:
    file.write_text(re.sub(pattern, new, file.read_text(encoding="utf-8")), encoding="utf-8")


def _children(pid: int) -> list[int]:
    """Return the processes that `pid` has started."""
    found: list[int] = []
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        found += map(int, file.read_text().split())
    return found


def _kilobytes(pid: int) -> int:
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8")
    return int(re.findall(r"^Pss: +(\d+) kB$", rollup, re.MULTILINE)[0])
