"""The settings of a server."""

from dataclasses import dataclass

from rpln_runtime.options import check_integer


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeSettings:
    """What a server is started with. Raises InputError for a value that is out of range.

    Attributes:
        provider: the provider that runs the graphs, as in `rpln_runtime.load`.
        threads: the most threads that one operator uses, as in `rpln_runtime.load`.
        batch_size: the most items that run together. None means 32, or 8 if the task generates text.
        replicas: how many processes have each bundle open.
        queue: the most items that wait for a bundle. Requests with more are refused at once.
        items: the most items of a request.
        timeout: how many seconds a request may take.
        body_bytes: the most bytes of the body of a request.
        text_bytes: the most bytes of the texts and options of an item, which are counted before anything reads them.
    """

    provider: str | None = None
    threads: int | None = None
    batch_size: int | None = None
    replicas: int = 1
    queue: int = 1024
    items: int = 256
    timeout: int = 30
    body_bytes: int = 1 << 22
    text_bytes: int = 1 << 16

    def __post_init__(self) -> None:
        for name in ("replicas", "queue", "items", "timeout", "body_bytes", "text_bytes"):
            check_integer(name, getattr(self, name), minimum=1)
        for name in ("threads", "batch_size"):
            if getattr(self, name) is not None:
                check_integer(name, getattr(self, name), minimum=1)
