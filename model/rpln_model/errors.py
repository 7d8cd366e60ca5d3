"""The exception tree of this package; every class carries the exit code that a command line returns for it."""


class RplnModelError(Exception):
    """Something the user can put right. The message says what happened, what was expected and what to do next."""

    exit_code = 7


class ConfigError(RplnModelError, ValueError):
    """A configuration that describes no network of this architecture."""


class ModelInputError(RplnModelError, ValueError):
    """Arguments of a forward pass that contradict each other or the configuration."""


class CheckpointError(RplnModelError, RuntimeError):
    """Weights or a configuration that cannot be found, read, or put into the model."""
