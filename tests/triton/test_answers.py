"""The server answers, over both protocols, what the runtime in Python answers."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc

from rpln_runtime import pipeline
from tests.runtime.bundles import CORPUS, LABELS
from tests.runtime.comparison import LONG_TEXT, TEXTS
from tests.triton.clients import Infer, RefusedError, grpc_inputs, infer_grpc, infer_http, texts
from tests.triton.conftest import POSITIONS, VECTORS
from tests.triton.networks import ToyBundle
from tests.triton.server import Server

TOLERANCE = 1e-5
"""How far answers may differ: both run the same graph in fp32, but in other batches."""

PROTOCOLS = pytest.mark.parametrize("infer", [infer_http, infer_grpc], ids=["http", "grpc"])


@dataclass(frozen=True, kw_only=True)
class Asking:
    """An item for a pipeline, the same item as tensors, and options that are not the defaults."""

    item: Any
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        fields = {"text": self.item} if isinstance(self.item, str) else self.item
        arrays = {name: texts(value) for name, value in fields.items()}
        return arrays | ({"options": texts(json.dumps(self.options))} if self.options else {})


PASSAGE = " ".join(CORPUS)
CHOICES = ["in London.", "Paris", "to Charles Babbage and to everybody else"]
MASKED = [
    "Ada <mask> lived.",
    "<mask>",
    "<mask> is the <mask> of <mask>; the capital of Norway is <mask>, isn't <mask>?",
]
ASKED = {
    "feature-extraction": [
        *(Asking(item=text) for text in TEXTS),
        *(
            Asking(item=PASSAGE, options={"pooling": pooling, "truncation": True})
            for pooling in ("none", "mean", "max")
        ),
        Asking(item="A text.", options={"pooling": "first", "normalize": True}),
    ],
    "fill-mask": [
        *(Asking(item=text) for text in MASKED),
        Asking(item=MASKED[2], options={"top_k": 2}),
        Asking(item=MASKED[0], options={"targets": ["a", "o", "\u0120is"]}),
    ],
    "multiple-choice": [
        Asking(item={"prompt": "Ada lived", "choices": CHOICES}),
        Asking(item={"prompt": "", "choices": ["only one"]}),
        Asking(item={"prompt": PASSAGE, "choices": CHOICES}, options={"truncation": True}),
    ],
    "question-answering": [
        Asking(item={"question": "Who?", "context": CORPUS[0]}),
        Asking(item={"question": "Is this a question?", "context": PASSAGE}),
        Asking(item={"question": "Who?", "context": PASSAGE}, options={"top_k": 4, "handle_impossible_answer": True}),
        Asking(item={"question": "Wer?", "context": CORPUS[3]}, options={"max_seq_len": 24, "doc_stride": 5}),
    ],
    "text-classification": [
        *(Asking(item=text) for text in TEXTS),
        Asking(item={"text": "One text.", "text_pair": CORPUS[1]}),
        Asking(item="All labels.", options={"top_k": None, "function_to_apply": "sigmoid"}),
    ],
    "token-classification": [
        *(Asking(item=text) for text in (*TEXTS, LONG_TEXT)),
        Asking(item=LONG_TEXT, options={"aggregation_strategy": "max", "stride": 3, "ignore_labels": []}),
    ],
}
ASKED[POSITIONS] = ASKED["fill-mask"]
ASKED[VECTORS] = [
    *(Asking(item=text) for text in (*TEXTS, LONG_TEXT)),
    Asking(item=PASSAGE, options={"prompt_name": "none", "normalize": True}),
    Asking(item="A text.", options={"prompt": "Who? "}),
]


@PROTOCOLS
@pytest.mark.parametrize("name", ASKED)
def test_answers_are_those_of_the_runtime(
    encoders: Server, bundle_of: Callable[[str], ToyBundle], infer: Infer, name: str
) -> None:
    answer = pipeline(bundle_of(name).folder, provider="cpu", threads=1)
    for asking in ASKED[name]:
        found = infer(encoders, name, asking.arrays)
        expected = columns_from_answer(answer(asking.item, **asking.options))
        assert found.keys() - {"mask"} == expected.keys() | {"count"}
        for column, values in expected.items():
            check(found[column][0], values)
        assert found["count"].tolist() == [[len(next(iter(expected.values())))]]


def test_a_request_of_several_items_gets_all_answers(encoders: Server, bundle_of: Callable[[str], ToyBundle]) -> None:
    asked = ["", LONG_TEXT, *CORPUS]
    found = infer_grpc(encoders, "token-classification", {"text": texts(*asked)})
    expected = [columns_from_answer(one) for one in pipeline(bundle_of("token-classification").folder)(asked)]
    counts = found["count"][:, 0]
    assert counts.tolist() == [len(columns["label"]) for columns in expected]
    for column in expected[0]:
        for row, (count, columns) in enumerate(zip(counts, expected, strict=True)):
            check(found[column][row, :count], columns[column])
    assert found["label"][0].tolist() == [b""] * counts.max()
    assert found["start"][0].tolist() == [-1] * counts.max()


def test_fillings_say_which_mask_they_are_for(encoders: Server) -> None:
    found = infer_http(encoders, "fill-mask", {"text": texts("<mask> and <mask>"), "options": texts('{"top_k": 2}')})
    assert found["mask"].tolist() == [[0, 0, 1, 1]]


def test_each_item_of_a_request_may_have_its_own_options(
    encoders: Server, bundle_of: Callable[[str], ToyBundle]
) -> None:
    chosen: list[dict[str, Any]] = [{}, {"ignore_labels": ["B-PER", "B-LOC"]}, {"aggregation_strategy": "simple"}]
    options = texts("", *map(json.dumps, chosen[1:]))
    found = infer_http(encoders, "token-classification", {"text": texts(*[CORPUS[0]] * 3), "options": options})
    answer = pipeline(bundle_of("token-classification").folder)
    counts = [len(answer(CORPUS[0], **one)) for one in chosen]
    assert len(set(counts)) == 3
    assert found["count"][:, 0].tolist() == counts


def columns_from_answer(answer: Any) -> dict[str, list[Any]]:
    """Return a pipeline's answer in the server's columns, found without the table of columns, by its content."""
    if isinstance(answer, np.ndarray):
        return {"features": list(answer.reshape(-1, answer.shape[-1]))}
    flat: list[dict[str, Any]] = []
    for one in answer if isinstance(answer, list) else [answer]:
        flat.extend(one if isinstance(one, list) else [one])
    names = {"entity": "label", "entity_group": "label"}
    keys = flat[0] if flat else ("label", "score", "start", "end", "word")
    columns = {names.get(key, key): [part[key] for part in flat] for key in keys if key != "index" or "scores" in keys}
    if "scores" in columns:
        (columns["scores"],) = columns["scores"]
    return columns


def check(found: np.ndarray, expected: Sequence[Any]) -> None:
    if found.dtype == np.float32:
        np.testing.assert_allclose(found, np.array(expected, np.float32), atol=TOLERANCE, rtol=0)
    else:
        assert [one.decode() if isinstance(one, bytes) else one for one in found.tolist()] == list(expected)


def test_answers_are_cached(encoders: Server) -> None:
    before = encoders.statistics("text-classification")["inference_stats"]["cache_hit"]["count"]
    asked = {"text": texts("A text that comes twice.")}
    first, second = (infer_http(encoders, "text-classification", asked) for _ in range(2))
    assert encoders.statistics("text-classification")["inference_stats"]["cache_hit"]["count"] == before + 1
    assert {name: array.tolist() for name, array in first.items()} == {
        name: array.tolist() for name, array in second.items()
    }
    other = infer_http(encoders, "text-classification", asked | {"options": texts('{"top_k": 3}')})
    assert other["label"].shape == (1, 3)  # options are part of the key


def test_logits_come_with_labels(encoders: Server) -> None:
    ids = np.array([[0, 9, 2]])
    with tritonclient.grpc.InferenceServerClient(encoders.grpc) as client:
        output = tritonclient.grpc.InferRequestedOutput("logits", class_count=2)
        inputs = grpc_inputs({"input_ids": ids, "attention_mask": np.ones_like(ids)})
        result = client.infer("text-classification_model", inputs, outputs=[output])
    best = [entry.decode().split(":") for entry in result.as_numpy("logits")[0]]
    assert [LABELS[int(place)] for _, place, _ in best] == [label for _, _, label in best]


REFUSED = {
    "an unknown option": (
        "token-classification",
        {"text": texts("A text."), "options": texts('{"aggregation": "max"}')},
        "option 'aggregation' .*token-classification",
    ),
    "an option out of range": ("fill-mask", {"text": texts("<mask>"), "options": texts('{"top_k": 0}')}, "top_k is 0"),
    "an option of another type": (
        "token-classification",
        {"text": texts("A text."), "options": texts('{"ignore_labels": 5}')},
        "ignore_labels is 5, expected a list of texts",
    ),
    "options that are no JSON": ("fill-mask", {"text": texts("<mask>"), "options": texts("{top_k}")}, "options .*JSON"),
    "options that are no object": ("fill-mask", {"text": texts("<mask>"), "options": texts("[1]")}, "is a list"),
    "a text without a mask": ("fill-mask", {"text": texts("no mask")}, "no <mask>"),
    "a text that is too long": ("text-classification", {"text": texts(LONG_TEXT)}, "limit .*64"),
    "an empty question": ("question-answering", {"question": texts(""), "context": texts("x")}, "question is empty"),
    "more rows than the model takes": ("token-classification", {"text": texts(LONG_TEXT * 20)}, "rows .* 32 "),
    "windows that share most tokens": (
        "token-classification",
        {"text": texts("a" * 60_000), "options": texts('{"stride": 60}')},
        r"\d{5} rows .* 32 ",
    ),
    "a text of a megabyte": ("token-classification", {"text": texts("a b " * 250_000)}, "1,000,000 bytes.* 65,536 "),
    "texts of too many bytes together": ("fill-mask", {"text": texts(*["<mask>" * 600] * 20)}, "72,000 bytes.* 65,536"),
    "a prompt of too many bytes with its choices": (
        "multiple-choice",
        {"prompt": texts("a" * 4_000), "choices": texts(["b"] * 20)},
        "80,020 bytes.* 65,536",
    ),
    "options of too many bytes": (
        "fill-mask",
        {"text": texts("<mask>"), "options": texts(json.dumps({"targets": ["a"] * 20_000}))},
        "texts and options .* 100,019 bytes.* 65,536",
    ),
    "a missing input": ("question-answering", {"question": texts("Who?")}, "expected .* inputs"),
    "an unknown input": ("fill-mask", {"text": texts("<mask>"), "texts": texts("x")}, "unexpected inference input"),
    "another type": ("fill-mask", {"text": np.array([[1]])}, "data-type"),
    "another shape": ("fill-mask", {"text": texts(["<mask>", "<mask>"])}, "shape"),
    "too many items": ("fill-mask", {"text": texts(*["<mask>"] * 33)}, "batch-size must be <= 32"),
    "another model": ("tagger", {"text": texts("x")}, "unknown model"),
}


@PROTOCOLS
@pytest.mark.parametrize(("model", "arrays", "message"), REFUSED.values(), ids=REFUSED)
def test_a_wrong_request_is_refused_with_the_reason(
    encoders: Server, infer: Infer, model: str, arrays: dict[str, np.ndarray], message: str
) -> None:
    with pytest.raises(RefusedError, match=message):
        infer(encoders, model, arrays)


def test_a_text_that_is_no_utf8_is_refused(encoders: Server) -> None:
    text = np.array([[b"caf\xe9"]], np.object_)
    with pytest.raises(RefusedError, match=r"text .*UTF-8 at byte 3"):
        infer_grpc(encoders, "feature-extraction", {"text": text})


def rows(*items: bytes, first_id: int = 0, end: int = 1, logits: int = 6) -> dict[str, np.ndarray]:
    """Return what the last step of a tagger gets: a row of two tokens for each of `items`."""
    token = [first_id, 0, 0, end, 0, 0, 0]
    return {
        "tokens": np.array([[token, token]] * len(items)),
        "items": np.array([[item] for item in items], np.object_),
        "logits": np.zeros((len(items), 2, logits), np.float32),
    }


ITEM = json.dumps({"item": "ab", "options": {}}).encode()
BAD_ROWS = {
    "an item that is no JSON": rows(ITEM, b"{"),
    "an item of another kind": rows(b"[1]"),
    "a row of no item": rows(b""),
    "an unknown option": rows(json.dumps({"item": "ab", "options": {"top": 1}}).encode()),
    "an id out of range": rows(ITEM, first_id=-5),
    "an end beyond the text": rows(ITEM, end=2**62),
}


def test_bad_rows_for_the_last_step_fail_alone(encoders: Server) -> None:
    step = "token-classification_answers"
    expected = {name: array.tolist() for name, array in infer_grpc(encoders, step, rows(ITEM)).items()}
    with tritonclient.grpc.InferenceServerClient(encoders.grpc) as client:
        for arrays in BAD_ROWS.values():
            client.async_infer(step, grpc_inputs(arrays), lambda result, error: None)
            assert {name: array.tolist() for name, array in infer_grpc(encoders, step, rows(ITEM)).items()} == expected
    for wrong in ("an item that is no JSON", "an item of another kind", "a row of no item", "an unknown option"):
        with pytest.raises(RefusedError):
            infer_grpc(encoders, step, BAD_ROWS[wrong])
