"""Checkpoints of encoder-decoders are loaded and saved, with an encoder of this architecture, another, or none."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from transformers import BertConfig, EncoderDecoderConfig, RobertaPreLayerNormConfig, T5Config

from rpln_model import (
    CheckpointError,
    ConfigError,
    EncoderDecoderModel,
    ModelInputError,
    RobertaPreLayerNormForCausalLM,
    RplnModelError,
    load_composition,
)
from rpln_model.composition import ENCODER_DECODER, FOREIGN_ENCODER, PLAIN
from tests.model.encoder_decoders import (
    DECODER_VOCABULARY,
    START,
    WIDE,
    bert_config,
    decoder_config,
    joined_config,
    pair,
    reference_of,
)
from tests.model.references import (
    HIDDEN,
    LAYERS,
    LENGTH,
    OUTPUT_TOLERANCE,
    PAD,
    difference,
    names,
    random_ids,
    random_values,
    reference_model,
    tiny_config,
)
from tests.model.savers import SAVERS

CAUSAL = "RobertaPreLayerNormForCausalLM"
FIXTURES = Path(__file__).parents[1] / "data"
WIDTHS = pytest.mark.parametrize("width", [HIDDEN, WIDE], ids=["equal widths", "projected"])


def logits_of(model: Any, *, vocabulary: int = DECODER_VOCABULARY) -> torch.Tensor:
    ids, targets = random_ids(3, LENGTH, high=vocabulary), random_ids(3, 4, high=vocabulary, seed=4)
    with torch.no_grad():
        logits: torch.Tensor = model(ids, decoder_input_ids=targets).logits
    return logits


@WIDTHS
@pytest.mark.parametrize("form", SAVERS)
def test_what_transformers_saves_loads_here(*, form: str, width: int, tmp_path: Path) -> None:
    reference = reference_of(joined_config(tiny_config(hidden_size=width)))
    SAVERS[form](reference, tmp_path)
    ours, info = EncoderDecoderModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    assert not ours.training
    assert difference(logits_of(ours), logits_of(reference)) <= OUTPUT_TOLERANCE
    assert ours.config.name_or_path == str(tmp_path)


@pytest.mark.parametrize("line", ["4x", "5x"])
def test_what_either_line_of_transformers_saved_loads_here(line: str) -> None:
    """One folder was made by each version, in half precision; both are tried with the version that is installed."""
    folder = FIXTURES / f"checkpoints-{line}" / "text2text-generation"
    ours, info = EncoderDecoderModel.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values())
    assert ours.enc_to_dec_proj is not None
    reference: Any = transformers.EncoderDecoderModel.from_pretrained(folder, dtype=torch.float32)
    assert difference(logits_of(ours), logits_of(reference.eval())) <= OUTPUT_TOLERANCE


@WIDTHS
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("shard_size", ["5GB", "12KB"])
def test_what_is_saved_here_loads_in_transformers(*, shard_size: str, tied: bool, width: int, tmp_path: Path) -> None:
    _, ours = pair(tiny_config(hidden_size=width), tie_word_embeddings=tied)
    ours.save_pretrained(tmp_path, max_shard_size=shard_size)
    theirs: Any = transformers.EncoderDecoderModel
    reference, info = theirs.from_pretrained(tmp_path, output_loading_info=True, attn_implementation="eager")
    assert not any(info.values())
    assert difference(logits_of(ours), logits_of(reference)) <= OUTPUT_TOLERANCE
    assert reference.config.architectures == ["EncoderDecoderModel"]
    again, missing = EncoderDecoderModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(missing.values())
    assert difference(logits_of(again), logits_of(ours)) == 0


def test_the_saved_names_are_those_that_transformers_saves(tmp_path: Path) -> None:
    for model, folder in zip(
        pair(tiny_config(hidden_size=WIDE)), (tmp_path / "theirs", tmp_path / "ours"), strict=True
    ):
        model.save_pretrained(folder)
    theirs, ours = (load_file(tmp_path / name / "model.safetensors").keys() for name in ("theirs", "ours"))
    assert ours == theirs
    assert "decoder.lm_head.decoder.weight" not in ours


def test_the_decoders_embeddings_are_tied(tmp_path: Path) -> None:
    reference_of(joined_config()).save_pretrained(tmp_path)
    model = EncoderDecoderModel.from_pretrained(tmp_path)
    assert model.decoder.lm_head.decoder.weight is model.decoder.get_input_embeddings().weight
    assert model.decoder.lm_head.decoder.bias is model.decoder.lm_head.bias


def test_weights_get_the_dtype_asked_for(tmp_path: Path) -> None:
    reference_of(joined_config(tiny_config(hidden_size=WIDE))).save_pretrained(tmp_path)
    model = EncoderDecoderModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def without(prefix: str) -> Callable[[Path], None]:
    def remove(folder: Path) -> None:
        path = folder / "pytorch_model.bin"
        weights = torch.load(path, weights_only=True)
        torch.save({name: value for name, value in weights.items() if not name.startswith(prefix)}, path)

    return remove


def test_missing_weights_are_named_and_initialised(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    reference = reference_of(joined_config(tiny_config(hidden_size=WIDE, initializer_range=3.0), initializer_range=0.1))
    SAVERS["pickle"](reference, tmp_path)
    for prefix in ("enc_to_dec_proj", "encoder.pooler.dense.weight", "decoder.lm_head.dense"):
        without(prefix)(tmp_path)
    with caplog.at_level(logging.WARNING, logger="transformers"):
        model, info = EncoderDecoderModel.from_pretrained(tmp_path, output_loading_info=True)
    assert set(info["missing_keys"]) == {
        "enc_to_dec_proj.weight",
        "enc_to_dec_proj.bias",
        "encoder.pooler.dense.weight",
        "decoder.lm_head.dense.weight",
        "decoder.lm_head.dense.bias",
    }
    assert "enc_to_dec_proj.bias" in caplog.text
    # Each part is initialised by its own config, the projection by the decoder's.
    for name, deviation in (
        ("enc_to_dec_proj.weight", 0.1),
        ("encoder.pooler.dense.weight", 3.0),
        ("decoder.lm_head.dense.weight", 0.1),
    ):
        assert 0.8 * deviation < model.get_parameter(name).std() < 1.2 * deviation
    assert model.get_parameter("enc_to_dec_proj.bias").abs().max() == 0


def test_wrong_shapes_are_refused_by_name_or_ignored(tmp_path: Path) -> None:
    config: Any = joined_config()
    reference_of(config).save_pretrained(tmp_path)
    config.decoder.vocab_size = 50
    with pytest.raises(CheckpointError, match=r"decoder\.roberta_prelayernorm\.embeddings\.word_embeddings\.weight is"):
        EncoderDecoderModel.from_pretrained(tmp_path, config=config)
    _, info = EncoderDecoderModel.from_pretrained(
        tmp_path, config=config, ignore_mismatched_sizes=True, output_loading_info=True
    )
    assert names(info, "mismatched_keys") == {
        "decoder.roberta_prelayernorm.embeddings.word_embeddings.weight",
        "decoder.lm_head.bias",
    }


def test_parts_are_resized_and_saved_with_the_whole(tmp_path: Path) -> None:
    _, ours = pair()
    ours.decoder.resize_token_embeddings(50)
    ours.encoder.prune_heads({0: [1]})  # type: ignore[union-attr]  # this one has an encoder
    ours.save_pretrained(tmp_path)
    again, info = EncoderDecoderModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    assert logits_of(again).shape[-1] == 50
    assert difference(logits_of(again), logits_of(ours)) == 0


def test_overrides_go_to_the_config(tmp_path: Path) -> None:
    reference_of(joined_config()).save_pretrained(tmp_path)
    model = EncoderDecoderModel.from_pretrained(tmp_path, decoder_start_token_id=7, pad_token_id=3)
    assert (model.config.decoder_start_token_id, model.config.pad_token_id) == (7, 3)
    with pytest.raises(TypeError, match="unexpected keyword argument 'hidden_size'"):
        EncoderDecoderModel.from_pretrained(tmp_path, hidden_size=7)


def test_a_callable_activation_of_a_part_cannot_be_saved(tmp_path: Path) -> None:
    config = joined_config()
    vars(config.decoder)["hidden_act"] = torch.tanh
    with pytest.raises(CheckpointError, match=r"hidden_act.*config\.json"):
        EncoderDecoderModel(config).save_pretrained(tmp_path)


# -- encoders that are elsewhere -----------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [HIDDEN, WIDE], ids=["equal widths", "projected"])
def test_a_foreign_encoder_is_left_out_and_its_projection_kept(width: int, tmp_path: Path) -> None:
    reference = reference_of(joined_config(bert_config(hidden_size=width)))
    reference.save_pretrained(tmp_path)
    model, info = EncoderDecoderModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    assert (model.encoder, model.enc_to_dec_proj is not None) == (None, width != HIDDEN)
    states, targets = random_values(3, LENGTH, width), random_ids(3, 4, high=DECODER_VOCABULARY)
    with torch.no_grad():
        got, expected = (
            each(decoder_input_ids=targets, encoder_outputs=(states,), use_cache=True) for each in (model, reference)
        )
        cross = model.cross_key_values(states)
    assert difference(got.logits, expected.logits) <= OUTPUT_TOLERANCE
    for (key, value), layer in zip(cross, expected.past_key_values.cross_attention_cache.layers, strict=True):
        assert difference(key, layer.keys) <= OUTPUT_TOLERANCE
        assert difference(value, layer.values) <= OUTPUT_TOLERANCE
    with pytest.raises(CheckpointError, match=r"encoder.* 'bert'.* model\.decoder\.save_pretrained"):
        model.save_pretrained(tmp_path / "again")
    model.decoder.save_pretrained(tmp_path / "decoder")
    again, info = RobertaPreLayerNormForCausalLM.from_pretrained(tmp_path / "decoder", output_loading_info=True)
    assert not any(info.values())
    assert again.config.add_cross_attention


@pytest.mark.parametrize("architecture", [CAUSAL, "RobertaPreLayerNormModel"])
def test_a_decoder_alone_is_one_whose_encoder_is_elsewhere(architecture: str, tmp_path: Path) -> None:
    reference = reference_model(architecture, decoder_config())
    reference.save_pretrained(tmp_path)
    model, info = EncoderDecoderModel.from_pretrained(tmp_path, output_loading_info=True)
    alone, expected = RobertaPreLayerNormForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    for kind in ("missing_keys", "unexpected_keys"):
        assert set(info[kind]) == {f"decoder.{name}" for name in expected[kind]}
    assert (model.encoder, model.enc_to_dec_proj) == (None, None)
    states, targets = random_values(3, LENGTH, HIDDEN), random_ids(3, 4, high=DECODER_VOCABULARY)
    with torch.no_grad():
        got = model.decoder.base_model(targets, encoder_hidden_states=states)
        expected = alone.base_model(targets, encoder_hidden_states=states)
        assert difference(got.last_hidden_state, expected.last_hidden_state) == 0
        for mine, theirs in zip(model.cross_key_values(states), alone.cross_key_values(states), strict=True):
            assert torch.equal(mine[0], theirs[0])
            assert torch.equal(mine[1], theirs[1])
    with pytest.raises(ModelInputError, match=r"decoder's checkpoint.* encoder_outputs"):
        model.encode(targets)
    with pytest.raises(CheckpointError, match=r"decoder's checkpoint.* model\.decoder\.save_pretrained"):
        model.save_pretrained(tmp_path / "again")


def test_keys_and_values_of_a_memory_need_cross_attention() -> None:
    decoder = RobertaPreLayerNormForCausalLM(tiny_config(is_decoder=True))
    with pytest.raises(ModelInputError, match=r"no cross-attention.* add_cross_attention=True"):
        decoder.cross_key_values(random_values(3, LENGTH, HIDDEN))


# -- what a checkpoint is made of ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "kind", "encoder_type", "width", "projected", "start"),
    [
        (tiny_config(), PLAIN, None, None, False, None),
        (tiny_config(is_decoder=True), PLAIN, None, None, False, None),
        (decoder_config(), PLAIN, None, HIDDEN, False, None),
        (joined_config(), ENCODER_DECODER, "roberta-prelayernorm", HIDDEN, False, START),
        (joined_config(tiny_config(hidden_size=WIDE)), ENCODER_DECODER, "roberta-prelayernorm", WIDE, True, START),
        (joined_config(bert_config()), FOREIGN_ENCODER, "bert", WIDE, True, START),
        (joined_config(T5Config(d_model=48)), FOREIGN_ENCODER, "t5", 48, True, START),
    ],
    ids=["encoder", "decoder", "cross decoder", "equal widths", "projected", "bert", "t5"],
)
def test_what_a_checkpoint_is_made_of(
    *,
    config: Any,
    kind: str,
    encoder_type: str | None,
    width: int | None,
    projected: bool,
    start: int | None,
    tmp_path: Path,
) -> None:
    config.save_pretrained(tmp_path)
    found = load_composition(tmp_path)
    assert (found.kind, found.encoder_type, found.encoder_hidden_size) == (kind, encoder_type, width)
    assert (found.projected, found.start_token_id, found.pad_token_id) == (projected, start, PAD)
    assert isinstance(found.config, RobertaPreLayerNormConfig if kind == PLAIN else EncoderDecoderConfig)
    assert found.config.name_or_path == str(tmp_path)
    assert (found.decoder.model_type, found.decoder.num_hidden_layers) == ("roberta-prelayernorm", LAYERS)
    assert (found.encoder is not None) == (kind == ENCODER_DECODER)
    assert found.encoder is None or found.encoder.hidden_size == width


def test_token_ids_of_the_whole_come_before_the_decoders(tmp_path: Path) -> None:
    config = joined_config()
    config.decoder_start_token_id = config.pad_token_id = None
    config.save_pretrained(tmp_path)
    edit(tmp_path, decoder={"pad_token_id": 5, "decoder_start_token_id": 9})
    found = load_composition(tmp_path)
    assert (found.start_token_id, found.pad_token_id) == (9, 5)
    edit(tmp_path, pad_token_id=6, decoder_start_token_id=0)
    found = load_composition(tmp_path)
    assert (found.start_token_id, found.pad_token_id) == (0, 6)


def edit(folder: Path, **fields: Any) -> None:
    """Set fields of config.json, or of a part of it."""
    path = folder / "config.json"
    content = json.loads(path.read_text())
    for name, value in fields.items():
        content[name] = content[name] | value if isinstance(value, dict) else value
    path.write_text(json.dumps(content))


def remove(folder: Path, name: str) -> None:
    path = folder / "config.json"
    content = json.loads(path.read_text())
    del content[name]
    path.write_text(json.dumps(content))


# What is done to the folder, and what the error says.
DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "foreign decoder": (
        lambda folder: edit(folder, decoder=BertConfig(is_decoder=True, add_cross_attention=True).to_dict()),
        "decoder.* 'bert'.* 'roberta-prelayernorm'",
    ),
    "no decoder": (
        lambda folder: edit(folder, decoder={"is_decoder": False}),
        r"is_decoder=False.* 'decoder' in config\.json",
    ),
    "no cross-attention": (
        lambda folder: edit(folder, decoder={"add_cross_attention": False}),
        r"add_cross_attention=False.* 'decoder' in config\.json",
    ),
    "widths that differ without a projection": (
        lambda folder: edit(folder, decoder={"cross_attention_hidden_size": WIDE}),
        "cross_attention_hidden_size is 32.* hidden_size 24.* encoder's hidden_size 32",
    ),
    "widths that contradict": (
        lambda folder: edit(folder, decoder={"cross_attention_hidden_size": HIDDEN}),
        "cross_attention_hidden_size is 24.* hidden_size 24.* encoder's hidden_size 32",
    ),
    "part that is missing": (
        lambda folder: remove(folder, "decoder"),
        r"config\.json .* 'decoder'",
    ),
    "part that is none": (
        lambda folder: edit(folder, encoder=7),
        r"config\.json .* 'encoder'",
    ),
    "encoder of a type that nobody knows": (
        lambda folder: edit(folder, encoder={"model_type": "nonsense"}),
        r"config\.json.*nonsense",
    ),
    "another architecture": (
        lambda folder: T5Config().save_pretrained(folder),
        r"'t5'.* 'roberta-prelayernorm' or 'encoder-decoder'",
    ),
    "no config": (
        lambda folder: (folder / "config.json").unlink(),
        r"no config\.json in .*roberta-prelayernorm or encoder-decoder",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_configuration_is_refused(damage: str, tmp_path: Path) -> None:
    do, message = DAMAGE[damage]
    reference_of(joined_config(tiny_config(hidden_size=WIDE))).save_pretrained(tmp_path)
    load_composition(tmp_path)
    do(tmp_path)
    for load in (load_composition, EncoderDecoderModel.from_pretrained):
        with pytest.raises(RplnModelError, match=message):
            load(tmp_path)


def test_an_encoder_without_a_width_is_refused() -> None:
    config: Any = joined_config(T5Config(d_model=48))
    vars(config.encoder)["d_model"] = None
    with pytest.raises(ConfigError, match=r"'t5'.* hidden_size=None"):
        EncoderDecoderModel(config)


def test_a_config_of_another_architecture_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'bert'.* 'roberta-prelayernorm'"):
        EncoderDecoderModel(BertConfig())  # type: ignore[arg-type]  # what is tested


def test_other_names_are_refused(tmp_path: Path) -> None:
    reference_of(joined_config()).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save({"decoder.block.0.weight": torch.ones(2)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"decoder\.block\.0\.weight.* EncoderDecoderModel"):
        EncoderDecoderModel.from_pretrained(tmp_path)


def test_a_single_network_is_not_loaded_from_an_encoder_decoder(tmp_path: Path) -> None:
    reference_of(joined_config()).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"'encoder-decoder'.* 'roberta"):
        RobertaPreLayerNormForCausalLM.from_pretrained(tmp_path)


def test_a_hub_id_is_read_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--someone--summarizer"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "v1").write_text(commit)
    reference_of(joined_config(bert_config())).save_pretrained(repository / "snapshots" / commit)
    found = load_composition("someone/summarizer", revision="v1")
    assert (found.kind, found.config.name_or_path) == (FOREIGN_ENCODER, "someone/summarizer")
    model = EncoderDecoderModel.from_pretrained("someone/summarizer", revision="v1", config=found.config)
    assert model.enc_to_dec_proj is not None
