"""Run bundles made by rpln-export, without torch.

Numpy in, numpy out: `load`. Text in, answers out: `pipeline`. Text in, more text out: `generator`.
"""

from rpln_runtime._version import __version__
from rpln_runtime.errors import InputError, ManifestError, MissingExtraError, ProviderError, RplnError
from rpln_runtime.generation import EncoderStates, Generated, GenerationOptions, Generator, generator
from rpln_runtime.pipelines import Pipeline, pipeline
from rpln_runtime.session import Session, load

__all__ = [
    "EncoderStates",
    "Generated",
    "GenerationOptions",
    "Generator",
    "InputError",
    "ManifestError",
    "MissingExtraError",
    "Pipeline",
    "ProviderError",
    "RplnError",
    "Session",
    "__version__",
    "generator",
    "load",
    "pipeline",
]
