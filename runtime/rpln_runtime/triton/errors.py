"""Errors about model repositories."""

from rpln_runtime.errors import RplnError


class RepositoryError(RplnError):
    """Raised for a model repository that Triton would refuse to load, or would load and serve wrongly."""

    exit_code = 4


class RepositoryDestinationError(RplnError):
    """Raised when a repository cannot be written to its destination."""

    exit_code = 9
