"""ORTModelForCausalLM loads a decoder's bundle as it is, and generates what transformers and the runtime generate.

Optimum counts positions from 0, as transformers' `generate` does. The class below counts them as the model's forward
pass does; docs/generation.md shows it.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from optimum.onnxruntime import ORTModelForCausalLM, ORTModelForSeq2SeqLM

from rpln_runtime import generator
from tests.export.conftest import Export
from tests.export.references import PAD, reference

PROMPTS = [[0, 40, 41, 42, 77, 90], [0, 33, 44], [0, 120]]
NEW = 20
OPTIONS = {"max_new_tokens": NEW, "do_sample": False, "eos_token_id": None, "pad_token_id": PAD}
TASK = "text-generation"

Exported = Callable[..., Export]


class ForwardPositions(ORTModelForCausalLM):  # type: ignore[misc] # optimum is not typed
    """A model that counts positions as training did: real tokens, from the row after that of padding."""

    def prepare_inputs_for_generation(self, input_ids: Any, attention_mask: Any = None, **kwargs: Any) -> Any:
        inputs = super().prepare_inputs_for_generation(input_ids, attention_mask=attention_mask, **kwargs)
        positions = attention_mask.cumsum(-1) * attention_mask + self.config.pad_token_id
        return inputs | {"position_ids": positions[:, -inputs["input_ids"].shape[1] :]}


def generated(model: Any, **options: Any) -> list[list[int]]:
    """Return what transformers' `generate` adds to the prompts, padded on the left, with any model."""
    width = max(map(len, PROMPTS))
    ids = torch.tensor([[PAD] * (width - len(prompt)) + prompt for prompt in PROMPTS])
    with torch.inference_mode():
        found = model.generate(ids, attention_mask=(ids != PAD).long(), **(OPTIONS | options))
    rows: list[list[int]] = found[:, width:].tolist()
    return rows


def ours(export: Export, **options: Any) -> list[list[int]]:
    generate = generator(export.folder, max_new_tokens=NEW, stop_token_ids=(), **options)
    return [row[0].tokens for row in generate.tokens(PROMPTS)]


@pytest.mark.parametrize("binding", [False, True], ids=["arrays", "io-binding"])
@pytest.mark.parametrize("beams", [1, 3])
def test_it_generates_what_transformers_does(exported: Exported, beams: int, *, binding: bool) -> None:
    export = exported("4.57", TASK, "fp32")
    model = ORTModelForCausalLM.from_pretrained(export.folder, use_io_binding=binding)
    assert (model.can_use_cache, model.use_io_binding) == (True, binding)
    expected = generated(reference(export.checkpoint, TASK), num_beams=beams)
    assert generated(model, num_beams=beams) == expected
    assert ours(export, positions="transformers-generate", num_beams=beams) == expected
    # Rows differ, and so do tokens within a row, so that no constant output passes.
    assert min(len(set(row)) for row in expected) > NEW / 3
    assert len(set(map(tuple, expected))) == len(PROMPTS)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_with_the_positions_of_forward_it_generates_what_the_runtime_does(exported: Exported, precision: str) -> None:
    export = exported("4.57", TASK, precision)
    found = generated(ForwardPositions.from_pretrained(export.folder))
    assert found == ours(export)
    assert found != generated(ORTModelForCausalLM.from_pretrained(export.folder))


@pytest.mark.parametrize(
    "options", [["--logits=all"], ["--variants=with-past,full"]], ids=["all-logits", "beside-full"]
)
def test_other_bundles_with_a_cache_load_too(exported: Exported, options: list[str]) -> None:
    export = exported("4.57", TASK, "fp32", *options)
    assert generated(ORTModelForCausalLM.from_pretrained(export.folder)) == generated(
        reference(export.checkpoint, TASK)
    )


def test_a_bundle_without_a_cache_loads_when_told_so(exported: Exported) -> None:
    export = exported("4.57", TASK, "fp32", "--variants=full")
    model = ORTModelForCausalLM.from_pretrained(export.folder, use_cache=False)
    # Without an input position_ids, the graph counts by itself, as the forward pass does.
    assert generated(model) == ours(exported("4.57", TASK, "fp32"))


def test_what_stops_an_encoder_decoder_is_what_the_documentation_says(exported: Exported) -> None:
    folder = exported("4.57", "text2text-generation", "fp32").folder
    with pytest.raises(FileNotFoundError, match=r"matching the pattern .*decoder"):
        ORTModelForSeq2SeqLM.from_pretrained(folder)
