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
        because="Attention is always written out: there is no sdpa that could be compared with it.",
    ),
    Excepted(
        tests="test_sdpa_can_dispatch_non_composite_models",
        because="Attention is always written out: there is no sdpa to choose.",
        lines=(5,),
    ),
    Excepted(
        tests="test_can_set_attention_dynamically*",
        because="Attention is always written out: there is nothing to set.",
        lines=(5,),
    ),
    Excepted(
        tests="test_capture_outputs_decorator",
        because="Layers return hidden states and attentions; no decorator captures them by hooks, which a trace lacks.",
        lines=(5,),
    ),
    Excepted(
        tests="test_can_capture_specific_layers_hidden_states",
        because="Hidden states are returned of all layers or of none, as transformers 4.57 documents it.",
        lines=(5,),
    ),
    Excepted(
        tests="test_model_weights_reload_no_missing_tied_weights",
        because="A checkpoint without a single weight of the model is refused; transformers makes all of them random.",
    ),
)
