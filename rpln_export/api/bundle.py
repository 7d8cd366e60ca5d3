"""The bundle that an export returns, or that is opened from its folder: run it, prove it again, upload it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rpln_runtime import Generator, Session, generator, load, pipeline
from rpln_runtime.described import Described
from rpln_runtime.manifest import Manifest, read_manifest
from rpln_runtime.options import path_from_value

if TYPE_CHECKING:
    from rpln_export.bench import BenchReport
    from rpln_export.bundle.report import Report
    from rpln_export.steps import Watcher
    from rpln_export.validation.proof import Proof


@dataclass(frozen=True, kw_only=True, repr=False)
class Bundle(Described):
    """A bundle in a folder, which `export` returns and `Bundle.open` opens.

    Attributes:
        path: the folder.
        manifest: the description of the bundle, as it was when the bundle was exported or opened.
    """

    path: Path
    manifest: Manifest
    _report: "Report | None" = field(default=None, compare=False)

    @classmethod
    def open(cls, folder: str | Path, *, verify: bool = True) -> "Bundle":
        """Return the bundle in `folder`.

        Without `verify`, the SHA-256 of its files is not compared with the manifest. Raises ManifestError for a folder
        that is not a complete bundle of this version.
        """
        path = path_from_value("folder", folder)
        return cls(path=path, manifest=read_manifest(path, verify=verify))

    @property
    def report(self) -> "Report":
        """The report of the export; of a bundle that was opened, as report.json holds it.

        Raises ReportError where that is missing or cannot be read.
        """
        from rpln_export.bundle.reading import report_from_folder

        return self._report or report_from_folder(self.path)

    def pipeline(self, **options: Any) -> Any:
        """Open the bundle for texts, as `rpln_runtime.pipeline` does with these options."""
        return pipeline(self.path, **options)

    def generator(self, **options: Any) -> Generator:
        """Open the bundle of a decoder for texts, as `rpln_runtime.generator` does with these options."""
        return generator(self.path, **options)

    def session(self, **options: Any) -> Session:
        """Open a graph of the bundle for numpy arrays, as `rpln_runtime.load` does with these options."""
        return load(self.path, **options)

    def validate(
        self,
        checkpoint: str | Path | None = None,
        *,
        revision: str | None = None,
        progress: "bool | Watcher" = True,
    ) -> "Proof":
        """Prove once more that the bundle equals the checkpoint that it was made from, and return the proof.

        Args:
            checkpoint: the checkpoint. None means the one that the manifest names, if it is embedded, in the current
                folder, beside the bundle or in the hub's cache.
            revision: the branch, tag or commit of a hub id.
            progress: as in `export`.

        Raises PlanError if the checkpoint is not found, and ValidationError for another checkpoint than the bundle's
        and for a graph that differs.
        """
        from rpln_export.api.progress import watching
        from rpln_export.validation.revalidate import revalidate

        named = None if checkpoint is None else str(checkpoint)
        with watching(progress=progress) as watcher:
            return revalidate(self.path, named, watcher, revision=revision)

    def bench(self, *others: "Bundle | str | Path", progress: "bool | Watcher" = True, **options: Any) -> "BenchReport":
        """Measure how fast the bundle is beside `others` and eager torch.

        The other options are those of `rpln_export.bench.measure`, which does it, and so are the errors. `progress` is
        as in `export`.
        """
        from rpln_export.api.progress import watching
        from rpln_export.bench import measure

        folders = [self.path, *(other.path if isinstance(other, Bundle) else other for other in others)]
        with watching(progress=progress) as watcher:
            return measure(folders, watcher=watcher, **options)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | None = None,
        revision: str | None = None,
        commit_message: str | None = None,
    ) -> str:
        """Upload the bundle to the Hugging Face hub, as `rpln_export.push_to_hub` does, and return its address."""
        from rpln_export.api.hub import push_to_hub

        return push_to_hub(
            self,
            repo_id,
            private=private,
            token=token,
            revision=revision,
            commit_message=commit_message,
        )

    def described(self) -> dict[str, str]:
        """Return what a person wants to know of the bundle first."""
        return {"folder": str(self.path), **self.manifest.described()}
