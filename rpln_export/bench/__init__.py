"""Measuring bundles: how long they take by batch, length, provider and threads, side by side with eager torch."""

from rpln_export.bench.measuring import measure
from rpln_export.bench.report import BenchReport

__all__ = ["BenchReport", "measure"]
