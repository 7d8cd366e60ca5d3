"""The front of a server, with stand-ins for the processes behind it."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rpln_runtime.errors import InputError
from rpln_runtime.serve.bundles import ServedBundle, bundles_from_arguments
from rpln_runtime.serve.refusals import Outcome, Refusal
from rpln_runtime.serve.settings import ServeSettings
from rpln_runtime.serve.work import MOST_NUMBERS, check_answers, check_request
from rpln_runtime.triton.request import Asked
from tests.triton.networks import make_toy_bundle

pytestmark = pytest.mark.usefixtures("_extra")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles") / "tagger"
    folder.mkdir()
    make_toy_bundle(folder, "token-classification")
    return folder


@pytest.fixture
def bundle(folder: Path) -> ServedBundle:
    return bundles_from_arguments([str(folder)])[0]


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    # In a thread of its own: Playwright, which other tests use, leaves a loop running in this one.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(lambda: asyncio.run(work())).result()


def front(bundle: ServedBundle, **methods: Any) -> Any:
    from rpln_runtime.serve.front import Front

    handle = SimpleNamespace(**{name: SimpleNamespace(remote=method) for name, method in methods.items()})
    handle.options = lambda **_: handle
    return Front([bundle], {bundle.name: handle}, ServeSettings(), lanes=1)


def test_all_who_ask_whether_a_bundle_is_ready_share_one_example(bundle: ServedBundle) -> None:
    async def work() -> None:
        may, examples = asyncio.Event(), []

        async def check_health() -> None:
            examples.append("asked")
            await may.wait()

        served = front(bundle, check_health=check_health)
        leaves, *asking = [asyncio.create_task(served.ready("tagger")) for _ in range(50)]
        await asyncio.sleep(0)
        leaves.cancel()
        may.set()
        assert await asyncio.gather(*asking) == [True] * 49
        assert examples == ["asked"]
        assert await served.ready("tagger")
        assert examples == ["asked"] * 2

    run(work)


def test_a_process_that_ends_for_want_of_memory_has_its_items_tried_again(bundle: ServedBundle) -> None:
    from ray.exceptions import OutOfMemoryError

    async def work() -> None:
        async def answer(asked: Sequence[Asked]) -> list[Outcome]:
            if any(one.item == "large" for one in asked):
                raise OutOfMemoryError("out of memory")  # type: ignore[no-untyped-call]  # Ray has no types for it
            return [Outcome(answer=[one.item]) for one in asked]

        served = front(bundle, answer=answer)
        neighbour = asyncio.create_task(served.outcomes(bundle, [Asked("small", {})]))
        with pytest.raises(Refusal, match="while it ran this item alone") as refusal:
            await served.outcomes(bundle, [Asked("small", {}), Asked("large", {})])
        assert refusal.value.status == 503
        assert [outcome.answer for outcome in await neighbour] == [["small"]]

    run(work)


def test_a_process_that_ends_within_a_stream_is_noted(bundle: ServedBundle, caplog: pytest.LogCaptureFixture) -> None:
    from ray.exceptions import OutOfMemoryError

    class Stream:
        async def __aiter__(self) -> AsyncIterator[str]:
            yield "A piece"
            raise OutOfMemoryError("out of memory")  # type: ignore[no-untyped-call]  # Ray has no types for it

        def cancel(self) -> None:
            pass

    async def work() -> None:
        served = front(bundle, stream=lambda _: Stream())
        pieces = served.pieces(bundle, Asked("The", {}))
        assert await anext(pieces) == "A piece"
        with pytest.raises(Refusal, match="the process that wrote this text ended"):
            await anext(pieces)
        assert b'rpln_ended_processes_total{model="tagger"} 1.0' in served.metrics.text()

    run(work)
    assert "the process of 'tagger' ended (OutOfMemoryError); none is tried again" in caplog.text


def test_an_error_of_a_whole_batch_is_in_the_log(bundle: ServedBundle, caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        async def answer(asked: Sequence[Asked]) -> list[Outcome]:
            if len(asked) > 1:
                raise ValueError("too many")
            return [Outcome(answer=[one.item]) for one in asked]

        found = await front(bundle, answer=answer).outcomes(bundle, [Asked("one", {}), Asked("two", {})])
        assert [outcome.answer for outcome in found] == [["one"], ["two"]]

    run(work)
    assert "'tagger' failed at a batch of 2 items, which are tried again, each alone" in caplog.text
    assert "ValueError: too many" in caplog.text


def test_an_error_within_a_stream_is_one_of_the_server_and_has_a_log(bundle: ServedBundle) -> None:
    class Stream:
        async def __aiter__(self) -> AsyncIterator[str]:
            yield "A piece"
            raise ValueError("broken")

        def cancel(self) -> None:
            pass

    async def work() -> None:
        pieces = front(bundle, stream=lambda _: Stream()).pieces(bundle, Asked("The", {}))
        assert await anext(pieces) == "A piece"
        with pytest.raises(Refusal, match="ValueError") as refusal:
            await anext(pieces)
        assert refusal.value.status == 500
        assert "broken" in refusal.value.log

    run(work)


@pytest.mark.parametrize(("method", "path"), [("POST", "/v1/completions"), ("POST", "/predict/tagger"), ("GET", "/v2")])
def test_requests_beyond_a_number_are_refused_but_not_those_for_health(
    bundle: ServedBundle, method: str, path: str
) -> None:
    from starlette.requests import Request

    from rpln_runtime.serve.exchange import answered, json_response

    served = front(bundle)

    async def work(_: bytes) -> Any:
        return json_response("answered")

    async def ask(already: int) -> Any:
        served.requests = already
        messages: asyncio.Queue[Any] = asyncio.Queue()
        messages.put_nowait({"type": "http.request", "body": b"", "more_body": False})
        request = Request({"type": "http", "method": method, "path": path, "headers": []}, messages.get)
        response = await answered(request, served, work, endpoint="predict")
        assert served.requests == already
        return response

    async def test() -> None:
        assert (await ask(served.most_requests - 1)).status_code == 200
        response = await ask(served.most_requests)
        assert response.status_code == (503 if method == "POST" else 200)
        assert response.headers.get("retry-after") == ("1" if method == "POST" else None)
        assert (b'"type":"server_error"' in response.body) == path.startswith("/v1/")

    run(test)


def test_what_stands_between_words_counts_for_each_of_them(bundle: ServedBundle) -> None:
    asked = Asked(["a"] * 5000, {"is_split_into_words": True, "delimiter": "x" * 100})
    size = 5000 + 5000 * 100 + len(json.dumps(asked.options))
    with pytest.raises(Refusal, match=f"{size:,} bytes of text and options, expected at most 65,536") as refusal:
        check_request([asked], bundle, ServeSettings(), batch_size=8)
    assert refusal.value.status == 413


def test_answers_that_are_too_large_are_refused() -> None:
    half = np.broadcast_to(np.float32(0), (1, MOST_NUMBERS // 2))
    check_answers([half, half])
    with pytest.raises(Refusal, match="4,194,306 numbers, expected at most 4,194,304") as refusal:
        check_answers([half, half, [1, 2]])
    assert refusal.value.status == 413
    with pytest.raises(Refusal, match="6,291,456 numbers"):
        check_answers([half, [], []], padded=True)


@pytest.mark.parametrize(
    "values", [[], [0.5, 1.25, -2.0, 3.0, 4.0, 5.0, 6.0], [b"a", b"\xc3\xa9", b'"', b"", b"[", b"]", b","]]
)
def test_large_tensors_become_json_in_slices(monkeypatch: pytest.MonkeyPatch, values: list[Any]) -> None:
    from rpln_runtime.serve import open_inference

    monkeypatch.setattr(open_inference, "_SLICE", 3)
    array = np.array(values, np.object_ if bytes in map(type, values) else np.float32)
    found = json.loads(open_inference._values(array.reshape(1, -1)))
    assert found == [value.decode() if isinstance(value, bytes) else value for value in values]


def test_a_folder_gives_a_bundle_its_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    given = ["tagger", "tagger/", "./tagger//", f"{folder}/", "other=tagger/", "other=./tagger"]
    names = [bundles_from_arguments([argument])[0].name for argument in given]
    assert names == ["tagger"] * 4 + ["other"] * 2


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("=tagger", "'=tagger' has no name: expected FOLDER or NAME=FOLDER"),
        ("tagger=", "'tagger=' has no folder: expected FOLDER or NAME=FOLDER"),
        ("", "'' has no folder: expected FOLDER or NAME=FOLDER"),
        ("a/b=tagger", "the name 'a/b' .* NAME=tagger"),
    ],
)
def test_a_name_or_a_folder_that_is_empty_or_wrong_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, argument: str, says: str
) -> None:
    monkeypatch.chdir(folder.parent)
    with pytest.raises(InputError, match=says):
        bundles_from_arguments([argument])
