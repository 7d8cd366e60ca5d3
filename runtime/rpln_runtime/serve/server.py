"""Runs a server on this machine: Ray Serve with the replicas, and the HTTP front in this process."""

import contextlib
import importlib
import logging
import os
import secrets
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from rpln_runtime.command_line import interrupt_on_signals
from rpln_runtime.errors import InputError, RplnError
from rpln_runtime.serve.bundles import ServedBundle
from rpln_runtime.serve.replicas import deployment, import_serve
from rpln_runtime.serve.settings import ServeSettings

_STORE_BYTES: Final = 1 << 28
"""The shared memory that large answers go through."""


def run_server(
    bundles: Sequence[ServedBundle],
    settings: ServeSettings,
    *,
    host: str,
    port: int,
    on_ready: Callable[[str], None],
    deploy: Callable[[ServedBundle, ServeSettings], Any] = deployment,
) -> None:
    """Serve `bundles` until SIGTERM or Ctrl-C, and then finish the requests that are running.

    `on_ready` gets the address, such as "127.0.0.1:8000", as soon as all bundles answer. With the port 0, a free one is
    taken. `deploy` makes the deployment of a bundle, whose processes have the methods of `Replica`. Raises InputError
    for an address that cannot be listened at, MissingExtraError without Ray Serve, and RplnError for a bundle whose
    replicas do not start.
    """
    # Ray's processes listen at all addresses of the machine, and take calls only of those who know this token. Ray
    # reads it when it is imported.
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    import_serve()
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    with _listening(host, port) as listener, _replicas(bundles, settings, deploy) as handles:
        _serve(listener, bundles, handles, settings, on_ready)


def _serve(
    listener: socket.socket,
    bundles: Sequence[ServedBundle],
    handles: Mapping[str, Any],
    settings: ServeSettings,
    on_ready: Callable[[str], None],
) -> None:
    import uvicorn

    from rpln_runtime.serve.app import make_app
    from rpln_runtime.serve.front import Front

    front = Front(bundles, handles, settings, lanes=settings.replicas)
    config = uvicorn.Config(
        make_app(front),
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=settings.timeout,
    )
    host, port = listener.getsockname()[:2]
    on_ready(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    # At its end, uvicorn raises the signal that ended it once more.
    interrupt_on_signals()  # Ray has taken them
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run([listener])


@contextlib.contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    """Yield a socket that listens. Raises InputError for an address that is taken, or is not this machine's."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        raise InputError(f"cannot listen at {host}:{port} ({error}): choose another --host or --port.") from error
    with listener:
        yield listener


@contextlib.contextmanager
def _replicas(
    bundles: Sequence[ServedBundle],
    settings: ServeSettings,
    deploy: Callable[[ServedBundle, ServeSettings], Any],
) -> Iterator[dict[str, Any]]:
    """Start Ray on this machine alone and a deployment of each bundle. Yield their handles; stop them at the end."""
    serve, ray = import_serve(), importlib.import_module("ray")
    ray.init(
        address="local",
        include_dashboard=False,
        logging_level="error",
        log_to_driver=False,
        num_cpus=max(os.cpu_count() or 1, len(bundles) * settings.replicas * (settings.threads or 1)),
        object_store_memory=_STORE_BYTES,
        _node_ip_address="127.0.0.1",
    )
    try:
        serve.start(http_options={"location": "NoServer"}, logging_config={"log_level": "WARNING"})
        targets = [
            serve.RunTarget(
                target=deploy(bundle, settings),
                name=bundle.name,
                route_prefix=None,
                logging_config={"log_level": "WARNING", "enable_access_log": False},
            )
            for bundle in bundles
        ]
        try:
            handles = serve.run_many(targets)
        except RuntimeError as error:
            raise RplnError(f"the bundles were not opened ({error}). The lines above say why.") from error
        yield dict(zip((bundle.name for bundle in bundles), handles, strict=True))
    finally:
        ray.shutdown()  # and with it the replicas, whose requests are finished
