"""NVIDIA's log, kept: its errors are what a refusal quotes, and its account of the engine is what is read back."""

import sys
from typing import Any, Final, Protocol

NOISE: Final = "catchCudaError"
"""Said after any other error on a machine without a driver."""


class Log(Protocol):
    """What TensorRT is given as its logger."""

    messages: list[tuple[str, str]]
    """Severity and text."""

    @property
    def text(self) -> str:
        """All of it."""

    @property
    def errors(self) -> list[str]:
        """What went wrong."""


def make_log(trt: Any, *, echo: bool = False) -> Any:
    """A logger for the module `trt`, of a class of that module; `echo` repeats what it is told on stderr."""

    class _Log(trt.ILogger):  # type: ignore[misc] # a class of a module that is chosen when this runs
        def __init__(self) -> None:
            super().__init__()
            self.messages: list[tuple[str, str]] = []

        def log(self, severity: Any, message: str) -> None:
            name = str(severity).rpartition(".")[2]
            self.messages.append((name, message))
            if echo:
                print(f"[{trt.__name__} {name}] {message}", file=sys.stderr)  # noqa: T201 # as --verbose asks

        @property
        def text(self) -> str:
            return "\n".join(message for _, message in self.messages)

        @property
        def errors(self) -> list[str]:
            return [text for name, text in self.messages if name in {"ERROR", "INTERNAL_ERROR"} and NOISE not in text]

    return _Log()
