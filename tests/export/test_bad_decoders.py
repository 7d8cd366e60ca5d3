"""What cannot be exported as a decoder gives one line that says what is wrong and what to do, and leaves nothing."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from rpln_export.cli import export_command
from tests.export.test_bad_input import BROKEN_CHECKPOINT, NOT_AS_ASKED, Spoil, edit_config, edit_weights, leave, write


def edit_decoder(**fields: Any) -> Spoil:
    """Return a function that sets fields of the decoder's part of an encoder-decoder's config.json."""

    def edit(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        edit_config(decoder=config["decoder"] | fields)(folder)

    return edit


@dataclass(frozen=True, kw_only=True)
class Bad:
    """A case: the task of the checkpoint, what is done to it, the options, and what the message must contain."""

    id: str
    of: str
    spoil: Spoil = leave
    options: tuple[str, ...] = ()
    code: int = NOT_AS_ASKED
    says: tuple[str, ...]


TABLE = (
    # No decoder, or one of another kind
    Bad(
        id="no-decoder",
        of="fill-mask",
        options=("--task", "text-generation"),
        says=("is no decoder", "is_decoder", "--is-decoder", "--task"),
    ),
    Bad(
        id="no-decoder-by-its-architecture",
        of="text-generation",
        spoil=edit_config(is_decoder=False),
        says=("is no decoder", "--is-decoder"),
    ),
    Bad(
        id="decoder-of-a-task-that-needs-none",
        of="fill-mask",
        options=("--is-decoder",),
        says=("--is-decoder", "fill-mask", "text-generation"),
    ),
    Bad(
        id="no-cross-attention",
        of="text-generation",
        options=("--task", "text2text-generation"),
        says=("without cross-attention", "--task text-generation", "add_cross_attention"),
    ),
    Bad(
        id="cross-attention-that-nothing-feeds",
        of="text-generation",
        spoil=edit_config(add_cross_attention=True),
        options=("--task", "text-generation"),
        says=("has cross-attention", "--task text2text-generation"),
    ),
    Bad(
        id="two-networks-for-a-task-of-one",
        of="text2text-generation",
        options=("--task", "text-generation"),
        says=("an encoder and a decoder", "--task text2text-generation"),
    ),
    Bad(
        id="two-networks-for-an-encoders-task",
        of="text2text-generation",
        options=("--task", "fill-mask"),
        says=("an encoder and a decoder", "--task text2text-generation"),
    ),
    # Variants, logits, inputs and outputs
    Bad(
        id="prefill-alone",
        of="text-generation",
        options=("--variants", "prefill"),
        says=("prefill is of no use without decode", "--variants prefill,decode"),
    ),
    Bad(
        id="decode-alone",
        of="text-generation",
        options=("--variants", "with-past,decode"),
        says=("decode is of no use without prefill", "--variants prefill,decode"),
    ),
    Bad(
        id="unknown-variant",
        of="text-generation",
        options=("--variants", "with_past"),
        says=("'with_past'", "with-past, full, prefill, decode"),
    ),
    Bad(
        id="graph-of-the-encoder-as-a-variant",
        of="text2text-generation",
        options=("--variants", "encoder"),
        says=("'encoder'", "with-past, full, prefill, decode"),
    ),
    Bad(
        id="variant-of-an-encoder",
        of="fill-mask",
        options=("--variants", "with-past"),
        says=("unknown variant of fill-mask 'with-past'", "full"),
    ),
    Bad(
        id="logits-of-an-encoder",
        of="fill-mask",
        options=("--logits", "last"),
        says=("unknown choice of logits 'last'", "all, masked, positions"),
    ),
    Bad(
        id="logits-of-a-tagger",
        of="token-classification",
        options=("--logits", "masked"),
        says=("--logits is an option of decoders and of fill-mask", "token-classification"),
    ),
    Bad(
        id="masks-among-embeddings",
        of="fill-mask",
        options=("--logits", "masked", "--inputs", "inputs_embeds"),
        says=("--logits masked finds mask tokens by their id", "--logits positions"),
    ),
    Bad(
        id="unknown-logits",
        of="text-generation",
        options=("--logits", "first"),
        says=("'first'", "last, all"),
    ),
    Bad(
        id="cross-attentions-of-one-network",
        of="text-generation",
        options=("--outputs", "cross_attentions"),
        says=("output of text-generation 'cross_attentions'", "hidden_states, attentions"),
    ),
    # Encoder and decoder that do not fit together
    Bad(
        id="decoder-of-another-architecture",
        of="text2text-generation",
        spoil=edit_decoder(model_type="roberta"),
        code=BROKEN_CHECKPOINT,
        says=("'roberta'", "'roberta-prelayernorm'", "decoder"),
    ),
    Bad(
        id="decoder-that-does-not-read-its-encoder",
        of="text2text-generation",
        spoil=edit_decoder(add_cross_attention=False),
        code=BROKEN_CHECKPOINT,
        says=("add_cross_attention=False", "expected True"),
    ),
    Bad(
        id="widths-that-contradict",
        of="text2text-generation",
        spoil=edit_decoder(cross_attention_hidden_size=48),
        code=BROKEN_CHECKPOINT,
        says=("cross_attention_hidden_size is 48", "hidden_size 32"),
    ),
    Bad(
        id="decoder-of-another-size-than-its-weights",
        of="text2text-generation",
        spoil=edit_decoder(hidden_size=64),
        code=BROKEN_CHECKPOINT,
        says=("do not fit the configuration", "decoder.roberta_prelayernorm.embeddings"),
    ),
    Bad(
        id="cross-attention-without-weights",
        of="text2text-generation",
        spoil=edit_weights(
            "decoder.roberta_prelayernorm.encoder.layer.0.crossattention.self.key.weight", lambda tensor: None
        ),
        code=BROKEN_CHECKPOINT,
        says=("incomplete", "encoder.layer.0.crossattention.self.key.weight"),
    ),
    # generation_config.json
    Bad(
        id="generation-config-is-no-json",
        of="text-generation",
        spoil=write("generation_config.json", b'{"eos_token_id": '),
        says=("generation_config.json", "not valid JSON", "remove it"),
    ),
    Bad(
        id="generation-config-is-not-utf-8",
        of="text-generation",
        spoil=write("generation_config.json", b"\xff\xfe{}"),
        says=("generation_config.json", "not valid JSON", "remove it"),
    ),
    Bad(
        id="generation-config-is-a-list",
        of="text-generation",
        spoil=write("generation_config.json", b"[1, 2]"),
        says=("generation_config.json", "object", "remove it"),
    ),
    Bad(
        id="token-that-is-no-id",
        of="text-generation",
        spoil=write("generation_config.json", b'{"eos_token_id": "</s>"}'),
        says=("eos_token_id", "'</s>'", "generation_config.json"),
    ),
    Bad(
        id="token-beyond-the-vocabulary",
        of="text-generation",
        spoil=write("generation_config.json", b'{"eos_token_id": [2, 300]}'),
        says=("eos_token_id", "300", "0 to 299", "generation_config.json"),
    ),
    Bad(
        id="negative-padding",
        of="text-generation",
        spoil=write("generation_config.json", b'{"pad_token_id": -1}'),
        says=("pad_token_id", "-1", "0 to 299", "generation_config.json"),
    ),
    Bad(
        id="generation-config-without-a-bottom",
        of="text-generation",
        spoil=write("generation_config.json", b'{"suppress_tokens": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
        says=("generation_config.json", "64 lists", "remove it"),
    ),
    *(
        Bad(
            id=f"generation-config-{name}-{value}",
            of="text-generation",
            spoil=write("generation_config.json", json.dumps({name: value}).encode()),
            says=(name, expected, "Correct it", "generation_config.json"),
        )
        for name, value, expected in (
            ("num_beams", "four", "an integer, 1 or more"),
            ("num_beams", True, "an integer, 1 or more"),
            ("do_sample", 1, "True or False"),
            ("temperature", -1.0, "0.0001 to 10000"),
            ("top_k", 10**30, f"0 to {2**63 - 1}"),
            ("no_repeat_ngram_size", -2, "an integer, 0 or more"),
            ("bad_words_ids", [[5], []], "an empty list"),
            ("bad_words_ids", [5], "a list of token ids"),
            ("suppress_tokens", [300], "0 to 299"),
            ("begin_suppress_tokens", "none", "a list of token ids"),
            ("forced_bos_token_id", [5], "an integer, 0 or more"),
            ("forced_eos_token_id", [300], "0 to 299"),
            ("early_stopping", [], "True, False or 'never'"),
            ("num_return_sequences", 3, "num_beams is 1"),
            ("stop_strings", {"a": 1}, "a text or a list of texts"),
        )
    ),
    Bad(
        id="generation-config-that-transformers-refuses",
        of="text-generation",
        spoil=write("generation_config.json", b'{"cache_implementation": "in the cloud"}'),
        code=BROKEN_CHECKPOINT,
        says=("generation_config.json", "in the cloud", "transformers refuses"),
    ),
)


@pytest.mark.parametrize("bad", TABLE, ids=lambda bad: bad.id)
def test_it_is_refused_before_the_trace_and_nothing_is_left(
    checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: Bad
) -> None:
    source = tmp_path / "checkpoint"
    shutil.copytree(checkpoint(bad.of), source)
    bad.spoil(source)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(home)
    monkeypatch.setattr("rpln_export.pipeline.trace_model", no_trace)
    result = CliRunner().invoke(export_command, [str(source), "-o", "out", *bad.options])
    assert result.exit_code == bad.code, result.output
    assert result.stderr.startswith("Error: ")
    assert [part for part in bad.says if part not in result.stderr] == []
    assert result.stdout == ""
    assert list(home.iterdir()) == []


def no_trace(*_: object, **__: object) -> None:
    pytest.fail("the export began to trace before it refused the input")
