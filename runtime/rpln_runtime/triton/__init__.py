"""Model repositories for Triton Inference Server: `write_repository` writes one, `check_repository` checks one."""

from rpln_runtime.triton.checking import check_repository
from rpln_runtime.triton.errors import RepositoryDestinationError, RepositoryError
from rpln_runtime.triton.writer import write_repository

__all__ = ["RepositoryDestinationError", "RepositoryError", "check_repository", "write_repository"]
