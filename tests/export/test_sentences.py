"""Bundles of sentence-transformers folders answer as the library's own `encode` does.

The tolerance is that of fp32 answers elsewhere: the values reach about 6, where two implementations differ by 1e-6.
"""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from rpln_export.checkpoint.model import load_model
from rpln_export.cli import export_command, rpln_command
from rpln_export.errors import PlanError
from rpln_export.plan.export_plan import make_plan
from rpln_export.plan.text_graph import TEXT_GRAPH
from rpln_model import CheckpointError
from rpln_runtime import InputError, ManifestError, pipeline
from rpln_runtime.manifest import read_manifest, write_manifest
from tests.export.sentence_folders import POOLINGS, change, dense, encoded, make_old, normalize, save_sentences
from tests.text_graphs import TextGraph, needs_operators

TASK: Final = "feature-extraction"
TOLERANCE: Final = 1e-5
TEXTS: Final = (
    "The dog barked and the cat slept.",
    "a",
    "",
    "  Ada Lovelace, in LONDON ",
    "Is this <mask> a question? " * 12,
    "naïve café 東京 😀",
)

Folders = Callable[[str], Path]


def _joined(folder: Path, checkpoint: Path) -> None:
    save_sentences(
        folder,
        checkpoint,
        poolings=POOLINGS,
        prompts={"query": "Is this: ", "passage": "Ada "},
        default_prompt_name="passage",
        truncate_dim=5 * 32 + 7,
    )
    change(folder / "tokenizer_config.json", lambda fields: {**fields, "model_max_length": 30})


def _old(folder: Path, checkpoint: Path) -> None:
    layers = [dense(32, 24), dense(24, 20, activation_function=None, bias=False), normalize()]
    save_sentences(folder, checkpoint, poolings=["mean"], layers=layers)
    make_old(folder, max_seq_length=21, do_lower_case=True)


def _layered(folder: Path, checkpoint: Path) -> None:
    save_sentences(folder, checkpoint, poolings=POOLINGS, layers=[dense(32 * len(POOLINGS), 24), normalize()])


ANSWERING: Final = {"joined": _joined, "old": _old}
FOLDERS: Final = {**ANSWERING, "layered": _layered}


