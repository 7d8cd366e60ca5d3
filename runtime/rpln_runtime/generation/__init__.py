"""Generating text: a decoder is run step by step, with a cache of keys and values that stays where its graph runs."""

from rpln_runtime.generation.generator import GeneratedText, Generator, generator
from rpln_runtime.generation.options import GenerationOptions
from rpln_runtime.generation.request import EncoderStates
from rpln_runtime.generation.sequences import Generated

__all__ = ["EncoderStates", "Generated", "GeneratedText", "GenerationOptions", "Generator", "generator"]
