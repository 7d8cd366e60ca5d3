"""The steps without a server: what they refuse before anything runs, whose fault an error is, and what is sent once."""

import importlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rpln_runtime._version import __version__
from rpln_runtime.errors import InputError, ManifestError
from rpln_runtime.generation.options import CHECKS
from rpln_runtime.postprocess import POSTPROCESS
from rpln_runtime.postprocess.base import options_of
from rpln_runtime.request_limits import MOST_IN_ANSWERS, MOST_IN_GENERATION
from rpln_runtime.tokenization import Windows
from rpln_runtime.triton.steps.generator import GeneratorStep
from rpln_runtime.triton.steps.tokenizer import TokenizerStep
from tests.triton.clients import texts
from tests.triton.networks import ToyBundle

MOST_BYTES = 65_536
TEXT = {"text": texts("A <mask>.")}
QUESTION = {"question": texts("Who?"), "context": texts("A man.")}


@pytest.fixture
def step_of(bundle_of: Callable[[str], ToyBundle]) -> Callable[..., TokenizerStep]:
    def step_of(task: str, **changes: str) -> TokenizerStep:
        sizes = {"buckets": "16,32,64", "most_rows": "32", "max_text_bytes": str(MOST_BYTES)}
        return TokenizerStep(bundle_of(task).folder, {"options": "{}", "rpln_runtime": __version__, **sizes, **changes})

    return step_of


def options(text: str | dict[str, Any]) -> dict[str, np.ndarray]:
    return {"options": texts(text if isinstance(text, str) else json.dumps(text))}


WRONG = {
    "fill-mask": (
        TEXT,
        [
            ({"top_k": "5"}, "top_k is '5', expected an integer"),
            ({"top_k": True}, "top_k is True, expected an integer"),
            ({"top_k": 1.0}, r"top_k is 1\.0, expected an integer"),
            ({"targets": 3}, "targets is 3, expected a list of texts"),
            ({"targets": ["a", 3]}, "targets is .*, expected a list of texts"),
            ({"targets": {"a": 1}}, "targets is .*, expected a list of texts"),
            ({"targets": []}, "expected at least one token"),
            ({"truncation": 1}, "truncation is 1, expected True or False"),
            ({"top_k": 1_001}, "top_k is 1,001, and a server takes at most 1,000"),
            ({"top_k": 2**62}, "top_k is 4,611,686,018,427,387,904, and a server takes at most 1,000"),
            ({"targets": ["a"] * 1_001}, "targets has 1,001 entries, and a server takes at most 1,000"),
            ('{"top_k": 1, "top_k": 2}', "options is not JSON .*'top_k' is there twice"),
            ('{"top_k": NaN}', "options is not JSON .*NaN"),
        ],
    ),
    "question-answering": (
        QUESTION,
        [
            ({"top_k": 1_001}, "top_k is 1,001"),
            ({"max_answer_len": 10**6}, "max_answer_len is 1,000,000, and a server takes at most 1,000"),
            ({"max_answer_len": None}, "max_answer_len is None"),
            ({"doc_stride": "1"}, "doc_stride is '1'"),
            ({"max_seq_len": [1]}, r"max_seq_len is \[1\]"),
        ],
    ),
    "text-classification": (
        {"text": texts("A text.")},
        [
            ({"top_k": 1_001}, "top_k is 1,001"),
            ({"top_k": "5"}, "top_k is '5', expected an integer, 1 or more, 'best' or None"),
            ({"top_k": True}, "top_k is True, expected an integer"),
            ({"function_to_apply": ["softmax"]}, "function_to_apply is"),
        ],
    ),
    "token-classification": (
        {"text": texts("A text.")},
        [
            ({"ignore_labels": 3}, "ignore_labels is 3, expected a list of texts"),
            ({"ignore_labels": None}, "ignore_labels is None, expected a list of texts"),
            ({"ignore_labels": "O"}, "ignore_labels is 'O', expected a list of texts"),
            ({"ignore_labels": ["O"] * 1_001}, "ignore_labels has 1,001 entries"),
            ({"stride": 1.5}, r"stride is 1\.5, expected an integer"),
            ({"stride": True}, "stride is True"),
        ],
    ),
    "feature-extraction": (
        {"text": texts("A text.")},
        [({"prompt": 3}, "prompt is 3, expected a text"), ({"pooling": ["mean"]}, r"pooling is \['mean'\]")],
    ),
}


