"""The errors that a user can put right. Each class carries the exit code of the command line.

RplnError               1  the base of all of them
├── InputError          3  an array, a text or an option that cannot be taken
├── ManifestError       4  a bundle that is incomplete, altered, or of another version
├── ProviderError       5  a provider that cannot run the graph here
└── MissingExtraError   6  a Python package that is not installed

The folders `corpus` and `triton`, rpln_graphs and rpln_export add subclasses of their own.
"""


class RplnError(Exception):
    """The base of all errors that a user can put right.

    The message says what happened, what was expected and what to do next.

    Attributes:
        exit_code: the exit code of the command line.
    """

    exit_code = 1


class InputError(RplnError):
    """An array, a text or an option is not one that the function or the exported model takes."""

    exit_code = 3


class ManifestError(RplnError):
    """A bundle is incomplete, was altered, or was written by an incompatible version."""

    exit_code = 4


class ProviderError(RplnError):
    """The provider that was asked for cannot run the graph here. No other provider takes its place."""

    exit_code = 5


class MissingExtraError(RplnError):
    """A Python package that is needed is not installed. The message names the pip command that installs it."""

    exit_code = 6
