"""What the server answers, over both protocols, is what the runtime in Python answers."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from rpln_runtime import pipeline
from tests.runtime.bundles import CORPUS, Bundle
from tests.runtime.comparison import LONG_TEXT, TEXTS
from tests.triton.clients import Infer, RefusedError, infer_grpc, infer_http, texts
from tests.triton.server import Server

TOLERANCE = 1e-5
"""Both run the same graph in fp32; batches differ."""

PROTOCOLS = pytest.mark.parametrize("infer", [infer_http, infer_grpc], ids=["http", "grpc"])


@dataclass(frozen=True, kw_only=True)
class Asking:
    """An item for a pipeline, the same as tensors, and options that differ from the defaults."""

    item: Any
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        fields = {"text": self.item} if isinstance(self.item, str) else self.item
        arrays = {name: texts(value) for name, value in fields.items()}
        return arrays | ({"options": texts(json.dumps(self.options))} if self.options else {})


PASSAGE = " ".join(CORPUS)
ASKED = {
    "token-classification": [
        *(Asking(item=text) for text in (*TEXTS, LONG_TEXT)),
        Asking(item=LONG_TEXT, options={"aggregation_strategy": "max", "stride": 3, "ignore_labels": []}),
    ],
}


def columns_from_answer(answer: Any) -> dict[str, list[Any]]:
    """A pipeline's answer as the server gives it, found in another way: by what stands in it."""
    flat: list[dict[str, Any]] = []
    for one in answer if isinstance(answer, list) else [answer]:
        flat.extend(one if isinstance(one, list) else [one])
    names = {"entity": "label", "entity_group": "label"}
    return {names.get(key, key): [part[key] for part in flat] for key in (flat[0] if flat else ())}


@PROTOCOLS
@pytest.mark.parametrize("task", ASKED)
def test_answers_are_those_of_the_runtime(
    encoders: Server, bundle_of: Callable[[str], Bundle], infer: Infer, task: str
) -> None:
    answer = pipeline(bundle_of(task).folder, provider="cpu", threads=1)
    for asking in ASKED[task]:
        found = infer(encoders, task, asking.arrays)
        expected = columns_from_answer(answer(asking.item, **asking.options))
        if not expected:
            assert found["count"].tolist() == [[0]]
        for name in found.keys() & expected.keys():
            check(found[name][0], expected[name])
        assert expected.keys() - found.keys() <= {"index"}


def check(found: np.ndarray, expected: Sequence[Any]) -> None:
    if found.dtype == np.float32:
        np.testing.assert_allclose(found, np.array(expected, np.float32), atol=TOLERANCE, rtol=0)
    else:
        assert [one.decode() if isinstance(one, bytes) else one for one in found.tolist()] == list(expected)


def test_what_is_wrong_with_a_request_is_said(encoders: Server) -> None:
    with pytest.raises(RefusedError, match="unknown option 'aggregation' for token-classification"):
        infer_grpc(encoders, "token-classification", Asking(item="A text.", options={"aggregation": "max"}).arrays)