@pytest.mark.parametrize(
    ("task", "arrays", "given", "message"),
    [(task, arrays, *one) for task, (arrays, rows) in WRONG.items() for one in rows],
)
def test_options_of_another_type_or_size_are_refused(
    step_of: Callable[..., TokenizerStep], task: str, arrays: Any, given: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        step_of(task)({**arrays, **options(given)})


def test_the_largest_values_are_taken(step_of: Callable[..., TokenizerStep]) -> None:
    most = {"top_k": MOST_IN_ANSWERS["top_k"], "max_answer_len": MOST_IN_ANSWERS["max_answer_len"]}
    assert step_of("question-answering")({**QUESTION, **options(most)})
    operators = step_of("fill-mask", options='{"top_k": 5000}')
    assert operators(TEXT)["tokens"].shape[0] == 1  # what the operator chose has no limit


def test_masks_times_top_k_are_limited_in_a_request(step_of: Callable[..., TokenizerStep]) -> None:
    step, masks = step_of("fill-mask"), texts("<mask>" * 50)
    assert step({"text": masks, **options({"top_k": 200})})
    with pytest.raises(InputError, match="top_k are 10,050 tokens to fill in, and a server takes at most 10,000"):
        step({"text": masks, **options({"top_k": 201})})
    with pytest.raises(InputError, match="top_k are 12,000 tokens"):
        step({"text": texts(*["<mask>" * 60] * 4), "options": texts(*['{"top_k": 50}'] * 4)})


def test_the_bytes_of_options_count(step_of: Callable[..., TokenizerStep]) -> None:
    step = step_of("token-classification")
    text = texts("a" * (MOST_BYTES - len('{"stride": 1}') + 1))
    with pytest.raises(InputError, match="texts and options of the request have 65,537 bytes, and at most 65,536"):
        step({"text": text, **options('{"stride": 1}')})
    with pytest.raises(InputError, match=r"\d rows"):  # one byte less is read
        step({"text": texts(text[0, 0].decode()[1:]), **options('{"stride": 1}')})


def test_empty_choices_are_limited_by_their_number(step_of: Callable[..., TokenizerStep]) -> None:
    step = step_of("multiple-choice")
    assert step({"prompt": texts(""), "choices": texts([""] * 32)})["items"].shape == (32, 1)
    with pytest.raises(InputError, match="100,000 choices, each of which is a row, and the model takes 32 rows"):
        step({"prompt": texts(""), "choices": texts([""] * 100_000)})


def test_windows_of_a_stride_close_to_their_length_are_not_made(
    step_of: Callable[..., TokenizerStep], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise AssertionError("a window was made")

    monkeypatch.setattr(Windows, "__getitem__", fail)
    arrays = {"text": texts("a b " * 10_000), **options({"stride": 61})}
    with pytest.raises(InputError, match=r"make \d{5} rows of up to 64 tokens, and the model takes 32"):
        step_of("token-classification")(arrays)


@pytest.mark.parametrize("name", ["most_rows", "max_text_bytes", "buckets"])
@pytest.mark.parametrize("value", ["\u0663", " 3", "3_2", "+3", "-3", "", "1" * 20])
def test_numbers_of_other_digits_are_refused(step_of: Callable[..., TokenizerStep], name: str, value: str) -> None:
    with pytest.raises((ManifestError, InputError), match=rf"{name} (is|are) "):
        step_of("token-classification", **{name: value})


class TritonError:
    """Stands for Triton's own: a message, and a code."""

    INVALID_ARG, INTERNAL, UNAVAILABLE = "INVALID_ARG", "INTERNAL", "UNAVAILABLE"

    def __init__(self, message: str, code: str) -> None:
        self.message, self.code = message, code


LOG: list[str] = []
"""What was written to Triton's log."""


@pytest.fixture(scope="module")
def serving() -> Iterator[dict[str, ModuleType]]:
    """Return the modules that need Triton's own, with one that stands for it."""
    with pytest.MonkeyPatch.context() as patch:
        triton = SimpleNamespace(
            Tensor=lambda name, array: (name, array.tolist()),
            InferenceResponse=lambda tensors=(), error=None: error or list(tensors),
            TritonError=TritonError,
            Logger=SimpleNamespace(log_error=LOG.append),
            TRITONSERVER_RESPONSE_COMPLETE_FINAL="final",
            get_input_tensor_by_name=lambda request, name: request.arrays.get(name),
        )
        patch.setitem(sys.modules, "triton_python_backend_utils", triton)
        names = ("serving", "streaming")
        yield {name: importlib.import_module(f"rpln_runtime.triton.steps.{name}") for name in names}


@pytest.mark.parametrize(
    ("error", "code", "says", "logged"),
    [
        (InputError("the text is wrong."), "INVALID_ARG", "the text is wrong.", False),
        (ManifestError("tokenizer.json is broken."), "INTERNAL", "ManifestError", True),
        (TypeError("a secret of /srv"), "INTERNAL", "the server failed (TypeError); its log has the reason.", True),
    ],
)
def test_only_an_input_error_is_the_clients_fault(
    serving: dict[str, ModuleType], error: Exception, code: str, says: str, logged: bool
) -> None:
    def step(_: Any) -> None:
        raise error

    LOG.clear()
    model = serving["serving"].StepModel()
    model._names, model._step = [], step
    (answer,) = model.execute([SimpleNamespace(arrays={})])
    assert (answer.code, says in answer.message) == (code, True)
    assert (str(error) in answer.message) == (not logged)
    assert [f"{type(error).__name__}: {error}" in entry for entry in LOG] == [True] * logged


def test_a_step_keeps_no_warnings_that_quote_a_client(serving: dict[str, ModuleType], tmp_path: Path) -> None:
    """Python keeps the text of each warning that is shown."""
    module = serving["serving"]
    model = type("Model", (module.StepModel,), {"make_step": staticmethod(lambda *_: None)})()
    folder = {"model_repository": str(tmp_path), "model_version": "1"}
    model.initialize({"model_config": json.dumps({"input": [], "parameters": {}}), **folder})
    registry: dict[Any, Any] = {}
    code = "import warnings; warnings.warn('unheard-of', stacklevel=1)"
    exec(code, {"__name__": "rpln_runtime.postprocess.fill_mask", "__warningregistry__": registry})  # noqa: S102
    assert not any("unheard-of" in str(key) for key in registry)


def test_a_long_value_is_cut_in_the_message(serving: dict[str, ModuleType]) -> None:
    """Over gRPC a message is part of the headers, of which a client takes some thousand bytes."""
    error = serving["serving"].triton_error(InputError("é" * 60_000))
    assert error.message == "é" * 1_000 + " ..."


@dataclass
class Request:
    """A request to a generator, and the sender of its responses. `leaves_after` pieces, the client goes."""

    text: str
    options: str = ""
    leaves_after: int = 1_000
    sent: list[Any] = field(default_factory=list)

    @property
    def arrays(self) -> dict[str, Any]:
        arrays = {"text": texts(self.text)} | ({"options": texts(self.options)} if self.options else {})
        return {name: SimpleNamespace(as_numpy=lambda array=array: array) for name, array in arrays.items()}

    def get_response_sender(self) -> "Request":
        return self

    def is_cancelled(self) -> bool:
        return len(self.pieces) >= self.leaves_after

    def send(self, response: Any = None, flags: str = "") -> None:
        assert not flags or not self.ended, "a request ends once"
        self.sent.append(flags if response is None else response)
        self.ended = self.ended or bool(flags)

    ended: bool = False

    @property
    def pieces(self) -> list[str]:
        return [one[0][1][0][0].decode() for one in self.sent if isinstance(one, list)]

    @property
    def error(self) -> Any:
        (*_, last) = self.sent
        return last if isinstance(last, TritonError) else None


Run = Callable[[Sequence[str], dict[str, Any], Callable[[int, int, str], None]], None]


def run(serving: dict[str, ModuleType], step: Run, *requests: Request) -> None:
    """Let a generator answer requests with `step`."""
    model = serving["streaming"].GeneratorModel()
    model._names, model._step, model._max_text_bytes = ["text", "options"], step, 100
    model.execute(requests)
    assert all(request.ended for request in requests)


def letters(calls: list[list[str]], *, wrong: str, wrong_at: int) -> Run:
    """Return a generator that sends the letters of its prompts. At this place, it refuses a prompt that is `wrong`."""

    def step(prompts: Sequence[str], given: dict[str, Any], send: Callable[[int, int, str], None]) -> None:
        calls.append(list(prompts))
        for at in range(max(map(len, prompts))):
            if at == wrong_at and wrong in prompts:
                raise InputError("the options of the generation exclude every token.")
            for place, prompt in enumerate(prompts):
                if at < len(prompt):
                    send(place, 0, prompt[at])

    return step


def test_a_wrong_prompt_is_refused_and_the_others_are_answered_once(serving: dict[str, ModuleType]) -> None:
    calls: list[list[str]] = []
    right, wrong = Request("abc"), Request("xyz")
    run(serving, letters(calls, wrong="xyz", wrong_at=0), right, wrong)
    assert (right.pieces, right.error) == (["a", "b", "c"], None)
    assert (wrong.pieces, wrong.error.code) == ([], "INVALID_ARG")


def test_pieces_that_were_sent_are_not_sent_again(serving: dict[str, ModuleType]) -> None:
    """A batch may fail when some of its text is out: the options exclude every token after one of its texts."""
    calls: list[list[str]] = []
    right, wrong, none_yet = Request("abc"), Request("xyz"), Request("")
    run(serving, letters(calls, wrong="xyz", wrong_at=1), right, wrong, none_yet)
    assert calls == [["abc", "xyz", ""], [""]]
    assert right.pieces == ["a"]
    assert wrong.pieces == ["x"]
    assert {right.error.code, wrong.error.code} == {"UNAVAILABLE"}
    assert "send the request again" in right.error.message


def test_a_prompt_that_is_wrong_alone_ends_with_its_own_reason(serving: dict[str, ModuleType]) -> None:
    wrong = Request("xyz")
    run(serving, letters([], wrong="xyz", wrong_at=1), wrong)
    assert (wrong.pieces, wrong.error.code) == (["x"], "INVALID_ARG")


def test_nothing_is_generated_again_for_a_client_that_left(serving: dict[str, ModuleType]) -> None:
    calls: list[list[str]] = []
    gone, wrong = Request("abc", leaves_after=0), Request("xyz")
    run(serving, letters(calls, wrong="xyz", wrong_at=0), gone, wrong)
    assert calls == [["abc", "xyz"], ["xyz"]]
    assert (gone.sent, wrong.error.code) == (["final"], "INVALID_ARG")


def test_generation_goes_on_as_long_as_somebody_waits(serving: dict[str, ModuleType]) -> None:
    calls: list[list[str]] = []
    stays, goes = Request("abc", leaves_after=2), Request("xyz", leaves_after=1)

    def step(prompts: Sequence[str], given: dict[str, Any], send: Callable[[int, int, str], None]) -> None:
        letters(calls, wrong="", wrong_at=-1)(prompts, given, send)
        raise AssertionError("nobody waits any more")

    run(serving, step, stays, goes)
    assert (stays.pieces, goes.pieces) == (["a", "b"], ["x"])
    assert (stays.error, goes.error) == (None, None)


def test_a_failure_of_the_server_ends_the_requests_of_its_batch_alone(serving: dict[str, ModuleType]) -> None:
    def step(prompts: Sequence[str], given: dict[str, Any], send: Callable[[int, int, str], None]) -> None:
        if given:
            raise ManifestError("the bundle is broken.")
        send(0, 0, "fine")

    LOG.clear()
    right, failing = Request("a"), Request("b", '{"seed": 1}')
    run(serving, step, failing, right)
    assert (right.pieces, right.error) == (["fine"], None)
    assert (failing.error.code, "ManifestError" in failing.error.message) == ("INTERNAL", True)
    assert "the bundle is broken." in LOG[0]


def test_equal_options_are_those_of_equal_types(serving: dict[str, ModuleType]) -> None:
    """In Python, 1 and True are equal; the one is right where the other is refused."""
    seen: list[tuple[int, str]] = []

    def step(prompts: Sequence[str], given: dict[str, Any], send: Callable[[int, int, str], None]) -> None:
        seen.append((len(prompts), json.dumps(given)))

    run(serving, step, Request("a", '{"num_beams": 1}'), Request("b", '{"num_beams": true}'), Request("c", "{}"))
    assert seen == [(1, '{"num_beams": 1}'), (1, '{"num_beams": true}'), (1, "{}")]


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request("a" * 101), "have 101 bytes, and at most 100"),
        (Request("a" * 90, '{"seed": 1}'), "have 101 bytes, and at most 100"),
        (Request("a", '{"seed": 1, "seed": 2}'), "'seed' is there twice"),
        (Request("a", "[]"), "is a list"),
    ],
)
def test_a_request_is_refused_before_anything_runs(
    serving: dict[str, ModuleType], request_: Request, message: str
) -> None:
    def step(*_: Any) -> None:
        raise AssertionError

    run(serving, step, request_)
    assert request_.error.code == "INVALID_ARG"
    assert message in request_.error.message


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"num_beams": 9}, "num_beams is 9, and this server runs at most 8 sequences together"),
        ({"num_return_sequences": 2**40, "do_sample": True}, "num_return_sequences is 1,099,511,627,776, and this"),
        ({"stop_token_ids": [1] * 65}, "stop_token_ids has 65 entries, and a server takes at most 64"),
        ({"stop_strings": ["a"] * 65}, "stop_strings has 65 entries"),
        ({"bad_words_ids": [[1]] * 257}, "bad_words_ids has 257 entries"),
    ],
)
def test_options_of_a_generator_that_cost_much_are_refused(given: dict[str, Any], message: str) -> None:
    step = GeneratorStep.__new__(GeneratorStep)
    step._batch_size = 8  # there is nothing that could generate
    with pytest.raises(InputError, match=message):
        step(["a"], given, lambda *_: None)


@pytest.mark.parametrize("value", ["\u0663", "8 ", ""])
def test_the_batch_size_of_a_generator_is_a_number(tmp_path: Path, value: str) -> None:
    with pytest.raises(ManifestError, match=r"batch_size is .* expected a number"):
        GeneratorStep(tmp_path, {"batch_size": value, "rpln_runtime": __version__})


def test_limits_are_those_of_options_that_there_are() -> None:
    assert MOST_IN_GENERATION.keys() <= CHECKS.keys()
    assert MOST_IN_ANSWERS.keys() <= {name for row in POSTPROCESS.values() for name in options_of(row)}
