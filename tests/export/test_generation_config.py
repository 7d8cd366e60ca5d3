"""A bundle writes what `generate` of transformers writes with the checkpoint's generation_config.json."""

import dataclasses
import functools
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from click.testing import CliRunner, Result

from rpln_export.bundle.manifest import write_bundle_files
from rpln_export.checkpoint.tokenizer import load_tokenizer
from rpln_export.cli import export_command
from rpln_export.errors import PlanError
from rpln_export.plan.defaults import DEFAULTS
from rpln_export.plan.export_plan import ExportPlan, make_plan
from rpln_export.plan.generation_config import EXACT, FIELDS_OF_MANIFEST, NEUTRAL, OPTIONS, unsupported_fields
from rpln_runtime import Generator, generator
from rpln_runtime.generation.options import CHECKS
from rpln_runtime.manifest import read_manifest

CLASSES = {
    "text-generation": transformers.RobertaPreLayerNormForCausalLM,
    "text2text-generation": transformers.EncoderDecoderModel,
}
TEXTS = {
    "text-generation": ("The old man", "It was in the year", "He said that the"),
    "text2text-generation": ("the old man walked to the boat .", "mr. berry lives in atlanta", "i saw the dog ."),
}
EXPORTED: dict[str, Any] = {
    "max_new_tokens": 24,
    "num_beams": 3,
    "length_penalty": 1.5,
    "no_repeat_ngram_size": 3,
    "temperature": 0.7,
    "typical_p": 0.9,
    "encoder_no_repeat_ngram_size": 2,
    "renormalize_logits": False,
    "output_scores": False,
}
"""What the exported checkpoints set: options that are honoured, two fields that are not, and fields without effect."""
CASES: tuple[dict[str, Any], ...] = (
    {"no_repeat_ngram_size": 2},
    {"min_new_tokens": 22, "eos_token_id": [2, 6]},
    {"min_length": 20, "max_length": 24},
    {"bad_words_ids": [[5], [6], [7, 8], [2]]},
    {"suppress_tokens": [4, 5, 6, 8]},
    {"begin_suppress_tokens": [0, *range(5, 60)]},
    {"forced_bos_token_id": 30, "begin_suppress_tokens": [5, 6], "forced_eos_token_id": 2},
    {"num_beams": 4, "length_penalty": 2.0, "early_stopping": True},
    {"num_beams": 4, "no_repeat_ngram_size": 2, "min_length": 8, "forced_eos_token_id": 2, "early_stopping": True},
    {"num_beams": 2, "num_return_sequences": 2, "repetition_penalty": 1.3, "suppress_tokens": [4, 6]},
    {"temperature": 0.3, "top_p": 0.5},
)


@dataclass(frozen=True, kw_only=True)
class Exported:
    """An exported embedded checkpoint with another generation_config.json: its folder, its bundle and its output."""

    source: Path
    folder: Path
    result: Result


