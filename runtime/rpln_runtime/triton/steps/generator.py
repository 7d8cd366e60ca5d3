"""Texts in, more text out piece by piece: prompts that come at the same time grow in one batch."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from rpln_runtime.generation.generator import generator
from rpln_runtime.triton.request import options_from_text
from rpln_runtime.triton.steps.bundle import check_version

Send: TypeAlias = Callable[[int, int, str], None]
"""Takes a piece of text, after the place of its prompt and that of its sequence among the prompt's."""

BUNDLE = "bundle"
"""The folder of a version that holds the whole bundle."""


class GeneratorStep:
    """A bundle that generates."""

    def __init__(self, folder: Path, parameters: Mapping[str, str]) -> None:
        check_version(parameters)
        self._generate = generator(
            folder / BUNDLE,
            provider=parameters["provider"],
            batch_size=int(parameters["batch_size"]),
            **options_from_text(parameters["options"].encode()),
        )
        # The first run of a graph plans its memory, and compiles kernels on a GPU.
        self._generate("a", max_new_tokens=1)

    def __call__(self, texts: Sequence[str], options: Mapping[str, Any], send: Send) -> None:
        """Go on from each of `texts`. Raises InputError for options and texts that the bundle does not take."""
        if options.get("num_beams", self._generate.options.num_beams) == 1:
            self._generate(texts, callback=send, **options)
            return
        # Beams are known at the end alone.
        new_text = {"return_full_text": False} if self._generate.continues_prompts else {}
        for prompt, answers in enumerate(self._generate(texts, **{**options, **new_text})):
            for sequence, answer in enumerate(answers):
                send(prompt, sequence, answer["generated_text"])
