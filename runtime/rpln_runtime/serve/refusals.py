"""Refusal: the error that a client gets, and Outcome: what a replica answers for one item."""

import traceback
from dataclasses import dataclass
from typing import Any, Final

from rpln_runtime.errors import InputError
from rpln_runtime.request_limits import cut_sentence

RETRY_SECONDS: Final = 1
"""When a client may come back that was refused with 503."""


class Refusal(Exception):  # noqa: N818  # it is an answer
    """A request that is not answered, with the status of HTTP and a sentence for the client.

    `log` is for the log. `full` names what has no room, such as a queue, if that is the reason.
    """

    def __init__(self, status: int, sentence: str, *, log: str = "", full: str | None = None) -> None:
        super().__init__(cut_sentence(sentence))
        self.status = status
        self.log = log
        self.full = full


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of an item.

    Attributes:
        answer: the answer of the pipeline, if the status is 200.
        read: how many tokens the item has.
        written: how many tokens each of its new texts has, if the task generates text.
        ended: whether each of its new texts ended by itself, and not at the most new tokens.
        status: the status of HTTP.
        sentence: why there is no answer.
        log: what the log gets besides, such as a traceback.
    """

    answer: Any = None
    read: int = 0
    written: tuple[int, ...] = ()
    ended: tuple[bool, ...] = ()
    status: int = 200
    sentence: str = ""
    log: str = ""

    def checked(self, where: str = "") -> "Outcome":
        """Return this outcome. Raises Refusal if it has no answer; `where` stands before its sentence."""
        if self.status != 200:
            raise Refusal(self.status, f"{where}{self.sentence}", log=self.log)
        return self


def outcome_of(error: Exception) -> Outcome:
    """Return the outcome of an item that raised `error`. An InputError is the client's, and any other the server's."""
    if isinstance(error, InputError):
        return Outcome(status=400, sentence=str(error))
    sentence = f"the server failed ({type(error).__name__}); its log has the reason."
    return Outcome(status=500, sentence=sentence, log="\n" + "".join(traceback.format_exception(error)))
