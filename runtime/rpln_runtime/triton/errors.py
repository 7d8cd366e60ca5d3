"""What can be wrong with a model repository."""

from rpln_runtime.errors import RplnError


class RepositoryError(RplnError):
    """A model repository that Triton would refuse, or accept and serve wrongly."""

    exit_code = 4


class RepositoryDestinationError(RplnError):
    """A place where no repository can be written."""

    exit_code = 9
