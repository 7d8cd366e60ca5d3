"""The log: requests that find no room are one line together, and every other record is a line of its own."""

import pytest

from rpln_runtime.serve.log import FULL, LOG, LogHandler


def test_requests_that_find_no_room_are_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = LogHandler()
    monkeypatch.setattr(LOG, "handlers", [handler])
    for full in ("the queue of 'writer'", None, "the server", "the queue of 'writer'"):
        LOG.warning("a refusal", extra={FULL: full})
    assert capsys.readouterr().err == "a refusal\n"
    handler.tell_refused()
    told = "2 requests, because the queue of 'writer' is full; 1 requests, because the server is full"
    assert capsys.readouterr().err == f"refused in the last second: {told}\n"
    handler.tell_refused()
    assert not capsys.readouterr().err
