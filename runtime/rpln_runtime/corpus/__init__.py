"""Answers a corpus: a file of JSON lines in, answers in the same order out, on one machine or on a Ray cluster.

A run that was killed goes on where it stopped.
"""

from rpln_runtime.corpus.output import OutputError
from rpln_runtime.corpus.progress import Progress
from rpln_runtime.corpus.run import WINDOW, run_corpus

__all__ = ["WINDOW", "OutputError", "Progress", "run_corpus"]
