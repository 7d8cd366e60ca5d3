"""The application that `serve deploy` and KubeRay run on a cluster: the same endpoints behind Ray Serve's own proxies.

docs/serving.md shows the configuration.
"""

from collections.abc import Mapping
from typing import Any

from rpln_runtime.serve.bundles import bundles_from_arguments
from rpln_runtime.serve.log import log_to_stderr
from rpln_runtime.serve.replicas import deployment, import_serve
from rpln_runtime.serve.settings import ServeSettings


def application(arguments: Mapping[str, Any]) -> Any:
    """Return the application. `arguments` are `bundles`, a list of FOLDER or NAME=FOLDER, and ServeSettings.

    Every machine of the cluster must see the folders at the same paths.
    """
    serve = import_serve()
    given = dict(arguments)
    folders = list(given.pop("bundles", ()))
    settings = ServeSettings(**given)
    models = [deployment(bundle, settings) for bundle in bundles_from_arguments(folders)]

    def front() -> Any:
        return _front(folders, settings)

    # The front has the queues. It is asked for many requests at a time, of which most wait.
    options = {"max_ongoing_requests": 2 * settings.queue, "graceful_shutdown_timeout_s": settings.timeout}
    return serve.deployment(serve.ingress(front)()).options(name="front", **options).bind(*models)


def _front(folders: list[str], settings: ServeSettings) -> Any:
    """Return the ASGI application, in the replica that runs it."""
    from rpln_runtime.serve.app import make_app
    from rpln_runtime.serve.front import Front

    serve = import_serve()
    log_to_stderr()
    bundles = bundles_from_arguments(folders)
    own = serve.get_replica_context().app_name
    handles = {bundle.name: serve.get_deployment_handle(bundle.name, app_name=own) for bundle in bundles}
    return make_app(Front(bundles, handles, settings, lanes=settings.replicas))
