"""Generates text for prompts that arrive together, in one batch and piece by piece."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from rpln_runtime.generation.generator import generator
from rpln_runtime.request_limits import MOST_IN_GENERATION, check_request_options, check_sequences
from rpln_runtime.triton.request import options_from_text
from rpln_runtime.triton.steps.bundle import check_version, number_parameter

Send: TypeAlias = Callable[[int, int, str], None]
"""A function (prompt, sequence, piece): the place of the prompt, of the sequence among the prompt's, and new text."""

BUNDLE = "bundle"
"""The folder of the whole bundle within the folder of a version."""


class GeneratorStep:
    """Generates text with the bundle in a version folder."""

    def __init__(self, folder: Path, parameters: Mapping[str, str]) -> None:
        check_version(parameters)
        self._batch_size = number_parameter(parameters, "batch_size")
        self._generate = generator(
            folder / BUNDLE,
            provider=parameters["provider"],
            batch_size=self._batch_size,
            **options_from_text(parameters["options"].encode()),
        )
        # The first run of a graph plans memory and compiles kernels on a GPU, for which no client should wait.
        self._generate("a", max_new_tokens=1)

    def __call__(self, texts: Sequence[str], options: Mapping[str, Any], send: Send) -> None:
        """Generate text after each of `texts`.

        Raises InputError for options that ask for too much, and for options or texts that the bundle does not take.
        """
        check_request_options(options, MOST_IN_GENERATION)
        check_sequences(options, self._batch_size)
        if options.get("num_beams", self._generate.options.num_beams) == 1:
            self._generate(texts, callback=send, **options)
            return
        # Beam search knows its answers only at the end.
        new_text = {"return_full_text": False} if self._generate.continues_prompts else {}
        for prompt, answers in enumerate(self._generate(texts, **{**options, **new_text})):
            for sequence, answer in enumerate(answers):
                send(prompt, sequence, answer["generated_text"])
