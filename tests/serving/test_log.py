"""The log: requests that find no room are one line together, and every other record is a line of its own."""

import pytest

from rpln_runtime.serve.log import FULL, ID, LOG, LogHandler


def test_requests_that_find_no_room_are_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = LogHandler()
    monkeypatch.setattr(LOG, "handlers", [handler])
    queue = "the queue of 'writer'"
    for name, full in (("a", queue), ("b", None), ("c", "the server"), ("d", queue)):
        LOG.warning("a refusal", extra={FULL: full, ID: name})
    assert capsys.readouterr().err == "a refusal\n"
    handler.tell_refused()
    told = "2 requests, because the queue of 'writer' is full: a d; 1 requests, because the server is full: c"
    assert capsys.readouterr().err == f"refused in the last second: {told}\n"
    handler.tell_refused()
    assert not capsys.readouterr().err
