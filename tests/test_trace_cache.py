"""A trace from the cache equals the one that the exporter gives, and is never used for another network."""

import ast
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from rpln_graphs import trace
from rpln_graphs.calls import GraphCall
from rpln_runtime.tasks import TASKS
from tests import trace_cache
from tests.graphs.networks import Network, tiny_model, trace_task, trace_variant
from tests.trace_cache import ROOT, SOURCES, key_of, traced_anew, traces_from

TASK = "token-classification"
SMALL: dict[str, Any] = {"num_hidden_layers": 1, "hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2}

BESIDE = {
    "rpln_graphs.errors",
    "rpln_graphs.input_sizes",
    "rpln_graphs.passes",
    "rpln_graphs.repeat_layers",
    "rpln_graphs.rewriting.base",
    "rpln_graphs.short_networks",
    "rpln_graphs.trace_methods",
    "rpln_runtime.replacing",
}
"""Modules of ours that tracing imports but the key may ignore: they choose what is exported, or change every trace."""


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[int]]:
    """Return a list of the opsets that the exporter is called with; the cache is empty."""
    opsets: list[int] = []
    with traced_anew():
        export = trace._export

    def counted(call: GraphCall, opset: int) -> ir.Model:
        opsets.append(opset)
        return export(call, opset)

    monkeypatch.setattr(trace_cache, "_export", counted)
    with traces_from(tmp_path):
        yield opsets


def written(network: Network) -> bytes:
    return bytes(ir.to_proto(network.graph).SerializeToString(deterministic=True))


@pytest.mark.parametrize(("task", "variant"), [("fill-mask", "full"), ("text2text-generation", "with-past")])
def test_a_kept_trace_is_the_exporters(task: str, variant: str, exported: list[int]) -> None:
    with traced_anew():
        expected = trace_task(task, variant=variant, **SMALL)
    exported.clear()
    kept = [trace_task(task, variant=variant, **SMALL) for _ in range(2)]

    assert len(exported) == 1
    assert [written(network) for network in kept] == [written(expected)] * 2


def test_a_kept_trace_shares_the_weights_of_the_model_at_hand(exported: list[int]) -> None:
    networks = [trace_task(TASK, seed=seed, **SMALL) for seed in (0, 1)]

    assert len(exported) == 1
    for network in networks:
        weight = network.graph.graph.initializers["embeddings.word_embeddings.weight"].const_value
        own = network.model.state_dict()["roberta_prelayernorm.embeddings.word_embeddings.weight"]
        assert weight is not None
        assert np.shares_memory(weight.numpy(), own.numpy())


def call_of(task: str = TASK, *, change: Callable[[Any], object] = id, **options: Any) -> str:
    model = tiny_model(TASKS[task], **(SMALL | options.pop("fields", {})))
    change(model)
    opset = options.pop("opset", 20)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("tests.graphs.networks.trace_model", lambda *_, **__: None)
        return key_of(trace_variant(model, TASKS[task], "full", **options).call, opset)


def test_the_key_leaves_out_values_and_where_a_checkpoint_was() -> None:
    def moved(model: Any) -> None:
        model.config._name_or_path = "/somewhere/else"
        model.classifier.bias.data += 1

    assert call_of(change=moved) == call_of()


@pytest.mark.parametrize(
    "other",
    [
        {"opset": 21},
        {"inputs": ("input_ids",)},
        {"outputs": ("hidden_states",)},
        {"fields": {"layer_norm_eps": 1e-6}},
        {"fields": {"hidden_act": "relu"}},
        {"fields": {"num_attention_heads": 4}},
        {"fields": {"position_embedding_type": "relative_key"}},
        {"change": lambda model: model.half()},
        {"change": lambda model: setattr(model.config, "_attn_implementation", "sdpa")},
    ],
)
def test_another_network_has_another_key(other: dict[str, Any]) -> None:
    assert call_of(**other) != call_of()


def test_a_tie_is_in_the_key() -> None:
    def cut(model: Any) -> None:
        model.lm_head.decoder.weight = type(model.lm_head.decoder.weight)(model.lm_head.decoder.weight.clone())

    assert call_of("fill-mask", change=cut) != call_of("fill-mask")


def test_every_source_that_decides_about_a_trace_is_in_the_key() -> None:
    listed = {path.relative_to(ROOT) for pattern in SOURCES for path in ROOT.glob(pattern)}
    for path in {path for path in listed if path.parts[0] != "tests"}:
        for name in imported_by(ROOT / path) - BESIDE:
            assert file_of(name) in listed, f"{path} imports {name}"


def imported_by(path: Path) -> set[str]:
    """Return the modules of ours that a file imports from."""
    nodes = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.ImportFrom)]
    return {node.module for node in nodes if node.module and node.module.startswith("rpln_")}


def file_of(module: str) -> Path:
    """Return the file of a module of ours, relative to the root."""
    package = module.split(".", maxsplit=1)[0]
    above = {"rpln_model": "model", "rpln_graphs": "graphs", "rpln_runtime": "runtime"}
    path = Path(above[package], *module.split("."))
    return path / "__init__.py" if (ROOT / path).is_dir() else path.with_suffix(".py")
