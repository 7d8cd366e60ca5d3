"""The exporter: the command line, and the pipeline that turns a checkpoint into a proven bundle."""

from rpln_export._version import __version__

__all__ = ["__version__"]
