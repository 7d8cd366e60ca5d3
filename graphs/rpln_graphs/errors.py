"""User errors of tracing, rewriting and checking a graph."""

from rpln_runtime.errors import RplnError


class GraphError(RplnError):
    """A graph that could not be made as asked."""

    exit_code = 8


class PassError(GraphError):
    """A pass that changed fewer or more places than its formula says."""