@pytest.fixture(scope="module")
def exported_with(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Exported]:
    @functools.cache
    def export(task: str) -> Exported:
        source, folder = tmp_path_factory.mktemp(task) / "checkpoint", tmp_path_factory.mktemp(task) / "bundle"
        shutil.copytree(DEFAULTS[task].folder, source)
        write_fields(source, EXPORTED)
        arguments = [str(source), "--task", task, "--optimize", "none", "-o", str(folder)]
        result = CliRunner().invoke(export_command, arguments, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return Exported(source=source, folder=folder, result=result)

    return export


def write_fields(source: Path, fields: dict[str, Any]) -> None:
    """Add fields to the generation_config.json of an embedded checkpoint, without its length."""
    path = source / "generation_config.json"
    stated = json.loads(path.read_text(encoding="utf-8"))
    stated = {name: value for name, value in stated.items() if name.endswith("token_id") and name in FIELDS_OF_MANIFEST}
    path.write_text(json.dumps(stated | fields), encoding="utf-8")


def tokens_of_transformers(source: Path, task: str, rows: list[list[int]]) -> list[list[list[int]]]:
    """Return the new tokens that `generate` chooses for each row, with all defaults of the checkpoint."""
    kind: Any = CLASSES[task]
    model = kind.from_pretrained(source, dtype=torch.float32, attn_implementation="eager").eval()
    model.generation_config = transformers.GenerationConfig.from_pretrained(source)
    return tokens_of_model(model, rows)


def tokens_of_model(model: Any, rows: list[list[int]]) -> list[list[list[int]]]:
    """Return the new tokens that `generate` chooses for each row, with the model's own generation config."""
    found = []
    for row in rows:
        ids = torch.tensor([row])
        with torch.no_grad():
            sequences = model.generate(ids, attention_mask=torch.ones_like(ids))
        start = 1 if model.config.is_encoder_decoder else len(row)
        found.append([without_padding(sequence[start:].tolist()) for sequence in sequences])
    return found


def without_padding(tokens: list[int]) -> list[int]:
    return without_padding(tokens[:-1]) if tokens and tokens[-1] == 1 else tokens


def tokens_of_bundle(generate: Generator, task: str) -> tuple[list[list[int]], list[list[list[int]]]]:
    """Return the tokens of the task's texts, and the new tokens that the bundle chooses with all its defaults."""
    rows = [generate._tokens_from_text(text) for text in TEXTS[task]]
    found = generate.tokens(rows, positions="transformers-generate")
    return rows, [[one.tokens for one in sequences] for sequences in found]


def bundle_of_plan(export: Exported, plan: ExportPlan, folder: Path) -> Path:
    """Return a copy of the exported bundle, in `folder`, that generates text as the plan says."""
    bundle = Path(shutil.copytree(export.folder, folder))
    document = json.loads((bundle / "rpln.json").read_text(encoding="utf-8"))
    assert plan.generation is not None
    document["generation"] = dataclasses.asdict(plan.generation)
    (bundle / "rpln.json").write_text(json.dumps(document), encoding="utf-8")
    return bundle


@pytest.mark.parametrize("task", CLASSES)
def test_an_exported_checkpoint_writes_what_generate_writes(
    exported_with: Callable[[str], Exported], tmp_path: Path, task: str
) -> None:
    export = exported_with(task)
    source = Path(shutil.copytree(export.source, tmp_path / "checkpoint"))
    write_fields(source, {name: EXPORTED[name] for name in EXPORTED if name != "encoder_no_repeat_ngram_size"})
    rows, found = tokens_of_bundle(generator(export.folder), task)
    assert found == tokens_of_transformers(source, task, rows)


@pytest.mark.parametrize("fields", CASES, ids=str)
@pytest.mark.parametrize("task", CLASSES)
def test_every_field_counts_as_in_generate(
    exported_with: Callable[[str], Exported], tmp_path: Path, task: str, fields: dict[str, Any]
) -> None:
    export = exported_with(task)
    source = Path(shutil.copytree(export.source, tmp_path / "checkpoint"))
    write_fields(source, {"max_new_tokens": 24} | fields if "max_length" not in fields else fields)
    plan = make_plan(str(source), task=task)
    assert plan.unsupported_generation == {}
    bundle = bundle_of_plan(export, plan, tmp_path / "bundle")
    rows, found = tokens_of_bundle(generator(bundle), task)
    assert found == tokens_of_transformers(source, task, rows)


def test_the_export_says_what_is_honoured_and_what_is_not(exported_with: Callable[[str], Exported]) -> None:
    export = exported_with("text-generation")
    honoured = {"num_beams": 3, "length_penalty": 1.5, "no_repeat_ngram_size": 3, "temperature": 0.7}
    generation = read_manifest(export.folder).generation
    assert generation is not None
    assert generation.defaults == honoured
    assert generation.max_new_tokens == 24
    report = json.loads((export.folder / "report.json").read_text(encoding="utf-8"))
    unsupported = {"typical_p": 0.9, "encoder_no_repeat_ngram_size": 2}
    assert report["generation"] == {
        "defaults": honoured,
        "unsupported": unsupported,
        "file": "generation_config.json",
    }
    for text in (export.result.stdout, (export.folder / "report.md").read_text(encoding="utf-8")):
        (warning,) = (line for line in text.splitlines() if line.startswith("Warning: generation_config.json"))
        (said,) = (line for line in text.splitlines() if line.startswith("generation_config.json sets"))
        assert [name for name in unsupported if f"{name} {unsupported[name]}" not in warning] == []
        assert [name for name in honoured if f"{name} {honoured[name]}" not in said] == []
        assert "output_scores" not in text


@pytest.mark.parametrize("name", ["max_new_tokens", "max_length"])
def test_lengths_that_no_manifest_holds_are_refused_before_any_work(tmp_path: Path, name: str) -> None:
    source = Path(shutil.copytree(DEFAULTS["text-generation"].folder, tmp_path / "checkpoint"))
    write_fields(source, {name: 2**31})
    with pytest.raises(PlanError, match=f"{name} is 2147483648, expected an integer from 1 to 2147483647"):
        make_plan(str(source))


# -- the table of fields -----------------------------------------------------------------------------------------------


def test_each_field_of_transformers_has_one_place_in_the_table() -> None:
    table = [*FIELDS_OF_MANIFEST, *OPTIONS, *EXACT, *NEUTRAL]
    assert len(set(table)) == len(table)
    assert set(OPTIONS) <= CHECKS.keys()
    usual = transformers.GenerationConfig()
    defaults = {name: value for name, value in usual.to_dict().items() if value is not None}
    if hasattr(usual, "_get_default_generation_params"):  # transformers 5, whose fields are all None
        defaults |= {name: value for name, value in usual._get_default_generation_params().items() if value is not None}
    assert unsupported_fields(defaults) == {}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"sequence_bias": [[[5], -2.0]], "guidance_scale": 1.5}, ["sequence_bias", "guidance_scale"]),
        ({"typical_p": 1.0, "num_beam_groups": 1, "guidance_scale": 1.0, "use_cache": False}, []),
        ({"do_sample": True, "num_beams": 4, "temperature": 0.5}, ["num_beams"]),
        ({"of_a_later_version": 3}, ["of_a_later_version"]),
    ],
    ids=str,
)
def test_fields_that_may_change_texts_are_named(fields: dict[str, Any], expected: list[str]) -> None:
    assert sorted(unsupported_fields(fields)) == sorted(expected)


