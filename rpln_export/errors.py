"""The errors of an export that a user can put right. Each class carries the exit code of the command line.

RplnError (rpln_runtime)
├── PlanError          2  an export that cannot be done as asked
├── ReportError        2  a report that cannot be read
├── HubError           1  a bundle that the hub does not take
├── DestinationError   9  a place that cannot be written
├── ValidationError   10  a graph that differs from eager torch
└── QuantizationError 12  a quantized graph that does not pass the gate
"""

from rpln_runtime.errors import RplnError


class PlanError(RplnError):
    """An export cannot be done as it was asked for. `rpln_export.plan` says what is found out before any work."""

    exit_code = 2


class ReportError(RplnError):
    """The report of a bundle is missing, damaged, or of another version of rpln-export."""

    exit_code = 2


class HubError(RplnError):
    """The Hugging Face hub cannot be reached, or does not take a bundle. The message holds its answer."""


class DestinationError(RplnError):
    """A destination cannot be written, is full, or holds something that is not a bundle."""

    exit_code = 9


class ValidationError(RplnError):
    """A graph differs from eager torch by more than its recipe tolerates, or gives values that are not finite."""

    exit_code = 10


class QuantizationError(RplnError):
    """No quantized form of a graph is as accurate as the user asked for."""

    exit_code = 12
