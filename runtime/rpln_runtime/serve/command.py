"""What the commands `rpln serve` and `python -m rpln_runtime.serve` do."""

import json
import shlex
import sys
from collections.abc import Callable, Sequence

from rpln_runtime.serve.bundles import ServedBundle, bundles_from_arguments
from rpln_runtime.serve.server import run_server
from rpln_runtime.serve.settings import ServeSettings


def serve(
    folders: Sequence[str],
    settings: ServeSettings,
    *,
    host: str,
    port: int,
    on_ready: Callable[[], object] = lambda: None,
) -> None:
    """Serve the bundles that `folders` name, each as FOLDER or NAME=FOLDER, until SIGTERM or Ctrl-C.

    `on_ready` is called when all of them answer, before the address is printed.
    """
    bundles = bundles_from_arguments(folders)

    def start(address: str) -> None:
        on_ready()
        _print(opening(address, bundles))

    run_server(bundles, settings, host=host, port=port, on_ready=start)


def opening(address: str, bundles: Sequence[ServedBundle]) -> str:
    """Return what an operator needs to know at the start: the address, the models, and a request that works."""
    width = max(len(bundle.name) for bundle in bundles)
    first = bundles[0]
    body = shlex.quote(json.dumps({"inputs": first.example}, ensure_ascii=False))
    return "\n".join(
        [
            f"Serving at http://{address} (endpoints: /docs, metrics: /metrics)",
            *(f"  {bundle.name:{width}}  {bundle.task.name}" for bundle in bundles),
            "Ask it:",
            f"  curl http://{address}/predict/{first.name} -d {body}",
        ]
    )


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
