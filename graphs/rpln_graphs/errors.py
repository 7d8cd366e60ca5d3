"""User errors of tracing, rewriting, checking and compiling a graph."""

from rpln_runtime.errors import RplnError


class GraphError(RplnError):
    """A graph that could not be made as asked."""

    exit_code = 8


class PassError(GraphError):
    """A pass that changed fewer or more places than its formula says."""


class EngineError(RplnError):
    """A TensorRT engine that could not be built, or that is not what was asked for."""

    exit_code = 11
