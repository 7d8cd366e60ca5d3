"""Decoders end to end: each variant, step by step, computes what transformers computes for the whole text."""

import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import transformers
from click.testing import CliRunner
from onnx.reference import ReferenceEvaluator

from rpln_export.cli import export_command, rpln_command
from rpln_export.plan.export_plan import make_plan
from rpln_model import EncoderDecoderModel, RobertaPreLayerNormForCausalLM, updated_config
from rpln_model.checkpoints import load_config
from rpln_runtime.manifest import Axis, Graph, read_manifest
from tests.export.checkpoints import (
    DECODER,
    HIDDEN,
    LAYERS,
    USABLE_LENGTH,
    config_fields_of,
    draw_weights,
    encoder_decoder_config,
    make_checkpoint,
    make_config,
    make_tokenizer,
)
from tests.export.conftest import Export
from tests.export.references import FP32_DIFFERENCE, HALF_AGREEMENT, HALF_DIFFERENCE, PAD, reference
from tests.export.stepping import (
    ROUTES,
    Feeds,
    Run,
    logits_of_steps,
    make_texts,
    open_session,
    whole_logits,
    whole_outputs,
)

pytestmark = pytest.mark.usefixtures("traced_once")

TASKS = ("text-generation", "text2text-generation")
ALL_VARIANTS = "--variants=with-past,full,prefill,decode"
CAUSAL_LM = "RobertaPreLayerNormForCausalLM"
CHUNKS = (5, 1, 1, 3, 2)
INTERNALS = [
    ("text-generation", "hidden_states,attentions"),
    ("text2text-generation", "hidden_states,attentions,cross_attentions"),
]
KEY_VALUES = [f"{layer}.{part}" for layer in range(LAYERS) for part in ("key", "value")]


def configs_of(model: Any) -> tuple[Any, Any]:
    """Return the configs of the decoder and of the encoder, which is None if there is none."""
    config = model.config
    return (config.decoder, config.encoder) if config.is_encoder_decoder else (config, None)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("task", TASKS)
def test_steps_equal_the_whole_text_by_transformers(exported: Callable[..., Export], task: str, route: str) -> None:
    export = exported(task, ALL_VARIANTS)
    model = reference(export.checkpoint, task)
    decoder, encoder = configs_of(model)
    for text in make_texts(decoder, encoder=encoder):
        found = logits_of_steps(export.folder, route, text, CHUNKS)
        assert np.abs(found - whole_logits(model, text, CHUNKS)).max() <= FP32_DIFFERENCE


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("task", TASKS)
def test_fp16_steps_are_close_to_it(exported: Callable[..., Export], task: str, route: str) -> None:
    export = exported(task, ALL_VARIANTS, "--fp16")
    assert_close(export, task, route, tie=2.0**-10)
    types = {
        spec.dtype
        for graph in read_manifest(export.folder).graphs
        for spec in graph.outputs
        if "key" in spec.name.split(".")
    }
    assert types == {"float16"}


def assert_close(export: Export, task: str, route: str, *, tie: float, opened: Any = None) -> None:
    """Check that both are equal within rounding. Tokens nearer than `tie` of the range count as equal."""
    model = reference(export.checkpoint, task)
    decoder, encoder = configs_of(model)
    pairs = [
        (logits_of_steps(export.folder, route, text, CHUNKS, opened=opened), whole_logits(model, text, CHUNKS))
        for text in make_texts(decoder, encoder=encoder)
    ]
    reach = max(np.abs(expected).max() for _, expected in pairs)
    errors = [np.abs(found - expected).max() / reach for found, expected in pairs]
    # The graph must not compute in fp32, so its rounding has to show.
    assert 1e-5 < max(errors) <= HALF_DIFFERENCE
    agreeing = np.concatenate(
        [(found.argmax(-1) == expected.argmax(-1))[margin(expected) > tie * reach] for found, expected in pairs]
    )
    assert agreeing.size > 20
    assert agreeing.mean() >= HALF_AGREEMENT


def margin(logits: np.ndarray) -> np.ndarray:
    """Return how much larger the largest logit is than the second."""
    second, best = np.moveaxis(np.sort(logits, axis=-1)[..., -2:], -1, 0)
    ahead: np.ndarray = best - second
    return ahead


