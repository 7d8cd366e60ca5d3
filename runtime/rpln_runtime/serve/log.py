"""The log of a server: lines on stderr, of which one a second at most is about requests that full queues refuse."""

import logging
import threading
from collections import Counter
from typing import Final

LOG: Final = logging.getLogger("rpln.serve")
FULL_QUEUE: Final = "full_queue"
"""The attribute of a record, given as `extra`, that names the model whose queue was full."""
_SECONDS: Final = 1.0


class LogHandler(logging.StreamHandler):  # type: ignore[type-arg]  # it is generic for type checkers alone
    """Writes records to stderr, and counts those of full queues, which are one line together."""

    def __init__(self) -> None:
        super().__init__()
        self._refused: Counter[str] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, or count it. The lock of the handler is held."""
        model = getattr(record, FULL_QUEUE, None)
        if model is None:
            super().emit(record)
            return
        if not self._refused:
            timer = threading.Timer(_SECONDS, self.tell_refused)
            timer.daemon = True
            timer.start()
        self._refused[model] += 1

    def tell_refused(self) -> None:
        """Write how many requests were refused since the last such line, if any were."""
        assert self.lock is not None
        with self.lock:
            refused, self._refused = self._refused, Counter()
        if refused:
            counts = ", ".join(f"{number} requests for {model!r}" for model, number in sorted(refused.items()))
            LOG.warning("%s refused in the last second: the queue is full", counts)


def log_to_stderr() -> LogHandler:
    """Write the log of this process to stderr, and return what writes it."""
    handler = LogHandler()
    logging.basicConfig(handlers=[handler], format="%(asctime)s %(name)s %(levelname)s %(message)s")
    LOG.setLevel(logging.INFO)
    return handler
