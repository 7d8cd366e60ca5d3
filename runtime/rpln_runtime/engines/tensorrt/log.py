"""NVIDIA's log, kept: its errors are what a refusal quotes, a builder's account of an engine is what is read back."""

import sys
from typing import Any, Final

NOISE: Final = "catchCudaError"
"""Said after any other error on a machine without a driver."""
ERRORS: Final = frozenset({"ERROR", "INTERNAL_ERROR"})


def make_log(trt: Any, *, errors_only: bool = False, echo: bool = False) -> Any:
    """A logger for the module `trt`, of a class of that module.

    `messages` are the severities and texts that it was told, of `errors_only` if so asked; `text` is all of it and
    `errors` what went wrong. `echo` repeats it on stderr.
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
