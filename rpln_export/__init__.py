"""The command line of rpln-export and the pipeline behind it."""

from rpln_export._version import __version__

__all__ = ["__version__"]
