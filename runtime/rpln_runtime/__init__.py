"""Run the bundles that rpln-export makes of RoBERTa-PreLayerNorm checkpoints, without torch.

- `load` opens a graph of a bundle: numpy arrays in, numpy arrays out.
- `pipeline` opens a bundle for its task: texts in, answers out.
- `generator` opens the bundle of a decoder: texts in, new text out.

Errors that a user can put right are subclasses of RplnError. Their messages say what happened, what was expected and
what to do next.
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
