"""The exceptions of this package.

RplnModelError
  ConfigError
  ModelInputError
  CheckpointError
    CheckpointNotFoundError

`exit_code` is the exit code of a command that ends with the exception.
"""


class RplnModelError(Exception):
    """Base class of errors that the user can correct. Messages say what happened, what was expected and what to do."""

    exit_code = 7


class ConfigError(RplnModelError, ValueError):
    """Raised for a configuration that describes no network of this architecture."""


class ModelInputError(RplnModelError, ValueError):
    """Raised for arguments of a forward pass that contradict each other or the configuration."""


class CheckpointError(RplnModelError, RuntimeError):
    """Raised for weights or a configuration that cannot be found, read, written or put into the model."""


class CheckpointNotFoundError(CheckpointError):
    """Raised for a name that is neither a folder nor a model on the hub or in its cache."""

    exit_code = 2
