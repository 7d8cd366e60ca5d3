"""transformers' ModelTesterMixin on every architecture, with the classes of the package that RPLN_CLASSES_OF names.

`tests.transformers_common.run` collects this file twice: with `transformers`, and with `rpln_model`.
"""

import importlib
import os
import unittest
from typing import Any

from transformers_tests.test_modeling_common import ModelTesterMixin

from rpln_model import HEADS
from tests.transformers_common.tester import ENCODER_DECODER, NetworkTester

CLASSES: Any = importlib.import_module(os.environ["RPLN_CLASSES_OF"])


def suite_of(architecture: str) -> type[unittest.TestCase]:
    """Return the common tests of an architecture, as a class that pytest collects under the architecture's name."""

    def set_up(self: Any) -> None:
        self.model_tester = NetworkTester(architecture)

    content = {
        "all_model_classes": (getattr(CLASSES, architecture),),
        "is_encoder_decoder": architecture == ENCODER_DECODER,
        "_is_composite": architecture == ENCODER_DECODER,
        "setUp": set_up,
    }
    return type(architecture, (ModelTesterMixin, unittest.TestCase), content)


for _architecture in HEADS:
    globals()[f"Test{_architecture}"] = suite_of(_architecture)
