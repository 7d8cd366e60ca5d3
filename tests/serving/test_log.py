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
    expected = "1 requests for 'tagger', 2 requests for 'writer' refused in the last second: the queue is full\n"
    assert capsys.readouterr().err == expected
    handler.tell_refused()
    assert not capsys.readouterr().err
    assert logging.getLogger("rpln.serve") is LOG
