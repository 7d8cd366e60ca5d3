"""A bundle and the way it is opened, so that every process of a run opens the same."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rpln_runtime._version import __version__
from rpln_runtime.corpus.records import AnswerItems
from rpln_runtime.engines.providers import provider_row
from rpln_runtime.errors import InputError
from rpln_runtime.generation import Generator
from rpln_runtime.manifest import MANIFEST_NAME, read_manifest
from rpln_runtime.pipelines import Pipeline, pipeline
from rpln_runtime.postprocess.base import TEXT_FIELD, ItemField
from rpln_runtime.session import default_provider


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """The arguments of `rpln_runtime.pipeline`, which opens the bundle."""

    folder: Path
    provider: str | None = None
    threads: int | None = None
    batch_size: int | None = None
    verify: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)

    def open(self) -> tuple[AnswerItems, Sequence[ItemField]]:
        """Return the bundle's pipeline or generator, and the fields of its items. Raises what `pipeline` raises."""
        taken = {"folder", "provider", "threads", "batch_size", "verify"} & self.options.keys()
        if taken:
            raise InputError(
                f"{', '.join(sorted(taken))} cannot be an option of the task: pass it as an argument of its own."
            )
        opened: Pipeline | Generator = pipeline(
            self.folder,
            provider=self.provider,
            threads=self.threads,
            batch_size=self.batch_size,
            verify=self.verify,
            **self.options,
        )
        return opened, (TEXT_FIELD,) if isinstance(opened, Generator) else opened.postprocess.item_fields()

    @property
    def device(self) -> str:
        """The device of the provider that was chosen, by the caller or by the export."""
        provider = self.provider or default_provider(read_manifest(self.folder, verify=False))
        return provider_row(provider).device

    def identity(self) -> dict[str, Any]:
        """Return everything that the answers depend on, by name. The number of threads does not change them."""
        return {
            "bundle": hashlib.sha256((self.folder / MANIFEST_NAME).read_bytes()).hexdigest(),
            "provider": self.provider,
            "batch size": self.batch_size,
            "options": dict(self.options),
            "version of rpln-runtime": __version__,
        }
