"""Run bundles made by rpln-export: numpy in, numpy out (`load`), or text in, answers out (`pipeline`). No torch."""

from rpln_runtime._version import __version__
from rpln_runtime.errors import InputError, ManifestError, MissingExtraError, ProviderError, RplnError
from rpln_runtime.pipelines import Pipeline, pipeline
from rpln_runtime.session import Session, load

__all__ = [
    "InputError",
    "ManifestError",
    "MissingExtraError",
    "Pipeline",
    "ProviderError",
    "RplnError",
    "Session",
    "__version__",
    "load",
    "pipeline",
]
