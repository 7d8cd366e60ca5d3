"""User errors of the pipeline, and all that the command line reports without a traceback."""

from typing import Final

from rpln_model.errors import RplnModelError
from rpln_runtime.errors import RplnError


class PlanError(RplnError):
    """An export that cannot be done as asked; found before any work."""

    exit_code = 2


class DestinationError(RplnError):
    """A place that cannot be written, is full, or holds something that is not a bundle."""

    exit_code = 9


class ValidationError(RplnError):
    """A graph that differs from eager torch by more than its recipe tolerates."""

    exit_code = 10


USER_ERRORS: Final = (RplnError, RplnModelError)


class NearMissError(ValidationError):
    """A graph that differs by so little more than tolerated that rounding may be why; `reason` says by how much."""

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class FormError(ValidationError):
    """Graphs that are right in standard operators and wrong in the form that `provider` runs, for a `reason`."""

    def __init__(self, message: str, *, provider: str, reason: str) -> None:
        super().__init__(message)
        self.provider = provider
        self.reason = reason
