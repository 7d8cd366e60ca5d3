"""A real Triton server of the nvidia-pytriton wheel on loopback, with stand-ins for the backends that the wheel lacks.

The stand-ins are backends in Python that serve the configurations as they are. All but the arithmetic of the model is
Triton's own.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BACKENDS = Path(__file__).with_name("backends")
_ABOUT_PYTHON = "import sys, sysconfig; print('%d.%d' % sys.version_info[:2], sysconfig.get_config_var('LIBDIR'))"


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A running server: where it listens, and what it prints."""

    http: str
    grpc: str
    log: Path
    process: subprocess.Popen[bytes]

    def post(self, path: str, body: Any = None, *, timeout: float = 30) -> tuple[int, Any]:
        """Post JSON, or bytes as they are. Return the status and the document of the answer."""
        data = body if isinstance(body, bytes) else json.dumps({} if body is None else body).encode()
        request = urllib.request.Request(f"http://{self.http}/v2/{path}", data=data, method="POST")
        return _opened(request, timeout)

    def get(self, path: str) -> tuple[int, Any]:
        """Return the status and the document at `path`."""
        return _opened(urllib.request.Request(f"http://{self.http}/v2/{path}"), 30)

    def statistics(self, model: str) -> dict[str, Any]:
        """Return what the server counted of a model."""
        status, document = self.get(f"models/{model}/stats")
        assert status == 200, document
        (stats,) = document["model_stats"]
        return dict(stats)


@contextlib.contextmanager
def triton_server(
    environment: Path, repositories: Sequence[Path], work: Path, arguments: Sequence[str] = ()
) -> Iterator[Server]:
    """Start a server of `environment` with all `repositories`, and stop it at the end."""
    home, version, variables = _installed(environment)
    backends = _copy_backends(home, version, work)
    http, grpc = free_port(), free_port()
    command = [
        str(home / "bin" / "tritonserver"),
        *(f"--model-repository={repository}" for repository in repositories),
        f"--backend-directory={backends}",
        f"--cache-directory={home / 'caches'}",
        "--model-config-name=cpu",
        *("--http-address=127.0.0.1", f"--http-port={http}", "--grpc-address=127.0.0.1", f"--grpc-port={grpc}"),
        *("--allow-metrics=false", "--exit-timeout-secs=3", "--exit-on-error=false", "--strict-readiness=false"),
        *arguments,
    ]
    log = work / "log"
    with log.open("wb") as stream:
        process = subprocess.Popen(command, env=variables, stdout=stream, stderr=subprocess.STDOUT)
    server = Server(http=f"127.0.0.1:{http}", grpc=f"127.0.0.1:{grpc}", log=log, process=process)
    try:
        _wait_until_live(server)
        yield server
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def server_help(environment: Path) -> str:
    """Return what the server of `environment` says of its flags."""
    home, _, variables = _installed(environment)
    done = subprocess.run([home / "bin" / "tritonserver", "--help"], env=variables, capture_output=True, check=False)
    return (done.stdout + done.stderr).decode()


def _installed(environment: Path) -> tuple[Path, str, dict[str, str]]:
    """Return the folder of the server, the version of its Python, and the variables that it runs with."""
    python = environment / "bin" / "python"
    version, libraries = subprocess.check_output([python, "-c", _ABOUT_PYTHON], text=True).split()
    site = environment / "lib" / f"python{version}" / "site-packages"
    home = site / "pytriton" / "tritonserver"
    (home / "bin" / "tritonserver").chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "PYTHONHOME"}}
    variables = kept | {
        "PATH": f"{environment / 'bin'}:{os.environ['PATH']}",
        "LD_LIBRARY_PATH": f"{site / 'nvidia_pytriton.libs'}:{libraries}",
    }
    return home, version, variables


def _copy_backends(home: Path, version: str, work: Path) -> Path:
    """Copy the wheel's python backend for this Python, and the stand-ins."""
    backends = work / "backends"
    (backends / "python").mkdir(parents=True)
    for name in ("libtriton_python.so", "triton_python_backend_utils.py"):
        shutil.copy(home / "backends" / "python" / name, backends / "python")
    stub = home / "python_backend_stubs" / version / "triton_python_backend_stub"
    Path(shutil.copy(stub, backends / "python")).chmod(0o755)
    for backend in BACKENDS.iterdir():
        shutil.copytree(backend, backends / backend.name)
    return backends


def _wait_until_live(server: Server) -> None:
    end = time.monotonic() + 120
    while server.process.poll() is None and time.monotonic() < end:
        with contextlib.suppress(OSError):
            if server.get("health/live")[0] == 200:
                return
        time.sleep(0.05)
    raise RuntimeError(
        f"the server did not come up:\n{server.log.read_text(encoding='utf-8', errors='replace')[-4000:]}"
    )


def _opened(request: urllib.request.Request, timeout: float) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:  # noqa: S310  # loopback
            status, content = response.status, response.read()
    except urllib.error.HTTPError as error:
        status, content = error.code, error.read()
    return status, json.loads(content) if content else None


def free_port() -> int:
    """Return a port of loopback that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
