"""The log of a server: lines on stderr, of which one a second at most is about requests that find no room."""

import logging
import threading
from collections import Counter
from typing import Final

LOG: Final = logging.getLogger("rpln.serve")
FULL: Final = "full"
"""The attribute of a record, given as `extra`, that names what had no room for a request, such as a queue."""
_SECONDS: Final = 1.0


class LogHandler(logging.StreamHandler):  # type: ignore[type-arg]  # it is generic for type checkers alone
    """Writes records to stderr, and counts those of requests that found no room, which are one line together."""

    def __init__(self) -> None:
        super().__init__()
        self._refused: Counter[str] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, or count it. The lock of the handler is held."""
        full = getattr(record, FULL, None)
        if full is None:
            super().emit(record)
            return
        if not self._refused:
            timer = threading.Timer(_SECONDS, self.tell_refused)
            timer.daemon = True
            timer.start()
        self._refused[full] += 1

    def tell_refused(self) -> None:
        """Write how many requests were refused since the last such line, if any were."""
        assert self.lock is not None
        with self.lock:
            refused, self._refused = self._refused, Counter()
        if refused:
            counts = "; ".join(f"{number} requests, because {full} is full" for full, number in sorted(refused.items()))
            LOG.warning("refused in the last second: %s", counts)


def log_to_stderr() -> LogHandler:
    """Write the log of this process to stderr, and return what writes it."""
    handler = LogHandler()
    logging.basicConfig(handlers=[handler], format="%(asctime)s %(name)s %(levelname)s %(message)s")
    LOG.setLevel(logging.INFO)
    return handler
