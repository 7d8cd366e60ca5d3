"""The log of a server: lines on stderr, of which one a second at most is about requests that find no room."""

import logging
import threading
from collections import defaultdict
from typing import Final

LOG: Final = logging.getLogger("rpln.serve")
FULL: Final = "full"
"""The attribute of a record, given as `extra`, that names what had no room for a request, such as a queue."""
ID: Final = "request_id"
"""The attribute of such a record with the id of the request."""
_SECONDS: Final = 1.0


class LogHandler(logging.StreamHandler):  # type: ignore[type-arg]  # it is generic for type checkers alone
    """Writes records to stderr; those of requests that found no room become one line together, with their ids."""

    def __init__(self) -> None:
        super().__init__()
        self._refused: defaultdict[str, list[str]] = defaultdict(list)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, or keep the id of its request. The lock of the handler is held."""
        full = getattr(record, FULL, None)
        if full is None:
            super().emit(record)
            return
        if not self._refused:
            timer = threading.Timer(_SECONDS, self.tell_refused)
            timer.daemon = True
            timer.start()
        self._refused[full].append(getattr(record, ID))

    def tell_refused(self) -> None:
        """Write which requests were refused since the last such line, if any were."""
        assert self.lock is not None
        with self.lock:
            refused, self._refused = self._refused, defaultdict(list)
        if refused:
            rows = sorted(refused.items())
            told = "; ".join(f"{len(ids)} requests, because {full} is full: {' '.join(ids)}" for full, ids in rows)
            LOG.warning("refused in the last second: %s", told)


def log_to_stderr() -> LogHandler:
    """Write the log of this process to stderr, and return what writes it."""
    handler = LogHandler()
    logging.basicConfig(handlers=[handler], format="%(asctime)s %(name)s %(levelname)s %(message)s")
    LOG.setLevel(logging.INFO)
    return handler
