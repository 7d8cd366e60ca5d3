"""A server of bundles over HTTP: `run_server` starts it here, and `application` is what `serve deploy` runs on Ray."""

from rpln_runtime.serve.bundles import bundles_from_arguments
from rpln_runtime.serve.server import run_server
from rpln_runtime.serve.settings import ServeSettings

__all__ = ["ServeSettings", "bundles_from_arguments", "run_server"]
