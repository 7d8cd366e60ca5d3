"""The marker of a repository, rpln-triton.json: its models, and the SHA-256 of the manifest that was written."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from rpln_runtime._version import __version__
from rpln_runtime.documents import read_document
from rpln_runtime.errors import InputError
from rpln_runtime.limits import MANIFEST
from rpln_runtime.triton.checks.model import Model
from rpln_runtime.triton.checks.problems import Problem
from rpln_runtime.triton.contents import WRITTEN, manifest_bytes, roles_of
from rpln_runtime.triton.names import Names
from rpln_runtime.triton.plan import RepositoryPlan
from rpln_runtime.triton.publishing import MARKER
from rpln_runtime.triton.writer import VERSION

_SERVED: Final = ("ensemble", "generator")
"""The roles of the model that clients ask, of which a repository has one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Marker:
    """What the marker of a repository says.

    Attributes:
        models: the roles of its models, by their names.
        manifest: the SHA-256 of the manifest of the bundle.
        source: the checkpoint, as in that manifest.
    """

    models: Mapping[str, str]
    manifest: str
    source: Any

    @property
    def names(self) -> Names:
        """The names of the models, by that of the one that clients ask."""
        return Names(next(name for name, role in self.models.items() if role in _SERVED))

    def tells_of(self, version: int, manifest: bytes) -> bool:
        """Return whether `manifest` is what was written for this version. It tells of no version that was added."""
        return str(version) == VERSION and hashlib.sha256(manifest).hexdigest() == self.manifest


def read_marker(repository: Path) -> Marker:
    """Return what the marker says. Raises ValueError for one that cannot be read, or that another version wrote."""
    if not (repository / MARKER).exists():
        raise ValueError("it is missing, so this is no repository of rpln triton: expected the folder that -o named")
    document: Any = read_document(repository / MARKER, MANIFEST)
    try:
        models = {Names(str(name)).served: str(role) for name, role in document["models"].items()}
        version, manifest = str(document["rpln_runtime"]), str(document.get("manifest"))
    except (InputError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"it is none that rpln triton wrote ({error})") from error
    if version != __version__:
        raise ValueError(f"rpln-runtime {version} wrote it, {__version__} is installed: the steps refuse to run")
    if document.get("manifest") is None:
        raise ValueError("an older rpln-runtime wrote it, without the SHA-256 of the manifest")
    roles = list(models.values())
    if not set(roles) <= WRITTEN.keys() or sum(map(roles.count, _SERVED)) != 1:
        raise ValueError(f"its models are {', '.join(roles)}: expected one of {' or '.join(_SERVED)}, and their steps")
    return Marker(models=models, manifest=manifest, source=document.get("source"))


def unlike_the_marker(
    marker: Marker, models: Sequence[Model], plans: Mapping[int, RepositoryPlan]
) -> Iterator[Problem]:
    """Yield the models that the marker should not have, and manifests that were not written."""
    roles, expected = sorted(marker.models.values()), roles_of(plans[max(plans)])
    if roles != sorted(expected):
        yield Problem(MARKER, f"models are {', '.join(roles)}: expected {', '.join(expected)}")
    written = plans.get(int(VERSION))
    if written is None:
        return
    if not marker.tells_of(int(VERSION), manifest_bytes(written.manifest)):
        for model in models:
            if int(VERSION) in model.manifests:
                where = f"{model.name}/{VERSION}/{model.manifest_path}"
                yield Problem(where, f"it is not the manifest that was written, by the SHA-256 in {MARKER}")
    elif marker.source != asdict(written.manifest.source):
        yield Problem(MARKER, "source is not the checkpoint that the manifest names")
