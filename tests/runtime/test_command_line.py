"""What the commands share: options given as texts, and exit codes."""

import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from rpln_runtime import InputError
from rpln_runtime.command_line import exit_code_of, option_from_text


@pytest.mark.parametrize(
    ("text", "option"),
    [
        ("top_k=3", ("top_k", 3)),
        ("do_sample=True", ("do_sample", True)),
        ("do_sample=false", ("do_sample", False)),
        ("seed=None", ("seed", None)),
        ("aggregation_strategy=simple", ("aggregation_strategy", "simple")),
        ('targets=["a", "b"]', ("targets", ["a", "b"])),
        ("stop_strings=a=b", ("stop_strings", "a=b")),
    ],
)
def test_an_option_is_json_or_a_constant_of_python_or_a_text(text: str, option: tuple[str, Any]) -> None:
    assert option_from_text(text) == option


def test_what_is_no_option_is_refused() -> None:
    with pytest.raises(InputError, match=r"'top_k' .*NAME=VALUE"):
        option_from_text("top_k")


def raising(error: BaseException) -> Callable[[], None]:
    def command() -> None:
        raise error

    return command


def test_errors_and_interrupts_are_lines_and_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code_of(lambda: None, interrupted="Stopped.") == 0
    assert exit_code_of(raising(InputError("no text.")), interrupted="Stopped.") == InputError.exit_code
    assert exit_code_of(raising(KeyboardInterrupt()), interrupted="Stopped.") == 130
    assert capsys.readouterr() == ("", "Error: no text.\nStopped.\n")


INTERRUPTED = """
import signal, sys
from rpln_runtime.command_line import exit_code_of

sys.exit(exit_code_of(lambda: signal.raise_signal(int(sys.argv[1])), interrupted="Stopped."))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_an_interrupt(number: signal.Signals) -> None:
    command = [sys.executable, "-c", INTERRUPTED, str(int(number))]  # a signal that is lost ends that process, not ours
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "Stopped.\n")


def test_a_signal_that_is_ignored_as_under_nohup_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    assert exit_code_of(lambda: signal.raise_signal(signal.SIGHUP), interrupted="Stopped.") == 0


def test_a_bug_shows_itself() -> None:
    with pytest.raises(ZeroDivisionError):
        exit_code_of(raising(ZeroDivisionError()), interrupted="")
