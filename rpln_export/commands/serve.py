"""`rpln serve`: serve bundles over HTTP."""

from collections.abc import Sequence

import cloup

from rpln_export.commands.settings import HELP
from rpln_export.commands.table_option import TableOption, providers
from rpln_export.commands.user_errors import user_errors
from rpln_runtime.serve.settings import ServeSettings

_DEFAULT = ServeSettings()


@cloup.command("serve", context_settings=HELP, short_help="Serve bundles over HTTP.")
@cloup.argument("folders", nargs=-1, required=True, help="The bundles, each as FOLDER or NAME=FOLDER.")
@cloup.option("--host", default="127.0.0.1", show_default=True, help="The address to listen at.")
@cloup.option("--port", type=int, default=8000, show_default=True, help="The port; 0 takes a free one.")
@cloup.option(
    "--provider",
    cls=TableOption,
    rows=providers,
    help="The provider that runs the graphs: {rows}. [default: the one that the export found fastest]",
)
@cloup.option("--threads", type=int, help="The most threads that one operator uses.")
@cloup.option(
    "--batch-size", type=int, help="The most items that run together. [default: 32; 8 where text is generated]"
)
@cloup.option(
    "--replicas", type=int, default=_DEFAULT.replicas, show_default=True, help="How many processes open each bundle."
)
@cloup.option(
    "--queue", type=int, default=_DEFAULT.queue, show_default=True, help="The most items that wait for a bundle."
)
@cloup.option("--items", type=int, default=_DEFAULT.items, show_default=True, help="The most items of a request.")
@cloup.option(
    "--timeout", type=int, default=_DEFAULT.timeout, show_default=True, help="The most seconds that a request takes."
)
@cloup.option(
    "--body-bytes", type=int, default=_DEFAULT.body_bytes, show_default=True, help="The most bytes of a body."
)
@cloup.option(
    "--text-bytes",
    type=int,
    default=_DEFAULT.text_bytes,
    show_default=True,
    help="The most bytes of an item's texts and options.",
)
def serve_command(
    folders: Sequence[str],
    host: str,
    port: int,
    provider: str | None,
    threads: int | None,
    batch_size: int | None,
    replicas: int,
    queue: int,
    items: int,
    timeout: int,
    body_bytes: int,
    text_bytes: int,
) -> None:
    """Serve the bundles in FOLDERS over HTTP, until SIGTERM or Ctrl-C.

    The endpoints are those of the Open Inference Protocol, OpenAI's embeddings and completions, and /predict/NAME with
    the shapes of Hugging Face. The page /docs of the server lists them.

    \b
    rpln serve tagger-bundle
    rpln serve tagger=bundles/a writer=bundles/b --port 9000
    curl http://127.0.0.1:8000/predict/tagger-bundle -d '{"inputs": "A text."}'
    """
    with user_errors(interrupted="Stopped while it started."):
        from rpln_export.commands.show.progress import ProgressWatcher

        settings = ServeSettings(
            provider=provider,
            threads=threads,
            batch_size=batch_size,
            replicas=replicas,
            queue=queue,
            items=items,
            timeout=timeout,
            body_bytes=body_bytes,
            text_bytes=text_bytes,
        )
        with ProgressWatcher("starting") as watcher:
            from rpln_runtime.serve.command import serve

            serve(folders, settings, host=host, port=port, on_ready=watcher.close)