# -- checkpoints without the file --------------------------------------------------------------------------------------

IN_CONFIG: tuple[dict[str, Any], ...] = (
    {"num_beams": 4, "length_penalty": 2.0, "early_stopping": True, "no_repeat_ngram_size": 3, "max_length": 25},
    {"min_length": 20, "max_length": 24, "bad_words_ids": [[5], [6]], "repetition_penalty": 1.3},
    {"max_length": 9, "do_sample": False, "num_beams": 1, "top_k": 50, "suppress_tokens": [4, 6], "use_cache": True},
)
PLACES = [("text-generation", ()), ("text2text-generation", ()), ("text2text-generation", ("decoder",))]


def write_into_config(source: Path, place: tuple[str, ...], fields: dict[str, Any]) -> None:
    """Write fields where transformers had them before there was a generation_config.json, and remove that file."""
    (source / "generation_config.json").unlink(missing_ok=True)
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    functools.reduce(dict.__getitem__, place, config).update(fields)
    (source / "config.json").write_text(json.dumps(config), encoding="utf-8")


@pytest.mark.parametrize("fields", IN_CONFIG, ids=str)
@pytest.mark.parametrize(("task", "place"), PLACES, ids=str)
def test_without_the_file_the_fields_of_the_config_count_as_in_generate(
    exported_with: Callable[[str], Exported],
    tmp_path: Path,
    task: str,
    place: tuple[str, ...],
    fields: dict[str, Any],
) -> None:
    export = exported_with(task)
    source = Path(shutil.copytree(export.source, tmp_path / "checkpoint"))
    write_into_config(source, place, fields)
    plan = make_plan(str(source), task=task)
    assert plan.stated_generation.file == "config.json"
    assert plan.generation is not None
    bundle = bundle_of_plan(export, plan, tmp_path / "bundle")
    rows, found = tokens_of_bundle(generator(bundle), task)
    kind: Any = CLASSES[task]
    model = kind.from_pretrained(source, dtype=torch.float32, attn_implementation="eager").eval()
    assert found == tokens_of_model(model, rows)
    # What transformers and Optimum read of the bundle says the same, and options with their defaults are not listed.
    write_bundle_files(bundle, plan, load_tokenizer(str(source), revision=None, vocab_size=2**20)[0])
    reread = kind.from_pretrained(source, dtype=torch.float32, attn_implementation="eager").eval()
    reread.generation_config = transformers.GenerationConfig.from_pretrained(bundle)
    assert found == tokens_of_model(reread, rows)
    assert plan.generation.defaults.keys() == fields.keys() - {
        "max_length",
        "do_sample",
        "top_k",
        "use_cache",
        *(["num_beams"] if fields.get("num_beams") == 1 else []),
    }


def test_a_config_that_states_no_more_than_ids_says_nothing(tmp_path: Path) -> None:
    for task, place in PLACES:
        source = Path(shutil.copytree(DEFAULTS[task].folder, tmp_path / f"{task}{place}"))
        write_into_config(source, place, {"num_beams": 1, "diversity_penalty": 0.0, "typical_p": 1.0})
        plan = make_plan(str(source), task=task)
        assert plan.stated_generation.fields == {}
        assert plan.generation is not None
        assert plan.generation.defaults == {}


@pytest.mark.parametrize(
    ("fields", "facts"),
    [
        ({"num_beams": 0}, r"config\.json cannot be followed: num_beams is 0.* Correct it there"),
        ({"max_length": "20"}, r"max_length is '20', expected an integer .* Correct it in config\.json"),
        ({"suppress_tokens": [10**6]}, r"config\.json cannot be followed: a token of suppress_tokens is 1000000"),
    ],
    ids=str,
)
def test_fields_of_the_config_that_cannot_be_are_refused(tmp_path: Path, fields: dict[str, Any], facts: str) -> None:
    source = Path(shutil.copytree(DEFAULTS["text-generation"].folder, tmp_path / "checkpoint"))
    write_into_config(source, (), fields)
    with pytest.raises(PlanError, match=facts):
        make_plan(str(source))


def test_fields_of_the_config_that_are_not_supported_are_named(tmp_path: Path) -> None:
    source = Path(shutil.copytree(DEFAULTS["text2text-generation"].folder, tmp_path / "checkpoint"))
    write_into_config(source, ("decoder",), {"encoder_no_repeat_ngram_size": 4})
    plan = make_plan(str(source))
    assert plan.unsupported_generation == {"encoder_no_repeat_ngram_size": 4}