@pytest.mark.parametrize("task", TASKS)
def test_bf16_steps_are_close_to_it(exported: Callable[..., Export], task: str) -> None:
    # onnx's own evaluator runs the graph, because ONNX Runtime has no bf16 kernels on the CPU.
    def opened(folder: Path, graph: Graph) -> Run:
        evaluator = ReferenceEvaluator(str(folder / graph.path))
        names = [spec.name for spec in graph.outputs]
        return lambda feeds: dict(zip(names, evaluator.run(None, feeds), strict=True))

    export = exported(task, ALL_VARIANTS, "--bf16")
    assert_close(export, task, "with-past", tie=2.0**-7, opened=opened)


# What a bundle says of itself


def test_the_manifest_of_a_causal_lm(exported: Callable[..., Export]) -> None:
    manifest = read_manifest(exported("text-generation", ALL_VARIANTS).folder)
    assert {graph.variant: graph.path for graph in manifest.graphs} == {
        "with-past": "model.onnx",
        "full": "full.onnx",
        "prefill": "prefill.onnx",
        "decode": "decode.onnx",
    }
    assert manifest.axes == {
        "batch": Axis(minimum=1, maximum=None),
        "sequence": Axis(minimum=1, maximum=USABLE_LENGTH),
        "past_sequence": Axis(minimum=0, maximum=USABLE_LENGTH - 1),
        "past_sequence + sequence": Axis(minimum=1, maximum=USABLE_LENGTH),
    }
    step = {
        "input_ids": ["batch", "sequence"],
        "attention_mask": ["batch", "past_sequence + sequence"],
        "position_ids": ["batch", "sequence"],
    } | {f"past_key_values.{name}": ["batch", 2, "past_sequence", HIDDEN // 2] for name in KEY_VALUES}
    prompt = {name: ["batch", "sequence"] for name in ("input_ids", "attention_mask", "position_ids")}
    graphs = {graph.variant: graph for graph in manifest.graphs}
    assert shapes(graphs["with-past"].inputs) == shapes(graphs["decode"].inputs) == step
    assert shapes(graphs["prefill"].inputs) == prompt
    assert shapes(graphs["full"].inputs) == {name: prompt[name] for name in ("input_ids", "attention_mask")}
    logits = {"logits": ["batch", 1, manifest.vocab_size]}
    for variant, tokens in (("with-past", "past_sequence + sequence"), ("prefill", "sequence")):
        present = {f"present.{name}": ["batch", 2, tokens, HIDDEN // 2] for name in KEY_VALUES}
        assert shapes(graphs[variant].outputs) == logits | present
    assert shapes(graphs["full"].outputs) == logits
    limits = {spec.name: spec.values for spec in graphs["with-past"].inputs if spec.dtype == "int64"}
    assert limits == {"input_ids": manifest.vocab_size, "attention_mask": 2, "position_ids": USABLE_LENGTH + PAD + 1}


def shapes(specs: Any) -> dict[str, list[Any]]:
    return {spec.name: list(spec.shape) for spec in specs}


def test_the_manifest_of_an_encoder_decoder(exported: Callable[..., Export]) -> None:
    manifest = read_manifest(exported("text2text-generation", ALL_VARIANTS).folder)
    graphs = {graph.variant: graph for graph in manifest.graphs}
    assert list(graphs) == ["with-past", "full", "prefill", "decode", "encoder"]
    assert manifest.axes["encoder_sequence"] == Axis(minimum=1, maximum=USABLE_LENGTH)
    cross = {f"cross_key_values.{name}": ["batch", 2, "encoder_sequence", HIDDEN // 2] for name in KEY_VALUES}
    assert shapes(graphs["encoder"].outputs) == {"last_hidden_state": ["batch", "encoder_sequence", HIDDEN]} | cross
    for variant in ("with-past", "full", "prefill", "decode"):
        inputs = shapes(graphs[variant].inputs)
        assert inputs["encoder_attention_mask"] == ["batch", "encoder_sequence"]
        assert {name: shape for name, shape in inputs.items() if name.startswith("cross_key_values")} == cross


@pytest.mark.parametrize("task", TASKS)
def test_what_transformers_generates_by_is_in_the_bundle(exported: Callable[..., Export], task: str) -> None:
    export = exported(task, ALL_VARIANTS)
    stated, own = (transformers.GenerationConfig.from_pretrained(of) for of in (export.checkpoint, export.folder))
    assert own.to_dict() == stated.to_dict()
    assert "generation_config.json" in {file.path for file in read_manifest(export.folder).files}


@pytest.mark.parametrize("task", TASKS)
def test_no_graph_branches_and_none_projects_the_encoders_output_twice(
    exported: Callable[..., Export], task: str
) -> None:
    folder = exported(task, ALL_VARIANTS).folder
    for graph in read_manifest(folder).graphs:
        model = onnx.load(folder / graph.path).graph
        assert {node.domain for node in model.node} == {""}
        assert {node.op_type for node in model.node}.isdisjoint({"If", "Loop", "Scan", "SequenceInsert"})
        weights = [tensor.name for tensor in model.initializer if "crossattention.self." in tensor.name]
        of_the_memory = [name for name in weights if ".key." in name or ".value." in name]
        # Two weights and two biases of each layer are in the graph that runs once.
        assert len(of_the_memory) == (4 * LAYERS if graph.variant == "encoder" else 0)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("precision", [[], ["--fp16"], ["--bf16"]], ids=["fp32", "fp16", "bf16"])
def test_a_bundle_is_proven_again_and_shown(exported: Callable[..., Export], task: str, precision: list[str]) -> None:
    export = exported(task, ALL_VARIANTS, *precision)
    again = CliRunner().invoke(rpln_command, ["validate", str(export.folder), str(export.checkpoint), "--json"])
    assert (again.exit_code, again.stderr) == (0, "")
    rows = json.loads((export.folder / "report.json").read_text(encoding="utf-8"))["comparisons"]
    assert [(row["output"], row["method"], row["cases"]) for row in json.loads(again.stdout)] == [
        (row["output"], row["method"], row["cases"]) for row in rows
    ]
    before = "encoder + " if task == "text2text-generation" else ""
    proven = {row["method"].split(", ", 1)[1] for row in rows if row["output"] == "logits"}
    # For a GPU, the graphs have another form, too.
    forms = ("", "fused for cuda, ") if precision else ("",)
    assert proven == {
        f"{form}{before}{variants}" for form in forms for variants in ("with-past", "full", "prefill + decode")
    }
    shown = CliRunner().invoke(rpln_command, ["inspect", str(export.folder)])
    assert (shown.exit_code, shown.stderr) == (0, "")
    words = ("prefill.onnx", "past_key_values.1.value", "present.0.key", "past_sequence + sequence")
    assert [word for word in words if word not in shown.stdout] == []


@pytest.mark.parametrize("task", TASKS)
def test_the_report_has_every_graph(exported: Callable[..., Export], task: str) -> None:
    folder = exported(task, ALL_VARIANTS, "--fp16").folder
    graphs = read_manifest(folder).graphs
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert [(graph["variant"], graph["path"]) for graph in report["graphs"]] == [
        (graph.variant, graph.path) for graph in graphs
    ]
    text = (folder / "report.md").read_text(encoding="utf-8")
    for graph in graphs:
        assert f"{graph.path} ({graph.variant}): " in text
        assert text.count(f"## Passes: {graph.path}\n") == text.count(f"## Range: {graph.path}\n") == 1
    assert text.count("## Time and memory\n") == text.count("Made with ") == 1
    assert "\n\n\n" not in text


def test_a_lone_variant_without_a_cache_is_the_bundles_model(tmp_path: Path, checkpoint: Callable[[str], Path]) -> None:
    arguments = [str(checkpoint("text-generation")), "-o", str(tmp_path / "out"), "--variants", "full"]
    assert CliRunner().invoke(export_command, arguments).exit_code == 0
    (graph,) = read_manifest(tmp_path / "out").graphs
    assert (graph.variant, graph.path) == ("full", "model.onnx")


@pytest.mark.parametrize(
    ("file", "config", "expected"),
    [
        ({}, {}, (PAD, 0, (2,))),
        ({}, {"eos_token_id": 7, "bos_token_id": 5}, (PAD, 5, (7,))),
        ({"eos_token_id": [2, 9], "pad_token_id": 3}, {"eos_token_id": 7}, (3, 0, (2, 9))),
        ({"eos_token_id": None, "bos_token_id": 6}, {"eos_token_id": 7}, (PAD, 6, (7,))),
    ],
    ids=["defaults", "config.json", "generation_config.json", "null-is-nothing"],
)
def test_ids_are_those_of_generation_config_before_config(
    checkpoint: Callable[[str], Path],
    tmp_path: Path,
    file: dict[str, Any],
    config: dict[str, Any],
    expected: tuple[Any, ...],
) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(checkpoint("text-generation"), folder)
    document = json.loads((folder / "config.json").read_text(encoding="utf-8")) | config
    (folder / "config.json").write_text(json.dumps(document), encoding="utf-8")
    (folder / "generation_config.json").write_text(json.dumps(file), encoding="utf-8")
    found = make_plan(str(folder)).generation
    assert found is not None
    assert (found.pad_token_id, found.bos_token_id, found.eos_token_ids) == expected
    # The row of padding in the table of positions need not be the id of padding.
    assert (found.first_position, found.pad_position, found.start_token_id) == (PAD + 1, PAD, None)


# What the options do


@pytest.mark.parametrize(("task", "asked"), INTERNALS)
def test_all_logits_and_internals_of_a_step(exported: Callable[..., Export], task: str, asked: str) -> None:
    export = exported(task, "--logits=all", f"--outputs={asked}")
    model = reference(export.checkpoint, task)
    decoder, encoder = configs_of(model)
    text = make_texts(decoder, encoder=encoder)[1]
    steps: list[Mapping[str, np.ndarray]] = []

    def opened(folder: Path, graph: Graph) -> Run:
        run = open_session(folder, graph)

        def noted(feeds: Feeds) -> Mapping[str, np.ndarray]:
            steps.append(run(feeds))
            return steps[-1]

        return run if graph.variant == "encoder" else noted

    logits_of_steps(export.folder, "with-past", text, (8, 4), opened=opened)
    whole = whole_outputs(model, text, output_hidden_states=True, output_attentions=True)
    prefix = "decoder_" if encoder else ""
    expected = {"logits": whole.logits[:, 8:]}
    # The last hidden state comes before the final LayerNorm here and in transformers 4.57, and after it in 5.
    for index in range(LAYERS):
        expected[f"hidden_states.{index}"] = whole[f"{prefix}hidden_states"][index][:, 8:]
        expected[f"attentions.{index}"] = whole[f"{prefix}attentions"][index][:, :, 8:]
        if encoder:
            expected[f"cross_attentions.{index}"] = whole.cross_attentions[index][:, :, 8:]
    found = {name: array for name, array in steps[1].items() if not name.startswith("present.")}
    assert found.keys() == {*expected, f"hidden_states.{LAYERS}"}
    for name, tensor in expected.items():
        np.testing.assert_allclose(found[name], tensor.numpy(), atol=FP32_DIFFERENCE, err_msg=name)


@pytest.mark.parametrize(("task", "asked"), INTERNALS)
def test_all_logits_and_internals_are_proven_again(exported: Callable[..., Export], task: str, asked: str) -> None:
    export = exported(task, "--logits=all", f"--outputs={asked}")
    again = CliRunner().invoke(rpln_command, ["validate", str(export.folder), str(export.checkpoint), "--json"])
    assert (again.exit_code, again.stderr) == (0, "")
    proven = {row["output"].split(".")[0] for row in json.loads(again.stdout)}
    assert proven >= {"logits", *asked.split(",")}


def test_token_types_are_fed_where_the_decoder_tells_them_apart(tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "checkpoint", "text-generation", type_vocab_size=2, num_hidden_layers=1)
    assert_steps_equal(source, tmp_path / "out", reference(source, "text-generation"), types=2)


def assert_steps_equal(source: Path, folder: Path, model: Any, *, types: int = 1) -> None:
    """Check that the checkpoint's with-past bundle computes in steps what `model` computes at once."""
    result = CliRunner().invoke(export_command, [str(source), "-o", str(folder)], catch_exceptions=False)
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    decoder, encoder = configs_of(model)
    for text in make_texts(decoder, encoder=encoder, types=types):
        found = logits_of_steps(folder, "with-past", text, CHUNKS)
        assert np.abs(found - whole_logits(model, text, CHUNKS)).max() <= FP32_DIFFERENCE


@pytest.mark.parametrize("kind", ["relative_key", "relative_key_query"])
def test_relative_positions_count_the_past(tmp_path: Path, kind: str) -> None:
    source = make_checkpoint(tmp_path / "checkpoint", "text-generation", num_hidden_layers=1)
    # transformers 5 has no such model. tests/model compares ours with that of 4.57.
    model = RobertaPreLayerNormForCausalLM(
        updated_config(load_config(source), {"position_embedding_type": kind, "architectures": [CAUSAL_LM]})
    ).eval()
    draw_weights(model, seed=3)
    model.save_pretrained(source)
    assert_steps_equal(source, tmp_path / "out", model)


def test_pruned_heads_leave_smaller_caches(tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "checkpoint", "text2text-generation")
    model = EncoderDecoderModel.from_pretrained(source).eval()
    model.decoder.prune_heads({1: [0]})
    model.save_pretrained(source)
    assert_steps_equal(source, tmp_path / "out", model)
    (graph,) = [graph for graph in read_manifest(tmp_path / "out").graphs if graph.variant == "with-past"]
    heads = {name: shape[1] for name, shape in shapes(graph.inputs).items() if "key_values" in name}
    # Only heads of self-attention are pruned.
    assert heads == {
        f"{kind}_key_values.{name}": 1 if (kind, name[0]) == ("past", "1") else 2
        for kind in ("past", "cross")
        for name in KEY_VALUES
    }


# Encoders of other kinds


def test_an_encoder_of_another_architecture_is_run_elsewhere(tmp_path: Path) -> None:
    source = tmp_path / "checkpoint"
    tokenizer = make_tokenizer(source)
    bert = transformers.BertConfig(
        vocab_size=len(tokenizer), hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    fields = config_fields_of("text2text-generation", vocab_size=len(tokenizer)) | DECODER | {"num_hidden_layers": 1}
    model: Any = transformers.EncoderDecoderModel(encoder_decoder_config(bert, make_config(**fields)))
    draw_weights(model, seed=5)
    model.eval().save_pretrained(source)
    assert_fed_states(source, tmp_path / "out", model.decoder, encoder_hidden_size=24, project=model.enc_to_dec_proj)


def test_a_lone_decoder_takes_the_states_of_any_encoder(tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "checkpoint", "text-generation", add_cross_attention=True, num_hidden_layers=1)
    assert_fed_states(source, tmp_path / "out", reference(source, "text-generation"), encoder_hidden_size=HIDDEN)
    # There is no encoder, so the bundle's config is that of the decoder.
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["model_type"], config["architectures"]) == ("roberta-prelayernorm", [CAUSAL_LM])


def assert_fed_states(
    source: Path, folder: Path, decoder: Any, *, encoder_hidden_size: int, project: Callable[[Any], Any] | None = None
) -> None:
    """Check that a decoder's bundle without encoder, given hidden states, computes what transformers' decoder does."""
    arguments = [str(source), "--task", "text2text-generation", "-o", str(folder)]
    result = CliRunner().invoke(export_command, arguments, catch_exceptions=False)
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    graphs = {graph.variant: graph for graph in read_manifest(folder).graphs}
    assert shapes(graphs["cross"].inputs) == {
        "encoder_hidden_states": ["batch", "encoder_sequence", encoder_hidden_size]
    }
    text = make_texts(decoder.config)[1]
    read = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [0, 1, 1, 0, 1]], dtype=np.int64)
    states = np.random.default_rng(2).standard_normal((3, 5, encoder_hidden_size)).astype(np.float32)
    fed = dataclasses.replace(text, memory={"encoder_hidden_states": states, "attention_mask": read})
    found = logits_of_steps(folder, "with-past", fed, CHUNKS)
    with torch.inference_mode():
        memory = torch.from_numpy(states)
        whole = decoder(
            input_ids=torch.from_numpy(text.ids),
            attention_mask=torch.from_numpy(text.mask),
            position_ids=torch.from_numpy(text.positions),
            encoder_hidden_states=memory if project is None else project(memory),
            encoder_attention_mask=torch.from_numpy(read),
            use_cache=False,
        ).logits
    expected = np.stack([whole[:, end - 1].numpy() for end in np.cumsum(CHUNKS)])
    assert np.abs(found - expected).max() <= FP32_DIFFERENCE
