"""The log: what full queues refuse is one line, and every other record is a line of its own."""

import logging

import pytest

from rpln_runtime.serve.log import FULL_QUEUE, LOG, LogHandler


def test_requests_that_full_queues_refuse_are_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = LogHandler()
    monkeypatch.setattr(LOG, "handlers", [handler])
    for model in ("writer", None, "tagger", "writer"):
        LOG.warning("a refusal", extra={FULL_QUEUE: model})
    assert capsys.readouterr().err == "a refusal\n"
    handler.tell_refused()
    expected = "3 requests refused in the last second, because a queue is full: 1 for 'tagger', 2 for 'writer'\n"
    assert capsys.readouterr().err == expected
    handler.tell_refused()
    assert not capsys.readouterr().err
    assert logging.getLogger("rpln.serve") is LOG
