"""The exception tree of user errors; each class carries the exit code that the command line returns for it."""


class RplnError(Exception):
    """Something the user can put right. The message says what happened, what was expected and what to do next."""

    exit_code = 1


class InputError(RplnError):
    """An input tensor or text that the exported model cannot take."""

    exit_code = 3


class ManifestError(RplnError):
    """A bundle that is incomplete, altered, or written by an incompatible version."""

    exit_code = 4


class ProviderError(RplnError):
    """An execution provider was asked for and is not what would run."""

    exit_code = 5


class MissingExtraError(RplnError):
    """An optional dependency is not installed; the message names the exact pip command."""

    exit_code = 6
