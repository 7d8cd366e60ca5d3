"""What is asked of the accuracy of quantized graphs, as far as it can be checked before torch is imported."""

from pathlib import Path

from rpln_export.errors import PlanError


def check_gate(*, min_agreement: float | None, data: Path | None, max_drop: float | None) -> None:
    """Raise PlanError for numbers that make no sense, and for a file of examples that is missing.

    The arguments are those of `gate_from_choices`.
    """
    if min_agreement is not None and not 0.0 <= min_agreement <= 1.0:
        raise PlanError(f"--min-agreement {min_agreement:g} is no share: give a number from 0 to 1, such as 0.995.")
    if max_drop is not None and data is None:
        raise PlanError(
            "--max-drop asks about a metric, which needs examples with right answers: name them with --eval."
        )
    if max_drop is not None and not max_drop >= 0.0:
        raise PlanError(f"--max-drop {max_drop:g} is no number of points: give one from 0 on, such as 0.3.")
    if data is not None and not data.is_file():
        raise PlanError(f"{data} is no file. --eval takes a file of examples with right answers, one on each line.")
