"""NVIDIA's log: its errors are quoted in our messages, and a builder's description of an engine is read from it."""

import sys
from typing import Any, Final

NOISE: Final = "catchCudaError"
"""Part of a message that follows every other error on a machine without a driver."""
ERRORS: Final = frozenset({"ERROR", "INTERNAL_ERROR"})
"""The severities of errors."""


def make_log(trt: Any, *, errors_only: bool = False, echo: bool = False) -> Any:
    """Return a logger for NVIDIA's module `trt`, of a class that derives from that module's.

    Its `messages` are pairs of severity and text; with `errors_only`, only those of errors. Its `text` is all texts,
    and its `errors` are the texts of errors. With `echo`, it also prints everything on stderr.
    """

    class _Log(trt.ILogger):  # type: ignore[misc] # a class of a module that is chosen when this runs
        def __init__(self) -> None:
            super().__init__()
            self.messages: list[tuple[str, str]] = []

        def log(self, severity: Any, message: str) -> None:
            name = severity.name
            if name in ERRORS or not errors_only:
                self.messages.append((name, message))
            if echo:
                sys.stderr.write(f"[{trt.__name__} {name}] {message}\n")

        @property
        def text(self) -> str:
            return "\n".join(message for _, message in self.messages)

        @property
        def errors(self) -> list[str]:
            return [text for name, text in self.messages if name in ERRORS and NOISE not in text]

    return _Log()
