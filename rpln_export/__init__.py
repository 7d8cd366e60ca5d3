"""Export RoBERTa-PreLayerNorm checkpoints to ONNX, and deploy them.

- `export` turns a checkpoint into a bundle, proven equal to eager PyTorch.
- `Bundle.open` opens a bundle that is there already.
- `push_to_hub` uploads a bundle to the Hugging Face hub.

Importing `export` is quick: torch is imported when it is called. RplnError and RplnModelError are the bases of all
errors. The latter imports torch.
"""

import importlib
from typing import TYPE_CHECKING, Final

from rpln_export._version import __version__

if TYPE_CHECKING:
    from rpln_export.api.bundle import Bundle
    from rpln_export.api.exporting import export
    from rpln_export.api.hub import push_to_hub
    from rpln_export.errors import DestinationError, HubError, PlanError, QuantizationError, ValidationError
    from rpln_model.errors import RplnModelError
    from rpln_runtime.errors import RplnError

__all__ = [
    "Bundle",
    "DestinationError",
    "HubError",
    "PlanError",
    "QuantizationError",
    "RplnError",
    "RplnModelError",
    "ValidationError",
    "__version__",
    "export",
    "push_to_hub",
]

_MODULES: Final = {
    "Bundle": "rpln_export.api.bundle",
    "DestinationError": "rpln_export.errors",
    "HubError": "rpln_export.errors",
    "PlanError": "rpln_export.errors",
    "QuantizationError": "rpln_export.errors",
    "RplnError": "rpln_runtime.errors",
    "RplnModelError": "rpln_model.errors",
    "ValidationError": "rpln_export.errors",
    "export": "rpln_export.api.exporting",
    "push_to_hub": "rpln_export.api.hub",
}
"""The module of each public name, which is imported when the name is first used."""

if not TYPE_CHECKING:  # type checkers would take any name for one that __getattr__ knows

    def __getattr__(name: str) -> object:
        """Return the public name `name` from its module. Raises AttributeError for any other name."""
        if name not in _MODULES:
            raise AttributeError(
                f"module 'rpln_export' has no attribute {name!r}: expected one of {', '.join(__all__)}"
            )
        return getattr(importlib.import_module(_MODULES[name]), name)

    def __dir__() -> list[str]:
        """Return the public names, for completion."""
        return sorted({*globals(), *__all__})
