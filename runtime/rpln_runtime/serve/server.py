"""Runs a server on this machine: Ray Serve with the replicas, and the HTTP front in this process."""

import contextlib
import importlib
import logging
import os
import secrets
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from rpln_runtime.errors import InputError, RplnError
from rpln_runtime.options import check_integer
from rpln_runtime.serve.bundles import ServedBundle
from rpln_runtime.serve.log import LOG, log_to_stderr
from rpln_runtime.serve.replicas import deployment, gpus_for, import_serve
from rpln_runtime.serve.settings import ServeSettings
from rpln_runtime.serve.stopping import Stop, run_stoppable

if TYPE_CHECKING:
    from rpln_runtime.serve.front import Front

Deploy: TypeAlias = Callable[[ServedBundle, ServeSettings], Any]
START_SECONDS: Final = 600
"""How long the bundles may take to be open."""
_POLL_SECONDS: Final = 0.2
_IDLE_SECONDS: Final = 75
"""How long a connection stays open without a request: longer than proxies keep theirs, which would send into it."""
_STORE_BYTES: Final = 1 << 28
"""The shared memory that large answers go through."""
_LOG_BOUNDS: Final = {"RAY_ROTATION_MAX_BYTES": str(1 << 24), "RAY_ROTATION_BACKUP_COUNT": "1"}
"""The most bytes of each of Ray's logs, and how many older files it keeps of each."""


def run_server(
    bundles: Sequence[ServedBundle],
    settings: ServeSettings,
    *,
    host: str,
    port: int,
    on_ready: Callable[[str], None],
    deploy: Deploy = deployment,
) -> None:
    """Serve `bundles` until SIGTERM or Ctrl-C, and then finish the requests that are running.

    `on_ready` gets the address, such as "127.0.0.1:8000", as soon as all bundles answer. With the port 0, a free one is
    taken. `deploy` makes the deployment of a bundle, whose processes have the methods of `Replica`.

    Before anything is started, it raises InputError for an address that cannot be listened at, MissingExtraError
    without Ray Serve, and what `gpus_for` raises. It raises RplnError for a bundle that cannot be opened or is not open
    within START_SECONDS, and KeyboardInterrupt for a signal that comes before all are open.
    """

    def work(stop: Stop) -> None:
        gpus = gpus_for(bundles, settings)
        log = log_to_stderr()
        with _listening(host, port) as listener, _ray(bundles, settings, gpus, stop) as serve:
            from rpln_runtime.serve.front import Front

            handles = _opened(serve, bundles, [deploy(bundle, settings) for bundle in bundles], stop)
            _answer(listener, Front(bundles, handles, settings, lanes=settings.replicas), on_ready, stop)
        log.tell_refused()
        LOG.info("stopped")

    run_stoppable(work)


def _answer(listener: socket.socket, front: "Front", on_ready: Callable[[str], None], stop: Stop) -> None:
    """Answer requests until the server is to stop, and finish those that are running."""
    import uvicorn

    from rpln_runtime.serve.app import make_app

    seconds = front.settings.timeout
    config = uvicorn.Config(
        make_app(front),
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=_IDLE_SECONDS,
        timeout_graceful_shutdown=seconds,
    )
    server = uvicorn.Server(config)

    def end() -> None:
        stop.wait()
        running = len(server.server_state.tasks)
        LOG.info("stopping: %d requests are finished first, for %d seconds at most", running, seconds)
        server.should_exit = True

    host, port = listener.getsockname()[:2]
    on_ready(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    threading.Thread(target=end, daemon=True).start()
    server.run([listener])


@contextlib.contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    """Yield a socket that listens. Raises InputError for an address that is taken, or is not this machine's."""
    check_integer("port", port, minimum=0, maximum=65535)
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=1024)
    except (OSError, UnicodeError) as error:  # a name that cannot be one is a UnicodeError
        raise InputError(f"cannot listen at {host}:{port} ({error}): choose another --host or --port.") from error
    with listener:
        yield listener


@contextlib.contextmanager
def _ray(bundles: Sequence[ServedBundle], settings: ServeSettings, gpus: int, stop: Stop) -> Iterator[ModuleType]:
    """Start Ray on this machine alone, and yield ray.serve. At the end, stop it and remove its logs."""
    # Ray's processes listen at all addresses of the machine, and take calls only of those who know this token. Ray
    # reads it when it is imported, as it reads the bounds of its logs.
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    for name, value in _LOG_BOUNDS.items():
        os.environ.setdefault(name, value)
    serve, ray = import_serve(), importlib.import_module("ray")
    logging.getLogger("ray").setLevel(logging.ERROR)  # it warns that its handler of SIGTERM is not set
    logging.getLogger("ray.serve").setLevel(logging.ERROR)  # it warns of processes that ended, in a form of its own
    stop.check()
    context = ray.init(
        address="local",
        include_dashboard=False,
        logging_level="error",
        log_to_driver=False,
        num_cpus=max(os.cpu_count() or 1, len(bundles) * settings.replicas * (settings.threads or 1)),
        num_gpus=gpus,
        object_store_memory=_STORE_BYTES,
        _node_ip_address="127.0.0.1",
    )
    try:
        stop.check()
        serve.start(http_options={"location": "NoServer"}, logging_config={"log_level": "WARNING"})
        yield serve
    finally:
        ray.shutdown()  # and with it the replicas, whose requests are finished
        shutil.rmtree(context.address_info["session_dir"], ignore_errors=True)


def _opened(
    serve: ModuleType, bundles: Sequence[ServedBundle], deployments: Sequence[Any], stop: Stop
) -> dict[str, Any]:
    """Return the handles of the deployments, by the names of their bundles, when all of them answer.

    Raises RplnError for a bundle that cannot be opened, or is not open in time.
    """
    names = [bundle.name for bundle in bundles]
    logging_config = {"log_level": "WARNING", "enable_access_log": False}
    targets = [
        serve.RunTarget(target=target, name=name, route_prefix=None, logging_config=logging_config)
        for name, target in zip(names, deployments, strict=True)
    ]
    end = time.monotonic() + START_SECONDS
    handles = serve.run_many(targets, wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)
    while late := _not_open(serve.status().applications, names):
        if time.monotonic() > end:
            raise RplnError(
                f"{', '.join(late)}: not open within {START_SECONDS} seconds. Look whether the machine has enough "
                "memory and cores for so many processes, or start fewer of them (--replicas)."
            )
        if stop.wait(_POLL_SECONDS):
            raise KeyboardInterrupt
    return dict(zip(names, handles, strict=True))


def _not_open(applications: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """Return the bundles that are not open yet. Raises RplnError for one that cannot be opened."""
    for name, found in applications.items():
        if found.status == "DEPLOY_FAILED":
            (row,) = found.deployments.values()
            raise RplnError(f"the bundle {name!r} cannot be opened: {_reason(row.message)}")
    return [name for name in names if name not in applications or applications[name].status != "RUNNING"]


def _reason(message: str) -> str:
    """Return what follows the traceback in a message of Ray Serve, whose lines are indented."""
    lines = message.splitlines()
    last = max((place for place, line in enumerate(lines) if line.startswith(" ")), default=-1)
    return "\n".join(lines[last + 1 :])
