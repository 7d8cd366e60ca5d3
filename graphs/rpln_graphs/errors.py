"""Errors of tracing, rewriting, checking and compiling a graph.

RplnError
  GraphError       exit code 8
    PassError
  EngineError      exit code 11
"""

from rpln_runtime.errors import RplnError


class GraphError(RplnError):
    """The graph cannot be made as the user asked, or breaks ONNX's specification."""

    exit_code = 8


class PassError(GraphError):
    """A pass changed fewer or more places of the graph than its formula says, or cannot change it at all."""


class EngineError(RplnError):
    """The TensorRT engine cannot be built, or is not what was asked for."""

    exit_code = 11
