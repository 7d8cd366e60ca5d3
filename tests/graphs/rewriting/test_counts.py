"""Counts are compared with formulas. An error names what is missing, the node that was refused, and the reason."""

from collections.abc import Mapping
from typing import ClassVar

import onnx_ir as ir
import pytest

from rpln_graphs.errors import PassError
from rpln_graphs.recipes import RECIPES, Rewrite, apply_recipe_together
from rpln_graphs.rewriting.base import (
    IN_FLOAT32,
    Context,
    ExplainingPass,
    Refusal,
    counts_from_model,
    refusals_from_model,
)
from rpln_graphs.rewriting.counts import check_count, shortage_from_model
from rpln_graphs.rewriting.traits import HEAD_MASK, GraphTraits
from tests.graphs.text_graphs import model_from_text

GRAPH = "g (float[2] x) => (float[2] y) { y = Neg(x) }"


class Made(ExplainingPass):
    """A pass whose counts the test sets."""

    unless: ClassVar[Mapping[str, str]] = {HEAD_MASK: "it has nothing to do with masked heads"}
    count = 0
    refused: tuple[tuple[str, str], ...] = ()

    def formula(self, network: GraphTraits) -> int:
        return 2 * network.layers

    def rewrite(self, model: ir.Model) -> int:
        self.record(model, [Refusal(node=node, reason=reason) for node, reason in self.refused])
        return self.count


def made(count: int, *refused: tuple[str, str]) -> type[Made]:
    return type("Made", (Made,), {"count": count, "refused": refused})


def shortage(kind: type[Made], network: GraphTraits) -> str | None:
    model = model_from_text(GRAPH)
    step = kind.configure(model, Context())
    step(model)
    return shortage_from_model(model, step, network)


TWO_LAYERS = GraphTraits(layers=2)
MASKED = GraphTraits(layers=2, features=frozenset({HEAD_MASK}))


@pytest.mark.parametrize(
    ("kind", "network"),
    [
        (made(4), TWO_LAYERS),
        (made(4, ("another", "is none")), TWO_LAYERS),
        (made(0), MASKED),
        (made(0, ("a", "is masked")), MASKED),
        (made(3, ("a", IN_FLOAT32)), TWO_LAYERS),
        (made(0, *((name, IN_FLOAT32) for name in "abcd")), TWO_LAYERS),
    ],
)
def test_nothing_is_missing(kind: type[Made], network: GraphTraits) -> None:
    assert shortage(kind, network) is None


def test_a_refusal_is_named_with_its_reason() -> None:
    text = shortage(made(3, ("layer.1.Softmax", "it is read twice")), TWO_LAYERS)

    assert text is not None
    first, refusal, *_ = text.splitlines()
    assert "Made changed 3 of 4 places" in first
    assert refusal.strip() == "layer.1.Softmax: it is read twice"
    assert "--allow-partial-fusion" in text
    assert "--optimize" in text


def test_of_many_refusals_a_few_are_named() -> None:
    text = shortage(made(0, *((f"node.{number}", "no") for number in range(4))), TWO_LAYERS)

    assert text is not None
    assert [line.strip() for line in text.splitlines() if "node." in line] == ["node.0: no", "node.1: no", "node.2: no"]


def test_what_is_conceded_does_not_excuse_the_rest() -> None:
    text = shortage(made(2, ("a", IN_FLOAT32), ("b", "it is read twice")), TWO_LAYERS)

    assert text is not None
    assert "b: it is read twice" in text
    assert "a:" not in text


@pytest.mark.parametrize(("count", "network"), [(3, TWO_LAYERS), (5, TWO_LAYERS), (1, MASKED)])
def test_a_count_that_nothing_explains_is_another_graph(count: int, network: GraphTraits) -> None:
    text = shortage(made(count), network)

    assert text is not None
    assert f"Made changed {count} places" in text
    assert f"formula says {4 if count > 1 else 0}:" in text


def test_a_shortage_is_an_error() -> None:
    model = model_from_text(GRAPH)
    step = made(1).configure(model, Context())
    step(model)
    with pytest.raises(PassError, match="Made changed 1 places"):
        check_count(model, step, TWO_LAYERS)


def folded(kind: type[Made], *, allow_partial: bool) -> ir.Model:
    model = model_from_text(GRAPH)
    rewrites = [Rewrite(model=model, traits=TWO_LAYERS, measure=lambda _: {})]
    apply_recipe_together(rewrites, RECIPES["fp32"], folds=[kind], allow_partial=allow_partial)
    return model


def test_where_that_is_allowed_the_export_goes_on() -> None:
    kind = made(1, ("a", "it is read twice"))
    with pytest.raises(PassError, match="a: it is read twice"):
        folded(kind, allow_partial=False)
    model = folded(kind, allow_partial=True)

    assert counts_from_model(model) == {"Made": 1}
    assert [refusal.node for refusal in refusals_from_model(model)["Made"]] == ["a"]
