"""The version of this distribution. It stands nowhere else."""

__version__ = "0.1.0"
