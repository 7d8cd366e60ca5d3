"""Model repositories for Triton Inference Server: `write_repository` makes one of a bundle."""

from rpln_runtime.triton.errors import RepositoryDestinationError, RepositoryError
from rpln_runtime.triton.writer import write_repository

__all__ = ["RepositoryDestinationError", "RepositoryError", "write_repository"]
