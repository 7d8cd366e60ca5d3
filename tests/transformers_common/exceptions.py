"""EXCEPTIONS: tests that pass on transformers' classes and need not pass on ours, with the reasons.

`tests.transformers_common.run` fails for a test that is missing here, and for a row that is no longer needed.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Excepted:
    """Tests that need not pass on our classes."""

    tests: str
    """The name of a test, in which * stands for any text."""
    because: str
    lines: tuple[int, ...] = (4, 5)
    """The major versions of transformers whose tests these are."""


EXCEPTIONS: Final = (
    Excepted(
        tests="test_eager_matches_sdpa_inference*",
        because="Attention is always written out, so there is no sdpa to compare it with.",
    ),
    Excepted(
        tests="test_sdpa_can_dispatch_non_composite_models",
        because="Attention is always written out, so sdpa cannot be chosen.",
        lines=(5,),
    ),
    Excepted(
        tests="test_can_set_attention_dynamically*",
        because="Attention is always written out, so no other one can be set.",
        lines=(5,),
    ),
    Excepted(
        tests="test_capture_outputs_decorator",
        because="Layers return hidden states and attentions, because a trace has no hooks that could capture them.",
        lines=(5,),
    ),
    Excepted(
        tests="test_can_capture_specific_layers_hidden_states",
        because="The hidden states of all layers are returned, or none, as transformers 4.57 documents.",
        lines=(5,),
    ),
    Excepted(
        tests="test_model_weights_reload_no_missing_tied_weights",
        because="A checkpoint without a single weight of the model is refused; transformers loads random weights.",
    ),
)
