"""Corpora: JSON lines in, answers out in the same order, on this machine or a Ray cluster; goes on after a kill."""

from rpln_runtime.corpus.output import OutputError
from rpln_runtime.corpus.progress import Progress
from rpln_runtime.corpus.run import WINDOW, run_corpus

__all__ = ["WINDOW", "OutputError", "Progress", "run_corpus"]
