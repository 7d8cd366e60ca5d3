"""Stopping: the main thread notes signals, while the server starts and runs in another thread and ends in order."""

import contextlib
import math
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Final, NoReturn

from rpln_runtime.command_line import INTERRUPTED, handle_signals, interrupt_on_signals

_POLL_SECONDS: Final = 0.1
_STDERR: Final = 2
_HANGUP: Final = getattr(signal, "SIGHUP", None)  # Windows has none
_SHOWN_CURSOR: Final = b"\x1b[?25h"
"""Shows the cursor of a terminal again, which a bar of progress has hidden."""


class Stop:
    """Whether a server is to stop. The first signal says so; a second one ends the process at once."""

    def __init__(self) -> None:
        self._asked = False

    def note(self, number: int, _: object) -> None:
        """Handle a signal. A closed terminal may send SIGHUP twice, which counts as once."""
        if self._asked and number != _HANGUP:
            _end_at_once()
        self._asked = True  # no lock: the handler of a signal can be interrupted by another signal

    def wait(self, seconds: float = math.inf) -> bool:
        """Return whether the server is to stop, as soon as it is or after `seconds`."""
        end = time.monotonic() + seconds
        while not self._asked and time.monotonic() < end:
            time.sleep(_POLL_SECONDS)
        return self._asked

    def check(self) -> None:
        """Raise KeyboardInterrupt if the server is to stop."""
        if self._asked:
            raise KeyboardInterrupt


def _end_at_once() -> NoReturn:
    """End this process and all below it, of which some would take a minute to notice."""
    import psutil

    with contextlib.suppress(OSError):
        os.write(_STDERR, _SHOWN_CURSOR * os.isatty(_STDERR) + b"Ended at once by a second signal.\n")
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    os._exit(INTERRUPTED)


def run_stoppable(work: Callable[[Stop], None]) -> None:
    """Run `work`, which ends soon after its argument says so. Raises what it raises.

    A signal raises nothing in it, so that none is lost in code that raises something else, nor breaks in where a
    process was just started. It runs in another thread because Ray takes SIGTERM for itself in the main thread. That
    thread lives as long as Ray does: the kernel kills Ray's processes when the thread ends that started them.
    """
    stop = Stop()
    handle_signals(stop.note)
    try:
        with ThreadPoolExecutor(1) as thread:
            working = thread.submit(work, stop)
            while not wait([working], timeout=_POLL_SECONDS).done:
                handle_signals(stop.note)  # Ray has put its own before it, which prints the stack of the process
            working.result()
    finally:
        interrupt_on_signals()