@pytest.fixture(scope="module")
def folders(checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Folders:
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp("sentences") / name
            FOLDERS[name](made[name], checkpoint(TASK))
        return made[name]

    return folder


@pytest.fixture(scope="module")
def bundles(folders: Folders, tmp_path_factory: pytest.TempPathFactory) -> Folders:
    made: dict[str, Path] = {}

    def bundle(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp("bundles") / name
            export(folders(name), made[name])
        return made[name]

    return bundle


def export(source: Path, folder: Path, *options: str) -> str:
    result = CliRunner().invoke(export_command, [str(source), "-o", str(folder), *options], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("name", ANSWERING)
@pytest.mark.parametrize("batch_size", [1, 6])
def test_answers_are_those_of_encode(folders: Folders, bundles: Folders, name: str, batch_size: int) -> None:
    expected = encoded(folders(name), TEXTS)
    found = np.stack(pipeline(bundles(name), batch_size=batch_size)(list(TEXTS)))
    assert found.shape == expected.shape
    assert np.abs(expected).max() > 0.1
    assert np.abs(found - expected).max() <= TOLERANCE


@pytest.mark.parametrize("options", [{"prompt_name": "query"}, {"prompt_name": "document"}, {"prompt": "Who? "}])
def test_prompts_are_those_of_encode(folders: Folders, bundles: Folders, options: dict[str, str]) -> None:
    expected, default = (encoded(folders("joined"), TEXTS, **given) for given in (options, {}))
    found = np.stack(pipeline(bundles("joined"))(list(TEXTS), **options))
    assert np.abs(found - expected).max() <= TOLERANCE
    assert np.abs(found - default).max() > 100 * TOLERANCE


@needs_operators
def test_the_graph_from_texts_cuts_them_where_encode_does(folders: Folders, tmp_path: Path) -> None:
    output = export(folders("joined"), tmp_path / "out", "--with-tokenizer", "--optimize", "none")
    assert "puts no prompt before them" in output
    found = TextGraph(tmp_path / "out" / TEXT_GRAPH)(TEXTS)["sentence_embedding"]
    assert np.abs(found - encoded(folders("joined"), TEXTS, prompt="")).max() <= TOLERANCE


def test_hidden_states_are_left_as_they_are_if_asked_for(folders: Folders, bundles: Folders, tmp_path: Path) -> None:
    export(folders("joined"), tmp_path / "out", "--pooling", "none")
    found = pipeline(tmp_path / "out")(list(TEXTS))
    expected = encoded(folders("joined"), TEXTS, output_value="token_embeddings")
    for ours, theirs in zip(found, expected, strict=True):
        assert np.abs(ours[0] - theirs.numpy()).max() <= TOLERANCE


def test_a_call_may_normalize_and_may_refuse_long_texts(folders: Folders, bundles: Folders) -> None:
    ask = pipeline(bundles("joined"))
    expected = encoded(folders("joined"), TEXTS, normalize_embeddings=True)
    assert np.abs(np.stack(ask(list(TEXTS), normalize=True)) - expected).max() <= TOLERANCE
    with pytest.raises(InputError, match=r"a text has \d+ tokens, but the limit of this model is 64"):
        ask(TEXTS[4] * 2, truncation=False)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pooling": "mean"}, r"pools by itself .*--pooling none"),
        ({"prompt_name": "another"}, r"prompt_name is 'another'.*'query', 'document', 'passage'"),
        ({"prompt_name": "query", "prompt": "a"}, "Leave out one of them"),
        ({"truncation": "no"}, "truncation is 'no'"),
        ({"prompt": 3}, "prompt is 3"),
    ],
)
def test_options_that_the_bundle_does_not_have_are_refused(
    bundles: Folders, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        pipeline(bundles("joined"), **options)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_graphs_that_pool_are_proven_in_every_precision_and_packed(
    folders: Folders, tmp_path: Path, precision: str
) -> None:
    export(folders("layered"), tmp_path / "out", "--pack-padding", "--precision", precision)
    manifest = read_manifest(tmp_path / "out")
    (output,) = manifest.graphs[0].outputs
    assert (output.name, output.shape) == ("sentence_embedding", ("batch", 24))
    assert manifest.passes["PackTokens"] == 2


def test_a_bundle_is_proven_again(folders: Folders, bundles: Folders) -> None:
    arguments = ["validate", str(bundles("old")), str(folders("old"))]
    result = CliRunner().invoke(rpln_command, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    weights = next(folders("old").glob("2_Dense/pytorch_model.bin"))
    content = weights.read_bytes()
    try:
        change_a_weight(weights)
        result = CliRunner().invoke(rpln_command, arguments, catch_exceptions=False)
    finally:
        weights.write_bytes(content)
    assert "which has other weights" in result.output


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (None, "sentences.poolings holds 0 names, expected some"),
        ({"poolings": ()}, "sentences.poolings holds 0 names, expected some"),
        ({"default_prompt": "mine"}, "sentences.default_prompt is 'mine', expected one of prompts"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(
    bundles: Folders, tmp_path: Path, changes: dict[str, Any] | None, words: str
) -> None:
    shutil.copytree(bundles("old"), tmp_path / "copy")
    manifest = read_manifest(tmp_path / "copy")
    assert manifest.sentences is not None
    sentences = None if changes is None else replace(manifest.sentences, **changes)
    write_manifest(tmp_path / "copy", replace(manifest, sentences=sentences))
    with pytest.raises(ManifestError, match=words):
        read_manifest(tmp_path / "copy")


def change_a_weight(path: Path) -> None:
    weights = torch.load(path, weights_only=True)
    weights["linear.weight"][0, 0] += 1
    torch.save(weights, path)


def entry(**fields: Any) -> Callable[[Any], Any]:
    """Return a function that changes fields of a JSON object."""
    return lambda old: {**old, **fields}


def of_module(place: int, **fields: Any) -> Callable[[Any], Any]:
    """Return a function that changes fields of an entry of modules.json."""
    return lambda old: [{**module, **(fields if index == place else {})} for index, module in enumerate(old)]


REFUSED: Final[dict[str, tuple[str, Callable[[Any], Any], str]]] = {
    "another module": (
        "modules.json",
        of_module(2, type="sentence_transformers.models.LSTM"),
        r"modules\.json lists the module sentence_transformers\.models\.LSTM, which is not supported",
    ),
    "code of the folder": ("modules.json", of_module(1, type="mine.Pooling"), r"lists the module mine\.Pooling"),
    "a class without a package": ("modules.json", of_module(1, type="Pooling"), "lists the module Pooling, which is"),
    "a path too long": ("modules.json", of_module(1, path="a" * 300), "which is not in the folder"),
    "another order": (
        "modules.json",
        lambda old: [old[0], old[2], old[1]],
        "lists the modules Transformer, Dense, Pooling, expected Transformer, Pooling and then any of Dense, Normalize",
    ),
    "no modules": ("modules.json", lambda _: [], "lists the modules none"),
    "no list": ("modules.json", lambda _: {"type": 1}, "is no list of modules"),
    "a path out": ("modules.json", of_module(1, path="../1_Pooling"), r"the path '\.\./1_Pooling', which is not in"),
    "another pooling": (
        "1_Pooling/config.json",
        entry(pooling_mode="median"),
        "pooling_mode 'median', expected any of",
    ),
    "pooling without the prompt": (
        "1_Pooling/config.json",
        entry(include_prompt="no"),
        "include_prompt 'no', expected true or false",
    ),
    "an unknown field": (
        "1_Pooling/config.json",
        entry(window=3),
        r"1_Pooling/config\.json has window 3, which is not",
    ),
    "another activation": (
        "2_Dense/config.json",
        entry(activation_function="os.system"),
        r"2_Dense/config\.json has the activation_function 'os\.system', which is not supported",
    ),
    "an activation that is none": (
        "2_Dense/config.json",
        entry(activation_function=[]),
        "activation_function \\[\\], whi",
    ),
    "another size": ("2_Dense/config.json", entry(in_features=31), "in_features 31, but the vectors of .* have 192"),
    "no size": ("2_Dense/config.json", entry(out_features=None), "has no out_features, expected a positive"),
    "a bias that is none": ("2_Dense/config.json", entry(bias="no"), "bias 'no', expected true or false"),
    "a switch that is none": (
        "1_Pooling/config.json",
        entry(pooling_mode_max_tokens="no"),
        "pooling_mode_max_tokens 'no', expected true or false",
    ),
    "a size that is none": ("2_Dense/config.json", entry(out_features=-1), "out_features -1, expected a positive"),
    "another input": (
        "2_Dense/config.json",
        entry(module_input_name="token_embeddings"),
        "module_input_name 'token_embeddings', expected 'sentence_embedding'",
    ),
    "vectors of tokens": (
        "3_Normalize/config.json",
        entry(module_input_name="token_embeddings"),
        "module_input_name 'token_embeddings', expected 'sentence_embedding'",
    ),
    "another kind of model": (
        "config_sentence_transformers.json",
        entry(model_type="SparseEncoder"),
        "model_type 'SparseEncoder', expected SentenceTransformer",
    ),
    "no such prompt": (
        "config_sentence_transformers.json",
        entry(default_prompt_name="mine"),
        "default_prompt_name 'mine', expected one of query, document",
    ),
    "prompts that are none": (
        "config_sentence_transformers.json",
        entry(prompts={"query": 1}),
        "expected an object of",
    ),
    "settings that are none": ("config_sentence_transformers.json", lambda _: [], "is not a JSON object"),
    "another length": ("sentence_bert_config.json", entry(max_seq_length="long"), "max_seq_length 'long', expected a"),
    "another use of the network": (
        "sentence_bert_config.json",
        entry(transformer_task="fill-mask"),
        "transformer_task 'fill-mask', expected 'feature-extraction'",
    ),
    "arguments": ("sentence_bert_config.json", entry(tokenizer_args={"a": 1}), "tokenizer_args .* which is not"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_supported_is_refused_before_any_work(folders: Folders, tmp_path: Path, case: str) -> None:
    path, changed, words = REFUSED[case]
    shutil.copytree(folders("layered"), tmp_path / "copy")
    change(tmp_path / "copy" / path, changed)
    with pytest.raises(PlanError, match=words) as refused:
        make_plan(str(tmp_path / "copy"))
    assert str(tmp_path / "copy") in str(refused.value)


def test_a_pooling_without_the_prompt_is_exported_where_there_are_no_prompts(folders: Folders, tmp_path: Path) -> None:
    folder, bundle = Path(shutil.copytree(folders("layered"), tmp_path / "copy")), tmp_path / "bundle"
    change(folder / "1_Pooling" / "config.json", entry(include_prompt=False))
    export(folder, bundle)
    expected = encoded(folder, TEXTS)
    found = np.stack(pipeline(bundle, prompt_name="query")(list(TEXTS)))  # one of those that are empty
    assert np.abs(found - expected).max() <= TOLERANCE
    with pytest.raises(InputError, match="leaves the tokens of a prompt out of its vectors"):
        pipeline(bundle, prompt="Who? ")

    change(folder / "config_sentence_transformers.json", entry(prompts={"query": "Who? "}))
    with pytest.raises(PlanError, match="include_prompt false, which is not supported beside the prompts"):
        make_plan(str(folder))


def test_a_dense_without_its_weights_is_refused(folders: Folders, tmp_path: Path) -> None:
    shutil.copytree(folders("layered"), tmp_path / "copy")
    change(tmp_path / "copy" / "2_Dense" / "config.json", entry(bias=False))
    with pytest.raises(CheckpointError, match=r"(?s)weights in .*2_Dense do not fit its config\.json .*linear\.bias"):
        load_model(make_plan(str(tmp_path / "copy")))


def test_a_dense_of_a_size_beyond_all_memory_is_refused(folders: Folders, tmp_path: Path) -> None:
    shutil.copytree(folders("layered"), tmp_path / "copy")
    change(tmp_path / "copy" / "2_Dense" / "config.json", entry(out_features=2**31 - 1))
    with pytest.raises(CheckpointError, match=r"weights in .*2_Dense do not fit its config\.json"):
        load_model(make_plan(str(tmp_path / "copy")))


@pytest.mark.parametrize(
    ("task", "pooling", "words"),
    [
        ("fill-mask", ["mean"], "--pooling is an option of feature-extraction, but the task is fill-mask"),
        (TASK, ["first"], "unknown pooling 'first': choose one of cls, max, mean"),
        (TASK, ["none", "mean"], "Give no other pooling with it"),
    ],
)
def test_poolings_that_cannot_be_are_refused(
    checkpoint: Callable[[str], Path], task: str, pooling: list[str], words: str
) -> None:
    with pytest.raises(PlanError, match=words):
        make_plan(str(checkpoint(task)), task=task, pooling=pooling)


def test_other_tasks_take_the_network_alone(folders: Folders) -> None:
    plan = make_plan(str(folders("layered")), task="fill-mask")
    assert plan.sentences is None
